"""Segment pictures: `python jobs/segment.py models:/NAME@champion photos/ --output parts`.

The same call as `raygseg segment`; runs from a checkout that is not installed, as `ray job submit` uploads it.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from raygseg.cli.app import main

if __name__ == "__main__":
    sys.exit(main(["segment", *sys.argv[1:]]))
