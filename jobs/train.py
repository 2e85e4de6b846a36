"""Train what the configuration's kind says: `python jobs/train.py configs/toy/gan.yaml runtime.workers=2`.

The same call as `raygseg train`; runs from a checkout that is not installed, as `ray job submit` uploads it.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from raygseg.cli.app import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
