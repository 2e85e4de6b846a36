"""Write labelled pairs: `python jobs/generate.py configs/toy/generate.yaml num_pairs=20000`.

The same call as `raygseg generate`; runs from a checkout that is not installed, as `ray job submit` uploads it.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from raygseg.cli.app import main

if __name__ == "__main__":
    sys.exit(main(["generate", *sys.argv[1:]]))
