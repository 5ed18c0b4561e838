"""`python -m proactor`: the command line, as the `proactor` command."""

import sys

from proactor.cli import main

if __name__ == "__main__":
    sys.exit(main())
