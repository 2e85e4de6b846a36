"""Score a few-shot network on classes that it has not seen: `python jobs/episodes.py configs/panet/episodes.yaml`.

The same call as `raygseg episodes`; runs from a checkout that is not installed, as `ray job submit` uploads it.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from raygseg.cli.app import main

if __name__ == "__main__":
    sys.exit(main(["episodes", *sys.argv[1:]]))
