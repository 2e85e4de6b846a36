"""Label heads on hypercolumns: linear, MLP and CNN-S/M/L, each as an ensemble (spec 1.4, 3.1, 5.3).

Every architecture begins with a linear 1x1 layer, so that the hypercolumn is never built. Members of
an ensemble share one pass over the features: their projections are the rows of one matrix, and the
layers after it are grouped convolutions with a group a member.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from raygseg.config.sections import HeadNetwork
from raygseg.errors import ConfigError
from raygseg.interfaces import FeatureLayer
from raygseg.methods.repurposegan.uncertainty import jensen_shannon
from raygseg.nn.hypercolumn import FusedHypercolumn

LARGEST_STACK = 512
LEAKY_SLOPE = 0.2
MANY_CLASSES = 32  # from here on the MLP's second layer is wider (spec 3.1)
BATCH_NORM = "norm"

# Dilations of the 3x3 layers after the 1x1 projection; receptive fields 13, 29 and 61 (spec 1.4).
DILATIONS = {"cnn-s": (2, 1, 2, 1), "cnn-m": (2, 4, 1, 2, 4, 1), "cnn-l": (2, 4, 8, 1, 2, 4, 8, 1)}


class MeasuredBatchNorm(nn.BatchNorm2d):
    """Batch norm whose running statistics are measured on purpose, not collected in passing.

    While training it uses the batch and records nothing: what a worker happened to see would
    otherwise make the workers' copies differ. Afterwards `measuring = True` and passes over the
    labelled samples fill the statistics from the final weights (cumulative mean).
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, momentum=None)
        self.measuring = False

    def forward(self, input: Tensor) -> Tensor:
        if self.training and not self.measuring:
            return functional.batch_norm(input, None, None, self.weight, self.bias, True, 0.0, self.eps)
        out: Tensor = super().forward(input)
        return out


@dataclass(frozen=True)
class HeadPlan:
    """Layers after the projection, a member each: channels from the projection to K, and what joins them."""

    channels: tuple[int, ...]
    dilations: tuple[int, ...]
    kernel: int
    norm: bool
    slope: float


