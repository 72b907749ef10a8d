"""`dsd-evaluate`: finished folders of the other stages -> summary.json, table.md, measures.png, report.html."""

from dsd.evaluate.settings import EvaluateSettings
from dsd.runs.command import command

main = command("evaluate", EvaluateSettings, "dsd.evaluate.stage:run")

if __name__ == "__main__":
    main()
