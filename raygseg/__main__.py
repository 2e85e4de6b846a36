"""`python -m raygseg`: the command line."""

import sys

from raygseg.cli.app import main

if __name__ == "__main__":
    sys.exit(main())
