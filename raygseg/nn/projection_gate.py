"""The gate: which projections may be trusted (RepurposeGAN spec 1.6).

A generator projects anything to something. What it cannot draw is told by how far the projection stays from
the photo; how far is still usual is measured on the generator's own pictures, projected under the same plan.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from raygseg.errors import CheckpointError, ConfigError
from raygseg.interfaces import Generator
from raygseg.nn.projection import Projection, ProjectionPlan

QUANTILE = 0.95
FIRST_SEED = 1_000_000  # of the calibration pictures, away from seeds that people label or generate
SMALLEST = 1e-6

# What may be measured of a projection; [N], higher is worse.
STATISTICS: dict[str, Callable[[Projection], Tensor]] = {
    "distance": lambda found: found.distances,
    "squared error": lambda found: found.squared_errors,
    "anchor": lambda found: found.anchors,
    # What is left of the distance that the mean picture has: blank or noisy photos are not judged by their texture.
    "relative distance": lambda found: found.distances / found.start_distances.clamp_min(SMALLEST),
}


@dataclass(frozen=True)
class Gate:
    """Refuses projections whose statistic is above the threshold.

    Attributes:
        statistic: a key of STATISTICS. threshold: largest value that is accepted.
        features: the network whose distance it holds for. plan: under which it was calibrated.
        samples: how many projected pictures of the generator it is from. quantile: share of those it accepts.
    """

    statistic: str
    threshold: float
    features: str
    plan: ProjectionPlan
    samples: int = 0
    quantile: float = QUANTILE

    def values(self, found: Projection) -> Tensor:
        """[N]: the statistic of each picture."""
        return STATISTICS[self.statistic](found)

    def accepts(self, value: float) -> bool:
        """Whether a picture with this value of the statistic is one of the generator's kind. NaN is not."""
        return value <= self.threshold

    def judge(self, found: Projection) -> list[bool]:
        """`accepts` of each picture."""
        return [self.accepts(value) for value in self.values(found).tolist()]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any], where: str = "gate") -> Gate:
        """Undo `to_dict`. CheckpointError naming `where`."""
        try:
            gate = cls(**{**raw, "plan": ProjectionPlan(**raw["plan"])})
        except (KeyError, TypeError) as error:
            raise CheckpointError(f"{where}: not a gate ({error})", "calibrate it again") from error
        if gate.statistic not in STATISTICS:
            raise CheckpointError(f"{where}: statistic '{gate.statistic}' is not known", f"use {list(STATISTICS)}")
        return gate


def calibrated(
    found: Projection, plan: ProjectionPlan, features: str, statistic: str = "distance", quantile: float = QUANTILE,
    slack: float = 1.0,
) -> Gate:  # fmt: skip
    """The gate that accepts the share `quantile` of projected pictures of the generator itself.

    slack: factor on that threshold, for a generator that draws true pictures of its kind less well than its own;
    to be chosen on validation photos.

    Raises ConfigError for an unknown statistic or without a projection.
    """
    if statistic not in STATISTICS:
        raise ConfigError(f"statistic '{statistic}' is not known", f"use one of {list(STATISTICS)}")
    if len(found) == 0:
        raise ConfigError("a gate cannot be calibrated on no pictures", "give at least 20")
    threshold = slack * float(torch.quantile(STATISTICS[statistic](found).double(), quantile))
    return Gate(statistic, threshold, features, plan, len(found), quantile)


def own_pictures(generator: Generator, seeds: Sequence[int], truncation_psi: float = 1.0) -> Tensor:
    """[N, 3, R, R] pictures to calibrate on, clamped as a photo is; each with noise of its own, which a
    projection that starts from the constant noise does not know either."""
    with torch.no_grad():
        return torch.cat([generator.render(generator.latents([s], truncation_psi), [s]).images for s in seeds]).clamp(
            -1, 1
        )
