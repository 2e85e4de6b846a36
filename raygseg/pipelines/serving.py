"""The loader of registered models: `mlflow.pyfunc.load_model` calls `_load_pyfunc` here, never code from an artifact.

What each kind takes and gives is stated in `tracking.signatures`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import yaml
from numpy.typing import ArrayLike, NDArray

from raygseg.bundle import CONFIG, verify_bundle
from raygseg.errors import CheckpointError, DataError
from raygseg.interfaces import Generator, PairSampler, Segmenter
from raygseg.labels import LabelSpace

if TYPE_CHECKING:
    from torch import Tensor

    from raygseg.methods.panet.network import PrototypeNetwork

BATCH = 16
VOID = 255
FEW_SHOT_INPUTS = ("support_pictures", "support_maps", "pictures")
Parameters = Mapping[str, Any] | None


class ServedModel(Protocol):
    """What MLflow asks of a loaded model."""

    def predict(self, model_input: Any, params: Parameters = None) -> Any: ...


class ServedSegmenter:
    """uint8 pictures [N, H, W, 3] -> uint8 label maps [N, H, W]."""

    def __init__(self, segmenter: Segmenter) -> None:
        self.segmenter = segmenter

    def predict(self, model_input: ArrayLike, params: Parameters = None) -> Any:
        """Label maps; with `confidence` in params a dict of `label_map` and `confidence`, both uint8 [N, H, W].

        Raises DataError unless the pictures are uint8 [N, H, W, 3].
        """
        pictures = np.asarray(model_input)
        if pictures.dtype != np.uint8 or pictures.ndim != 4 or pictures.shape[3] != 3:
            raise DataError(
                f"pictures must be uint8 [N, H, W, 3], not {pictures.dtype} {list(pictures.shape)}",
                "give RGB pictures of one size as one array; for mixed sizes use raygseg.load_segmenter",
            )
        answers = [a for part in _batches(list(pictures)) for a in self.segmenter.predict(part)]
        empty = np.zeros((0, *pictures.shape[1:3]), np.uint8)
        maps = np.stack([a.label_map for a in answers]) if answers else empty
        if not (params or {}).get("confidence", False):
            return maps
        return {"label_map": maps, "confidence": np.stack([a.confidence for a in answers]) if answers else empty}


class ServedFewShot:
    """Support pictures with label maps and query pictures -> label maps of the queries.

    The support's features are kept until another support comes.
    """

    def __init__(self, network: PrototypeNetwork, resolution: int) -> None:
        self.network, self.resolution = network, resolution
        self._kept: tuple[str, Segmenter] | None = None

    def predict(self, model_input: Mapping[str, ArrayLike], params: Parameters = None) -> Any:
        """uint8 label maps [N, H, W] of `pictures`; with `confidence` in params as of `ServedSegmenter`.

        Args:
            model_input: support_pictures uint8 [S, h, w, 3], support_maps uint8 [S, h, w] (0 background, 1.. the
                classes, 255 not labelled), pictures uint8 [N, H, W, 3].

        Raises DataError for arrays of other shapes, or a support that shows nothing.
        """
        missing = [name for name in FEW_SHOT_INPUTS if name not in model_input]
        if missing:
            raise DataError(f"no array '{missing[0]}'", f"give a dict of {', '.join(FEW_SHOT_INPUTS)}")
        support, maps, pictures = (np.asarray(model_input[name]) for name in FEW_SHOT_INPUTS)
        if support.dtype != np.uint8 or maps.dtype != np.uint8 or maps.shape != support.shape[:3]:
            raise DataError(
                f"support_pictures {support.dtype} {list(support.shape)}, support_maps {maps.dtype} {list(maps.shape)}",
                "give uint8 [S, h, w, 3] and uint8 [S, h, w]",
            )
        return ServedSegmenter(self._segmenter(support, maps)).predict(pictures, params)

    def _segmenter(self, support: NDArray[np.uint8], maps: NDArray[np.uint8]) -> Segmenter:
        from raygseg.methods.panet.segmenter import with_support

        key = hashlib.sha256(repr(support.shape).encode() + support.tobytes() + maps.tobytes()).hexdigest()
        if self._kept is None or self._kept[0] != key:
            known = maps[maps != VOID]
            names = ("background", *(f"class {i + 1}" for i in range(int(known.max(initial=0)))))
            labels = LabelSpace(names, void=VOID)
            made = with_support(self.network, list(zip(support, maps, strict=True)), labels, self.resolution)
            self._kept = key, made
        return self._kept[1]


class ServedSampler:
    """int64 seeds [N] -> `image` uint8 [N, R, R, 3], `mask` uint8 [N, R, R], `score` float32 [N]."""

    def __init__(self, sampler: PairSampler) -> None:
        self.sampler = sampler

    def predict(self, model_input: ArrayLike, params: Parameters = None) -> dict[str, NDArray[Any]]:
        """Pairs of the seeds; a row depends on its seed only. Raises DataError unless the seeds are integers [N]."""
        seeds = _seeds(model_input)
        side = self.sampler.resolution
        images = [np.zeros((0, side, side, 3), np.uint8)]
        masks = [np.zeros((0, side, side), np.uint8)]
        scores = [np.zeros(0, np.float32)]
        for part in _batches(seeds):
            pairs = self.sampler.sample(part)
            images.append(pairs.images.permute(0, 2, 3, 1).cpu().numpy())
            masks.append(pairs.probabilities.argmax(1).cpu().numpy().astype(np.uint8))
            scores.append(pairs.scores.cpu().numpy().astype(np.float32))
        return {"image": np.concatenate(images), "mask": np.concatenate(masks), "score": np.concatenate(scores)}


class ServedGenerator:
    """int64 seeds [N] -> uint8 pictures [N, R, R, 3]."""

    def __init__(self, generator: Generator) -> None:
        self.generator = generator

    def predict(self, model_input: ArrayLike, params: Parameters = None) -> NDArray[np.uint8]:
        """Pictures of the seeds under `truncation_psi` from params (1: none)."""
        import torch

        psi = float((params or {}).get("truncation_psi", 1.0))
        side = self.generator.resolution
        pictures = [np.zeros((0, side, side, 3), np.uint8)]
        with torch.no_grad():
            for part in _batches(_seeds(model_input)):
                images = self.generator.render(self.generator.latents(part, psi), noise_seeds=part).images
                pictures.append(_to_bytes(images))
        return np.concatenate(pictures)


def _load_pyfunc(data_path: str, model_config: Mapping[str, Any] | None = None) -> ServedModel:
    """The served model of the bundle folder `data_path`, whose checksums are verified first.

    Raises CheckpointError naming a file that is damaged, or a kind that cannot be served.
    """
    from raygseg.pipelines import kinds

    verify_bundle(data_path)
    file = Path(data_path) / CONFIG
    kind = (yaml.safe_load(file.read_text()) or {}).get("kind")
    if kind == "segmenter":
        return ServedSegmenter(kinds.load_segmenter(data_path))
    if kind == "few-shot":
        return ServedFewShot(*kinds.load_few_shot(data_path))
    if kind == "sampler":
        return ServedSampler(kinds.load_sampler(data_path))
    if kind == "generator":
        return ServedGenerator(kinds.load_generator(data_path))
    raise CheckpointError(
        f"{file}: kind '{kind}' cannot be served", "serve a segmenter, few-shot network, sampler or generator"
    )


def _seeds(model_input: ArrayLike) -> list[int]:
    seeds = np.asarray(model_input)
    if seeds.ndim != 1 or not np.issubdtype(seeds.dtype, np.integer):
        raise DataError(f"seeds must be integers [N], not {seeds.dtype} {list(seeds.shape)}", "give np.arange(8)")
    return [int(seed) for seed in seeds]


def _batches(items: Sequence[Any]) -> list[Sequence[Any]]:
    return [items[first : first + BATCH] for first in range(0, len(items), BATCH)]


def _to_bytes(images: Tensor) -> NDArray[np.uint8]:
    """[N, 3, R, R] in [-1, 1] to uint8 [N, R, R, 3]."""
    import torch

    scaled = (images.float() * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8)
    return np.asarray(scaled.permute(0, 2, 3, 1).cpu().numpy(), dtype=np.uint8)
