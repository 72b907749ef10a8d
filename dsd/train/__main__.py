"""`dsd-train`: train a student on pairs."""

from dsd.runs.command import command
from dsd.train.settings import TrainSettings

main = command("train", TrainSettings, "dsd.train.stage:run")

if __name__ == "__main__":
    main()
