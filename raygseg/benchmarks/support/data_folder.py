"""Where the sets of real pictures are."""

from __future__ import annotations

import os
from pathlib import Path

from raygseg.errors import MissingEnvironmentError


def data_folder(given: str, part: str) -> Path:
    """`given`, else RAYGSEG_DATA. Raises MissingEnvironmentError where it has no folder `part`."""
    place = given or os.environ.get("RAYGSEG_DATA", "")
    if not place or not Path(place, part).is_dir():
        raise MissingEnvironmentError(
            f"there is no folder '{part}' in '{place}'",
            f"set RAYGSEG_DATA or data= to the folder that holds {part}/ and weights/",
        )
    return Path(place).absolute()
