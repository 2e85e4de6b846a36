"""PANet's network: one encoder for support and query, prototypes by masked means, cosine (spec 1.2-1.4).

Nothing after the encoder is learnt. Features can be kept per picture, and what they are pooled to per picture and
mask: the network is in pieces, `classify` puts them together.
"""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from raygseg.bundle import Bundle
from raygseg.errors import CheckpointError, ConfigError
from raygseg.methods.panet.self_prototypes import self_supported_scores
from raygseg.nn.backbones.catalogue import weights_place
from raygseg.nn.backbones.resnet50_stride8 import ResNet50Stride8, load_resnet50_stride8
from raygseg.nn.backbones.vgg16_stride8 import VGG16Stride8, load_vgg16_stride8
from raygseg.nn.masked_prototypes import class_prototypes, cosine_scores, enlarge_scores, masked_average
from raygseg.nn.stored_weights import fit_weights
from raygseg.nn.tensor_cache import TensorCache

KIND = "few-shot"
METHOD = "panet"
SCALES = {"vgg16": 20.0, "resnet50": 10.0}  # of the cosine, as published for each
Precision = Literal["fp32", "bf16"]


class Encoder(Protocol):
    """A network of pictures to signed maps; also an `nn.Module`. `parts`: from the picture on."""

    title: str
    channels: int
    stride: int
    precision: Precision

    @property
    def parts(self) -> list[nn.Module]: ...

    def __call__(self, images: Tensor) -> Tensor: ...

    def front(self, images: Tensor, parts: int) -> Tensor:
        """Pictures through the first `parts`."""
        ...

    def back(self, x: Tensor, parts: int) -> Tensor:
        """What `front` gave through the rest."""
        ...


class FrontCache:
    """What the first parts of encoders make of pictures, for training the rest and for networks that share them.

    Those parts must not change any more. A map is always made of its picture alone, so that it does not depend on
    which others were at hand.

    Args:
        limit: bytes.
    """

    def __init__(self, limit: int) -> None:
        self.maps = TensorCache(limit)
        self._digests: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()

    def features(self, encoder: Any, images: Tensor) -> Tensor:
        """As `encoder(images)` without a gradient, all but the last part from the cache."""
        parts = len(encoder.parts) - 1
        with torch.no_grad():
            maps: Tensor = encoder.back(self.front(encoder, images, parts), parts).to(images.dtype)
        return maps

    @torch.no_grad()
    def front(self, encoder: Any, images: Tensor, parts: int) -> Tensor:
        """As `encoder.front(images, parts)`; `parts` is the same in every call for an encoder."""
        if encoder not in self._digests:
            self._digests[encoder] = _digest(
                encoder.precision, *(p for part in encoder.parts[:parts] for p in part.parameters())
            )
        mine = self._digests[encoder]
        rows = [
            self.maps.get((mine, _digest("", image)), partial(encoder.front, image[None], parts)) for image in images
        ]
        return torch.cat(rows)


