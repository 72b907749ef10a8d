"""`dsd-label`: serve the page."""

from dsd.curation.label.settings import LabelSettings
from dsd.runs.command import command

main = command("label", LabelSettings, "dsd.curation.label.server:run")

if __name__ == "__main__":
    main()
