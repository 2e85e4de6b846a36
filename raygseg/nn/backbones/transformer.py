"""Patch tokens of a transformers vision model as feature maps (ViT, DINOv2, DINOv3 and their like).

The model is a folder that `save_pretrained` wrote, on this machine: nothing is fetched, only
safetensors are read and no code that lies beside them is run. Needs the extra `transformers`.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raygseg.errors import CheckpointError, ConfigError, MissingEnvironmentError
from raygseg.interfaces import FeatureLayer

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
DEFAULT_TAPS = 4  # layers, evenly spaced, the last among them


class TransformerFeatures(nn.Module):
    """Maps `layer1` .. `layerL` of a picture in [-1, 1]: the patch tokens after that layer, on the patches' grid.

    Pictures whose sides the patch size does not divide are resized to the nearest that it divides. Tokens
    before those of the patches (class, registers) are left out.

    Args:
        model: a vision transformer with `config.patch_size` whose tokens end with the patches'.
        title: what outputs call it.
        resolution: picture size that `feature_layers` states the map sizes for.
        precision: bf16 runs it in bfloat16.
        mean, std: the normalisation that the model was trained with, for pictures in 0..1.
        layers: the layers that `feature_layers` offers, in their order; empty: four evenly spaced.
    """

    def __init__(
        self,
        model: nn.Module,
        title: str,
        resolution: int = 224,
        precision: Literal["fp32", "bf16"] = "fp32",
        mean: Sequence[float] = IMAGENET[0],
        std: Sequence[float] = IMAGENET[1],
        layers: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.model, self.title, self.precision = model, title, precision
        settings: Any = model.config
        self.patch = _single(settings.patch_size)
        grid, count = max(1, round(resolution / self.patch)), int(settings.num_hidden_layers)
        self.feature_layers = tuple(
            FeatureLayer(f"layer{i}", int(settings.hidden_size), grid) for i in _taps(layers, count)
        )
        # Where the positions are those of one picture size, ViT has to be told to interpolate them.
        accepts = inspect.signature(model.forward).parameters
        self.options = {"interpolate_pos_encoding": True} if "interpolate_pos_encoding" in accepts else {}
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor, layers: Sequence[str] = ()) -> dict[str, Tensor]:
        """[N, 3, H, W] in [-1, 1] -> maps [N, C, H / patch, W / patch] by layer."""
        wanted = tuple(layers) or tuple(layer.name for layer in self.feature_layers)
        rows, columns = (max(1, round(size / self.patch)) for size in images.shape[-2:])
        size = (rows * self.patch, columns * self.patch)
        if images.shape[-2:] != size:
            images = F.interpolate(images, size, mode="bilinear", antialias=True)
        x = ((images + 1) / 2 - self.mean) / self.std
        with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16"):
            states = self.model(pixel_values=x, output_hidden_states=True, **self.options).hidden_states
        return {name: _on_grid(states[_number(name)], rows, columns) for name in wanted}


def _on_grid(tokens: Tensor, rows: int, columns: int) -> Tensor:
    """[N, extra + rows * columns, C] -> [N, C, rows, columns]."""
    assert tokens.shape[1] >= rows * columns, "fewer tokens than patches"
    patches: Tensor = tokens[:, -rows * columns :].transpose(1, 2).unflatten(2, (rows, columns))
    return patches.contiguous()


def _single(size: Any) -> int:
    return int(size[0] if isinstance(size, (list, tuple)) else size)


def _number(layer: str) -> int:
    digits = layer.removeprefix("layer")
    return int(digits) if digits.isdigit() else -1


def _taps(layers: Sequence[str], count: int) -> list[int]:
    """Numbers of the offered layers, 1 to `count`. ConfigError for a name that is none of them."""
    if not layers:
        spaced = min(DEFAULT_TAPS, count)
        return [count * (i + 1) // spaced for i in range(spaced)]
    for name in layers:
        if not 1 <= _number(name) <= count:
            raise ConfigError(f"head.layers: the model has no layer '{name}'", f"use layer1 to layer{count}")
    return sorted({_number(name) for name in layers})


def load_transformer(
    path: str | Path,
    resolution: int = 224,
    precision: Literal["fp32", "bf16"] = "fp32",
    layers: Sequence[str] = (),
) -> TransformerFeatures:
    """Read the model folder `path` into a frozen network.

    Raises:
        MissingEnvironmentError: the folder is not there, or the package transformers is not installed.
        CheckpointError: the folder does not hold a vision model as safetensors; names it.
    """
    folder = Path(path)
    if not (folder / CONFIG).is_file():
        raise MissingEnvironmentError(
            f"{folder}: no transformers model is there (no {CONFIG})",
            "name a folder that `save_pretrained` wrote, with backbone.weights",
        )
    if not any(folder.glob("*.safetensors")):
        raise CheckpointError(
            f"{folder}: no weights as safetensors", "save the model again with safe_serialization; pickles are not read"
        )
    try:
        from transformers import AutoModel
    except ImportError as error:
        raise MissingEnvironmentError(
            "the package transformers is not installed", "pip install 'raygseg[transformers]'"
        ) from error
    try:
        model = AutoModel.from_pretrained(
            str(folder), local_files_only=True, use_safetensors=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(f"{folder}: cannot be read ({reason})", "check the folder, or save it again") from error
    if not hasattr(model.config, "patch_size") or not hasattr(model.config, "num_hidden_layers"):
        raise CheckpointError(
            f"{folder}: {model.config.model_type} is not a vision transformer with patches", "use e.g. ViT or DINOv2"
        )
    mean, std = _normalisation(folder)
    title = f"transformers {model.config.model_type}"
    network = TransformerFeatures(model, title, resolution, precision, mean, std, layers)
    return network.eval().requires_grad_(False)


def _normalisation(folder: Path) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and deviation from preprocessor_config.json; ImageNet's where it does not say."""
    file = folder / PREPROCESSOR
    if not file.is_file():
        return IMAGENET
    try:
        raw = json.loads(file.read_text())
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{file}: not JSON", "mend or remove the file") from error
    return raw.get("image_mean", IMAGENET[0]), raw.get("image_std", IMAGENET[1])
