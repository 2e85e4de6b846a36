"""What a registered model takes and gives, by bundle kind, and what must be installed to load it.

    segmenter   uint8 pictures [N, H, W, 3] -> uint8 label maps [N, H, W]; with params={"confidence": True} a
                dict of `label_map` and `confidence` (uint8, 255 times the chosen class's probability)
    few-shot    dict of `support_pictures` uint8 [S, h, w, 3], `support_maps` uint8 [S, h, w] (0 background, 1.. the
                classes, 255 not labelled) and `pictures` uint8 [N, H, W, 3] -> label maps as of a segmenter
    sampler     int64 seeds [N] -> dict of `image` uint8 [N, R, R, 3], `mask` uint8 [N, R, R], `score` float32 [N]
    generator   int64 seeds [N] -> uint8 pictures [N, R, R, 3]; params={"truncation_psi": 0.7}

Input tensors stay unnamed: a named one makes MLflow demand a dict where an array is meant.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

import numpy as np

from raygseg import __version__
from raygseg.errors import RegistryError

if TYPE_CHECKING:
    from mlflow.models import ModelSignature

KINDS = ("segmenter", "few-shot", "sampler", "generator")
_REQUIRED = ("numpy", "torch", "safetensors", "PyYAML", "pydantic", "Pillow")


def signature(kind: str) -> ModelSignature:
    """MLflow's signature for a bundle kind. Raises RegistryError for a kind that cannot be served."""
    from mlflow.models import ModelSignature
    from mlflow.types import DataType, ParamSchema, ParamSpec, Schema, TensorSpec

    byte, seeds = np.dtype("uint8"), Schema([TensorSpec(np.dtype("int64"), (-1,))])
    pictures = Schema([TensorSpec(byte, (-1, -1, -1, 3))])
    if kind == "segmenter":
        maps = Schema([TensorSpec(byte, (-1, -1, -1))])
        return ModelSignature(pictures, maps, ParamSchema([ParamSpec("confidence", DataType.boolean, False)]))
    if kind == "few-shot":
        asked = [
            TensorSpec(byte, (-1, -1, -1, 3), "support_pictures"),
            TensorSpec(byte, (-1, -1, -1), "support_maps"),
            TensorSpec(byte, (-1, -1, -1, 3), "pictures"),
        ]
        maps = Schema([TensorSpec(byte, (-1, -1, -1))])
        return ModelSignature(Schema(asked), maps, ParamSchema([ParamSpec("confidence", DataType.boolean, False)]))
    if kind == "sampler":
        pairs = [
            TensorSpec(byte, (-1, -1, -1, 3), "image"),
            TensorSpec(byte, (-1, -1, -1), "mask"),
            TensorSpec(np.dtype("float32"), (-1,), "score"),
        ]
        return ModelSignature(seeds, Schema(pairs))
    if kind == "generator":
        return ModelSignature(seeds, pictures, ParamSchema([ParamSpec("truncation_psi", DataType.double, 1.0)]))
    raise RegistryError(f"a bundle of kind '{kind}' cannot be registered", f"register one of {', '.join(KINDS)}")


def requirements() -> list[str]:
    """Pinned packages that loading needs, at the versions installed here (without build tags such as +cpu)."""
    pins = [f"raygseg=={__version__}"]
    for package in _REQUIRED:
        try:
            pins.append(f"{package}=={version(package).split('+')[0]}")
        except PackageNotFoundError:  # loaded from elsewhere than an installed package: nothing to pin
            continue
    return pins
