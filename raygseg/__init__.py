"""raygseg: part segmentation from ten labels, on Ray.

Nothing heavy is imported until it is used: `import raygseg` loads neither torch nor ray nor mlflow.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raygseg.errors import RaygsegError
    from raygseg.labels import LabelSpace
    from raygseg.pipelines.kinds import load_generator, load_sampler, load_segmenter

__version__ = "0.1.0"
__all__ = ["LabelSpace", "RaygsegError", "__version__", "load_generator", "load_sampler", "load_segmenter"]

_HOMES = {
    "LabelSpace": "raygseg.labels",
    "RaygsegError": "raygseg.errors",
    "load_generator": "raygseg.pipelines.kinds",
    "load_sampler": "raygseg.pipelines.kinds",
    "load_segmenter": "raygseg.pipelines.kinds",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'raygseg' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
