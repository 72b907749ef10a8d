"""The console scripts dsd-export and dsd-publish."""

from dsd.publish.settings import ExportSettings, PublishSettings
from dsd.runs.command import command

export = command("export", ExportSettings, "dsd.publish.export:run")
publish = command("publish", PublishSettings, "dsd.publish.stage:run")
