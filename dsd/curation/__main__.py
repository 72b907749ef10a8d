"""`dsd-curate`: grids -> judged pairs."""

from dsd.curation.settings import CurationSettings
from dsd.runs.command import command

main = command("curation", CurationSettings, "dsd.curation.stage:run")

if __name__ == "__main__":
    main()
