"""Statistics of a network's features of real and generated pictures, in this process or by Ray actors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from raygseg.data import object_store
from raygseg.data.sources import open_pictures
from raygseg.metrics.distributions import Features, FeatureStatistics
from raygseg.nn.backbones.pooled import PooledFeatures
from raygseg.pipelines import kinds

if TYPE_CHECKING:
    from raygseg.interfaces import Generator

BATCH_PIXELS = 1 << 19
KEPT = 10_000  # rows of each side that KID, precision and recall are computed from
IN_PROCESS_PICTURES = 1000  # up to here starting a cluster costs more than it saves
FIRST_SEED = 0


@dataclass(frozen=True)
class Look:
    """How pictures become features, in any process."""

    weights: str
    side: int
    precision: Literal["fp32", "bf16"]
    device: str

    def network(self) -> PooledFeatures:
        return PooledFeatures(self.weights, self.side, self.precision).eval().to(self.torch_device())

    def torch_device(self) -> str:
        """cpu or cuda."""
        import torch

        return ("cuda" if torch.cuda.is_available() else "cpu") if self.device == "auto" else self.device

    def batches(self, resolution: int, first: int, count: int) -> list[range]:
        """Rows in groups that fit a forward pass."""
        size = max(1, BATCH_PIXELS // max(resolution, self.side) ** 2)
        return [range(i, min(i + size, first + count)) for i in range(first, first + count, size)]


@dataclass(frozen=True)
class RealPictures:
    """Makes, in any process, the function that gives features of real pictures by row."""

    look: Look
    source: str
    resolution: int
    limit: int

    def __call__(self) -> Callable[[int, int], Features]:
        import torch

        network = self.look.network()
        pictures = open_pictures(self.source, self.resolution, limit=self.limit)

        def features(first: int, count: int) -> Features:
            parts = []
            for rows in self.look.batches(self.resolution, first, count):
                batch = torch.from_numpy(np.stack([pictures.read(row) for row in rows])).to(self.look.torch_device())
                parts.append(network(batch.permute(0, 3, 1, 2).float() / 127.5 - 1).cpu().numpy())
            return np.concatenate(parts)

        return features


@dataclass(frozen=True)
class FakePictures:
    """Makes, in any process, the function that gives features of generated pictures by seed."""

    look: Look
    generator: str
    truncation_psi: float

    def __call__(self) -> Callable[[int, int], Features]:
        import torch

        network = self.look.network()
        generator: Generator = kinds.load_generator(self.generator, device=self.look.torch_device())

        def features(first: int, count: int) -> Features:
            parts = []
            for rows in self.look.batches(generator.resolution, FIRST_SEED + first, count):
                with torch.no_grad():
                    images = generator.render(generator.latents(rows, self.truncation_psi), rows).images
                    # Rounded as a file would be: real pictures have 256 levels too.
                    levels = ((images.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1
                    parts.append(network(levels).cpu().numpy())
            return np.concatenate(parts)

        return features


def statistics_of(
    make: RealPictures | FakePictures,
    count: int,
    actors: int,
    progress: Callable[[int, int], None] | None,
    kept: str = "",
) -> FeatureStatistics:
    """Of `count` pictures, by `actors`: -1 for none, 0 for as many as are worth it; written to `kept`."""
    from raygseg.distributed import features

    if actors < 0 or (actors == 0 and count <= IN_PROCESS_PICTURES):
        found = features.statistics_here(make(), count, KEPT, progress)
    else:
        from raygseg.distributed.actor_pool import ActorPool

        device = make.look.device if make.look.device in ("cpu", "cuda") else "auto"
        pool = ActorPool.on(device, actors)  # type: ignore[arg-type]
        found = features.statistics_on_ray(make, count, KEPT, pool, progress)
    if kept:
        object_store.write_bytes(kept, features.statistics_to_bytes(found))
    return found


def read_statistics(place: str) -> FeatureStatistics | None:
    """What was kept there; None where nothing was, or only a part."""
    from zipfile import BadZipFile

    from raygseg.distributed.features import statistics_from_bytes

    if not place or not object_store.exists(place):
        return None
    try:
        return statistics_from_bytes(object_store.read_bytes(place))
    except (ValueError, KeyError, BadZipFile, EOFError):
        return None
