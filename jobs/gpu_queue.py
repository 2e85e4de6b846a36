"""Work that waits for a GPU: `python jobs/gpu_queue.py list`.

No verb of `raygseg`: it also runs where little besides torch is installed.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from raygseg.benchmarks.gpu_queue.command import main

if __name__ == "__main__":
    sys.exit(main())
