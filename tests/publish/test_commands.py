"""Help and refusals of the commands that are no stages come at once, without torch."""

import subprocess
import sys

import pytest

COMMANDS = {
    "dsd-export": "dsd.publish.commands:export",
    "dsd-publish": "dsd.publish.commands:publish",
    "dsd-label": "dsd.curation.label.__main__:main",
}
SCRIPT = """
import sys
from importlib import import_module

module, function = sys.argv.pop(1).split(":")
try:
    getattr(import_module(module), function)()
finally:
    print(sorted({"torch", "diffusers", "datasets", "transformers"} & set(sys.modules)))
"""


@pytest.mark.process
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(("argument", "code", "words"), [("--help", 0, "Examples:"), ("no_key=1", 2, "unknown key")])
def test_it_answers_without_torch(command, argument, code, words) -> None:
    asked = [sys.executable, "-c", SCRIPT, COMMANDS[command], argument]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert words in done.stdout + done.stderr
    assert command in done.stdout + done.stderr
    assert done.stdout.endswith("[]\n")
