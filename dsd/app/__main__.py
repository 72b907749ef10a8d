"""`dsd-app`: a web page on which pictures are drawn, with a model that stays loaded."""

from dsd.app.settings import AppSettings
from dsd.runs.command import command

main = command("app", AppSettings, "dsd.app.server:run")

if __name__ == "__main__":
    main()