def _digest(word: str, *tensors: Tensor) -> str:
    digest = hashlib.blake2b(word.encode(), digest_size=16)
    for tensor in tensors:
        digest.update(str(tuple(tensor.shape)).encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


class PrototypeNetwork(nn.Module):
    """Segments queries by the classes of a few labelled pictures.

    Sizes: B episodes, W ways, K shots, Q queries; pictures of one call share their size, support and
    query may differ.

    Args:
        name: vgg16 or resnet50.
        encoder: see `Encoder`.
        scale: alpha on the cosine; 0: as published for the encoder.
        self_prototypes: SSP's second pass where nothing is trained.
    """

    def __init__(self, name: str, encoder: nn.Module, scale: float = 0.0, self_prototypes: bool = False) -> None:
        super().__init__()
        self.name, self.scale, self.self_prototypes = name, scale or SCALES[name], self_prototypes
        self.encoder: Any = encoder
        self.align_corners = name == "resnet50"  # as the code that each was published with
        self.fronts: FrontCache | None = None

    @property
    def build(self) -> dict[str, Any]:
        """What `blank_network(**build)` rebuilds it from; JSON values only."""
        return {"encoder": self.name, "scale": self.scale, "self_prototypes": self.self_prototypes}

    @property
    def device(self) -> torch.device:
        device: torch.device = next(self.encoder.parameters()).device
        return device

    def features(self, images: Tensor) -> Tensor:
        """[N, 3, H, W] in [-1, 1] -> [N, C, h, w]; a picture's map depends on that picture only."""
        maps: Tensor = self.encoder(images) if self.fronts is None else self.fronts.features(self.encoder, images)
        return maps

    def pool(self, features: Tensor, masks: Tensor) -> Tensor:
        """Masked mean of the enlarged maps: [..., C, h, w], [..., H, W] -> [..., C]; zeros for an empty mask."""
        return masked_average(features, masks, self.align_corners)

    def prototypes(self, fore: Tensor, back: Tensor) -> Tensor:
        """Pooled vectors [B, W, K, C] twice -> [B, 1 + W, C], row 0 the one background."""
        return class_prototypes(fore, back)

    def scores(self, query_features: Tensor, prototypes: Tensor) -> Tensor:
        """[B, Q, C, h, w], [B, 1 + W, C] -> scores [B, Q, 1 + W, h, w] within +- `scale`, SSP's pass included."""
        if self.self_prototypes and not self.training:
            return self_supported_scores(query_features, prototypes, self.scale)
        return cosine_scores(query_features, prototypes, self.scale)

    def enlarge(self, scores: Tensor, size: tuple[int, int]) -> Tensor:
        """[..., 1 + W, h, w] -> [..., 1 + W, H, W], bilinear."""
        return enlarge_scores(scores, size, self.align_corners)

    def classify(
        self, support_features: Tensor, fore: Tensor, back: Tensor, query_features: Tensor, size: tuple[int, int]
    ) -> Tensor:
        """Logits [B, Q, 1 + W, H, W] of the queries, channel 0 the background.

        Args:
            support_features: [B, W, K, C, h, w].
            fore, back: [B, W, K, H, W] pixels of way w; pixels of none of the episode's ways. What is in
                neither (void, another way, not marked) counts nowhere.
            query_features: [B, Q, C, h', w'].
            size: (H, W) of the answer.
        """
        prototypes = self.prototypes(self.pool(support_features, fore), self.pool(support_features, back))
        return self.enlarge(self.scores(query_features, prototypes), size)

    # --- bundles ---------------------------------------------------------------------------------

    def to_bundle(self, resolution: int, config: Mapping[str, Any] | None = None, **facts: Any) -> Bundle:
        """The network as a bundle; it segments once it is given a support set."""
        build = {"method": METHOD, **self.build, "resolution": resolution}
        told = {"encoder": self.encoder.title, **facts}
        return Bundle(KIND, build, self.state_dict(), None, config or {}, told)


def signed(pictures: Tensor) -> Tensor:
    """uint8 to floats in [-1, 1]."""
    return pictures.float() / 127.5 - 1


# --- making and finding networks -----------------------------------------------------------------


def blank_network(
    encoder: str, scale: float = 0.0, self_prototypes: bool = False, precision: Precision = "fp32"
) -> PrototypeNetwork:
    """An untrained network. ConfigError for an encoder that is not known."""
    if encoder not in SCALES:
        raise ConfigError(f"there is no encoder '{encoder}' for PANet", f"use one of: {', '.join(SCALES)}")
    made = VGG16Stride8(precision) if encoder == "vgg16" else ResNet50Stride8(precision)
    return PrototypeNetwork(encoder, made, scale, self_prototypes)


def pretrained_network(
    encoder: str = "vgg16",
    weights: str | Path = "",
    scale: float = 0.0,
    self_prototypes: bool = False,
    precision: Precision = "fp32",
) -> PrototypeNetwork:
    """A network with an encoder from its weights file, in evaluation mode: PANet before any training.

    Args:
        weights: safetensors file; empty: in RAYGSEG_DATA (VGG-16 only).

    Raises:
        ConfigError: an unknown encoder, or a ResNet-50 without a file.
        MissingEnvironmentError, CheckpointError: weights that are not there or not those; names the file.
    """
    if encoder not in SCALES:
        raise ConfigError(f"there is no encoder '{encoder}' for PANet", f"use one of: {', '.join(SCALES)}")
    made: nn.Module
    if encoder == "vgg16":
        made = load_vgg16_stride8(weights_place(encoder, weights), precision)
    elif not str(weights):
        raise ConfigError("network.weights: the ResNet-50 encoder needs a file", "name a safetensors file")
    else:
        made = load_resnet50_stride8(weights, precision)
    return PrototypeNetwork(encoder, made, scale, self_prototypes).eval()


def network_from(bundle: Bundle, device: torch.device | str = "cpu") -> PrototypeNetwork:
    """The trained network of a bundle, in evaluation mode.

    Raises CheckpointError where the bundle is of another kind or its weights do not fit.
    """
    if bundle.kind != KIND or bundle.build.get("method") != METHOD:
        raise CheckpointError(f"the bundle is a {bundle.kind}, not a few-shot network", "name one of `train panet`")
    arguments = {key: bundle.build[key] for key in ("encoder", "scale", "self_prototypes")}
    network = blank_network(**arguments)
    fit_weights(network, bundle.tensors, "network")
    return network.eval().requires_grad_(False).to(device)
