"""`python cluster/lab up`: see command.py."""

import sys
from pathlib import Path

# In place of this folder, whose modules shall not stand beside the standard library's.
sys.path[0] = str(Path(__file__).resolve().parents[2])
from cluster.lab.command import main

if __name__ == "__main__":
    sys.exit(main())