def plan_head(architecture: str, dim: int, num_classes: int) -> HeadPlan:
    """The layer widths of an architecture. `dim` is the projection's width; linear projects to K at once."""
    if architecture == "linear":
        return HeadPlan((num_classes,), (), 1, norm=False, slope=1.0)
    if architecture == "mlp":
        hidden = 32 if num_classes < MANY_CLASSES else 128
        return HeadPlan((dim, hidden, num_classes), (1, 1), 1, norm=True, slope=0.0)
    dilations = DILATIONS[architecture]
    middle = [dim // 2] * (len(dilations) - 2)
    return HeadPlan((dim, *middle, dim // 4, num_classes), dilations, 3, norm=False, slope=LEAKY_SLOPE)


class Opinion(NamedTuple):
    """What a head says: probabilities [N, K, R, R] (soft vote) and js [N, R, R], the members' disagreement."""

    probabilities: Tensor
    js: Tensor


class LabelHead(nn.Module):
    """Feature maps by name -> logits of every member, [N, M, K, R, R].

    Args:
        architecture: linear, mlp, cnn-s, cnn-m or cnn-l.
        layers: the generator's taps to read.
        num_classes: K.
        resolution: the stack's grid R.
        members: M.
        projection_dim: channels d that the hypercolumn is projected to, a member.
        corners: how maps are enlarged to the grid (`nn.hypercolumn.resize_map`).
    """

    def __init__(
        self,
        architecture: str,
        layers: Sequence[FeatureLayer],
        num_classes: int,
        resolution: int,
        members: int = 1,
        projection_dim: int = 128,
        corners: bool = True,
    ) -> None:
        super().__init__()
        self.architecture, self.num_classes, self.members = architecture, num_classes, members
        self.projection_dim, self.resolution = projection_dim, resolution
        self.layers = tuple(FeatureLayer(*layer) for layer in layers)
        self.plan = plan_head(architecture, projection_dim, num_classes)
        self.project = FusedHypercolumn(self.layers, members * self.plan.channels[0], resolution, corners)
        self.body = _grouped_body(self.plan, members)

    @property
    def layer_names(self) -> list[str]:
        return [layer.name for layer in self.layers]

    @property
    def build(self) -> dict[str, Any]:
        """Keyword arguments that rebuild the head; JSON values only."""
        return {
            "architecture": self.architecture,
            "layers": [list(layer) for layer in self.layers],
            "num_classes": self.num_classes,
            "resolution": self.resolution,
            "members": self.members,
            "projection_dim": self.projection_dim,
            "corners": self.project.corners,
        }

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        logits: Tensor = self.body(self.project(features))
        return logits.view(len(logits), self.members, self.num_classes, *logits.shape[-2:])

    def predict(self, features: Mapping[str, Tensor]) -> Opinion:
        """Soft vote and Jensen-Shannon disagreement, in float32 whatever the features' precision."""
        members = self(features).float().softmax(dim=2)
        return Opinion(members.mean(1), jensen_shannon(members))

    @torch.no_grad()
    def measure_norms(self, batches: Iterable[Mapping[str, Tensor]]) -> None:
        """Fill batch-norm statistics from feature batches and the present weights; leaves the head in eval mode."""
        norms = [module for module in self.modules() if isinstance(module, MeasuredBatchNorm)]
        self.train()
        for norm in norms:
            norm.reset_running_stats()
            norm.measuring = True
        if norms:
            for features in batches:
                self(features)
        for norm in norms:
            norm.measuring = False
        self.eval()


def _grouped_body(plan: HeadPlan, members: int) -> nn.Sequential:
    """Activation (and norm) then convolution for every layer after the projection, a group a member."""
    body = nn.Sequential()
    for i, ((before, after), dilation) in enumerate(zip(pairwise(plan.channels), plan.dilations, strict=True)):
        body.add_module(f"act{i}", nn.LeakyReLU(plan.slope, inplace=True))
        if plan.norm:  # Linear - ReLU - BatchNorm, in that order (spec 3.1)
            body.add_module(f"{BATCH_NORM}{i}", MeasuredBatchNorm(members * before))
        padding = dilation * (plan.kernel // 2)
        conv = nn.Conv2d(
            members * before, members * after, plan.kernel, padding=padding, dilation=dilation, groups=members
        )
        nn.init.kaiming_normal_(conv.weight, a=plan.slope)
        if conv.bias is not None:
            nn.init.zeros_(conv.bias)
        body.add_module(f"conv{i}", conv)
    return body


def select_layers(feature_layers: Sequence[FeatureLayer], names: Sequence[str]) -> tuple[FeatureLayer, ...]:
    """The taps called `names`, in the generator's order; all if none is named. ConfigError for an unknown name."""
    known = {layer.name for layer in feature_layers}
    for name in names:
        if name not in known:
            raise ConfigError(
                f"head.layers: the generator has no layer '{name}'",
                f"use some of {[layer.name for layer in feature_layers]}",
            )
    return tuple(layer for layer in feature_layers if not names or layer.name in names)


def build_head(
    config: HeadNetwork,
    feature_layers: Sequence[FeatureLayer],
    num_classes: int,
    stack_resolution: int = 0,
    corners: bool = True,
) -> LabelHead:
    """The configured head.

    Args:
        feature_layers: all taps of the generator; `config.layers` chooses among them.
        stack_resolution: grid where neither this nor the configuration says: the largest tap's, at most 512.
        corners: how maps are enlarged to the grid (`nn.hypercolumn.resize_map`).
    """
    layers = select_layers(feature_layers, config.layers)
    largest = max(layer.resolution for layer in layers)
    grid = config.stack_resolution or stack_resolution or min(largest, LARGEST_STACK)
    return LabelHead(config.architecture, layers, num_classes, grid, config.members, config.projection_dim, corners)
