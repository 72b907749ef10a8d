"""`dsd-data-gen`: prompts -> grids."""

from dsd.data_gen.settings import DataGenSettings
from dsd.runs.command import command

main = command("data_gen", DataGenSettings, "dsd.data_gen.stage:run")

if __name__ == "__main__":
    main()
