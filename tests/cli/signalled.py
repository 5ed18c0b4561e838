"""Runs the command as `python -m proactor` does, and has it hear the test's signals (see signalling.py): signalled.py PORT ARGUMENTS."""

import runpy
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))

import signalling

signalling.hear(int(sys.argv.pop(1)))
runpy.run_module("proactor", run_name="__main__", alter_sys=True)
