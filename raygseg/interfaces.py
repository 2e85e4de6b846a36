"""The few shapes that everything in raygseg agrees on.

Two interfaces hold the product together. `generate` knows only `PairSampler`; `segment`, `evaluate`
and the registry know only `Segmenter`. Training knows only `Recipe`, a list of `Phase`s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from raygseg.labels import LabelSpace
from raygseg.seeding import derive_seed

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

Picture = NDArray[np.uint8]  # [H, W, 3] RGB


# --- sampling pairs ------------------------------------------------------------------------------


class Pairs(NamedTuple):
    """A batch of pictures with their label distributions.

    images: [N, 3, R, R] uint8. probabilities: [N, K, R, R] float32, sums to 1 over K.
    scores: [N] float32, higher is less certain (Jensen-Shannon of the ensemble; 0 where there is none).
    """

    images: Tensor
    probabilities: Tensor
    scores: Tensor


@runtime_checkable
class PairSampler(Protocol):
    """Makes labelled pictures out of seeds: row `seed` is the same wherever it is made."""

    labels: LabelSpace
    resolution: int

    def sample(self, seeds: Sequence[int]) -> Pairs: ...


# --- segmenting ----------------------------------------------------------------------------------


class Segmentation(NamedTuple):
    """One picture's answer at its own size: label_map [H, W] uint8; confidence [H, W] uint8,
    255 times the probability of the chosen class.

    refused: the segmenter holds the picture for none of its kind; all of it is background, with confidence 0.
    """

    label_map: NDArray[np.uint8]
    confidence: NDArray[np.uint8]
    refused: bool = False


@runtime_checkable
class Segmenter(Protocol):
    """Label maps for pictures of any size."""

    labels: LabelSpace
    resolution: int

    def predict(self, pictures: Sequence[Picture]) -> list[Segmentation]:
        """One `Segmentation` a picture, at the picture's own size, in order."""
        ...

    def probabilities(self, images: Tensor) -> Tensor:
        """[N, 3, R, R] in [-1, 1] at the network's resolution -> [N, K, R, R] probabilities."""
        ...


# --- generators whose features can be read -------------------------------------------------------


class FeatureLayer(NamedTuple):
    """A tap in a generator: maps of [N, channels, resolution, resolution]."""

    name: str
    channels: int
    resolution: int


class Rendering(NamedTuple):
    """images: [N, 3, R, R] in [-1, 1] (not clamped); features: the asked layers' maps by name.

    label_logits: [N, C, R, R] of a generator with a label branch, about +-1 (C = 1 for two classes); else None.
    """

    images: Tensor
    features: dict[str, Tensor]
    label_logits: Tensor | None = None


@runtime_checkable
class Generator(Protocol):
    """What label heads, sampling and projection need of an image generator (any nn.Module)."""

    resolution: int
    num_ws: int
    w_dim: int
    feature_layers: tuple[FeatureLayer, ...]

    def latents(self, seeds: Sequence[int], truncation_psi: float = 1.0) -> Tensor:
        """[N, num_ws, w_dim]; row i depends on seeds[i] only."""
        ...

    def render(self, ws: Tensor, noise_seeds: Sequence[int] | None = None, layers: Sequence[str] = ()) -> Rendering:
        """Picture and features from the same forward pass.

        `noise_seeds`: one seed a row for the per-layer noise; None uses the constant noise buffers.
        `layers`: names from `feature_layers` whose maps are wanted.
        """
        ...


@runtime_checkable
class NoisyGenerator(Generator, Protocol):
    """A `Generator` whose per-layer noise can also be given as maps, as latent projection finds them.

    Maps are in units of their spread: about standard normal.
    """

    def fixed_noise(self) -> list[Tensor]:
        """The constant noise, [1, 1, r, r] a noise input, in layer order."""
        ...

    def render(
        self,
        ws: Tensor,
        noise_seeds: Sequence[int] | None = None,
        layers: Sequence[str] = (),
        noise: Mapping[int, Tensor] | None = None,
    ) -> Rendering:
        """As `Generator.render`; `noise`: maps [N, 1, r, r] by the place of their input in `fixed_noise`.

        Inputs that are not named have the constant noise. Differentiable in the maps.
        """
        ...


# --- training ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Draws:
    """The random draws of one micro-batch, all a function of (seed, step, micro)."""

    seed: int
    step: int
    micro: int

    def rng(self, purpose: str, device: str = "cpu") -> torch.Generator:
        """Generator for the named draw of this micro-batch.

        A GPU's generator draws other numbers than the CPU's from the same seed, the same on every GPU. It is for
        what is large, such as noise maps: drawn on the CPU those would keep a GPU waiting.
        """
        import torch

        return torch.Generator(device).manual_seed(derive_seed(self.seed, purpose, self.step, self.micro))


@dataclass(frozen=True)
class MicroBatch:
    """What a phase's loss sees: tensors of the data stream and its seeded draws.

    nimg is the number of pictures seen before this step (all workers).
    """

    data: Mapping[str, Tensor]
    draws: Draws
    nimg: int


class PhaseLoss(NamedTuple):
    """A scalar to minimise, and detached statistics that are averaged over micro-batches and workers."""

    loss: Tensor
    statistics: Mapping[str, Tensor]


@dataclass
class Phase:
    """One optimiser step of a training iteration, run every `interval` steps (first at step 0).

    The loss is already multiplied for lazy regularisation by whoever built the phase (spec A8).
    """

    name: str
    modules: Sequence[nn.Module]
    optimiser: torch.optim.Optimizer
    loss: Callable[[MicroBatch], PhaseLoss]
    interval: int = 1
    parameters: list[nn.Parameter] = field(init=False)

    def __post_init__(self) -> None:
        self.parameters = [p for module in self.modules for p in module.parameters()]


class Recipe(Protocol):
    """A trainable method. The engine drives it and knows nothing else about it.

    batch_size: pictures a step over all workers; micro_batch: pictures a forward pass. The number
    of micro-batches a step, batch_size / micro_batch, is shared out over the workers.
    """

    name: str
    seed: int
    batch_size: int
    micro_batch: int
    total_images: int

    @property
    def phases(self) -> Sequence[Phase]:
        """In the order in which a step runs them."""
        ...

    def modules(self) -> Mapping[str, nn.Module]:
        """All trained or tracked networks, by name; broadcast once at the start."""
        ...

    def end_step(self, step: int, nimg: int, statistics: Mapping[str, Tensor]) -> None:
        """After all phases: EMA, running means, controllers, from the averaged statistics."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides the next step: networks, optimisers, running means, controllers.

        A tree of dicts and lists whose leaves are tensors or JSON values.
        """
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...

    def progress(self) -> Mapping[str, float]:
        """Numbers for the status line besides the averaged statistics (augmentation p, ...)."""
        ...


class Stream(Protocol):
    """Training data as a function of position: the cursor is `nimg`, so resuming needs no state."""

    def micro_batch(self, first: int, count: int) -> Mapping[str, Tensor]:
        """The pictures number first .. first + count - 1 of the endless, shuffled sequence."""
        ...
