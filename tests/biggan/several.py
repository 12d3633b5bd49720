"""Runs of a command, one after the other, in a process of their own."""

import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent.parent
# Each of them alone would take seconds to start. Prints what each ends with.
_PROGRAM = """
import importlib, json, sys
from absl import flags
from absl.testing import flagsaver

module = importlib.import_module(sys.argv[1])
for arguments in json.loads(sys.argv[2]):
    with flagsaver.flagsaver():
        flags.FLAGS([sys.argv[1], *arguments])
        try:
            module.main([sys.argv[1]])
            print("done")
        except SystemExit as end:
            print(end.code)
        except Exception as error:
            print(repr(error))
"""


def run_several(module, *commands):
    """Lines that the commands print: what they did, and what they ended with; and what went to stderr.

    module: the command's. commands: flags of each.
    """
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, module, json.dumps(commands)],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines(), done.stderr
