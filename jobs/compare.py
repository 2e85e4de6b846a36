"""Find out which route serves k labels: `python jobs/compare.py configs/compare/toy.yaml`.

The same call as `raygseg compare`; runs from a checkout that is not installed, as `ray job submit` uploads it.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from raygseg.cli.app import main

if __name__ == "__main__":
    sys.exit(main(["compare", *sys.argv[1:]]))
