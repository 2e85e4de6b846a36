"""A prototype network in the pieces that evaluation needs, small enough for tests: colours are its features."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from raygseg.nn.masked_prototypes import class_prototypes, cosine_scores, enlarge_scores, masked_average


class TinyPrototypes(nn.Module):
    """One fixed convolution of stride 2; `calls` counts pictures that were looked at."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(8, 3, 3, 3, generator=rng), requires_grad=False)
        self.calls = 0

    def features(self, images: Tensor) -> Tensor:
        self.calls += len(images)
        return functional.conv2d(images, self.weight, stride=2, padding=1)

    def pool(self, features: Tensor, masks: Tensor) -> Tensor:
        return masked_average(features, masks)

    def prototypes(self, fore: Tensor, back: Tensor) -> Tensor:
        return class_prototypes(fore, back)

    def scores(self, query_features: Tensor, prototypes: Tensor) -> Tensor:
        return cosine_scores(query_features, prototypes, 20.0)

    def enlarge(self, scores: Tensor, size: tuple[int, int]) -> Tensor:
        return enlarge_scores(scores, size)

    def classify(self, support: Tensor, fore: Tensor, back: Tensor, queries: Tensor, size: tuple[int, int]) -> Tensor:
        prototypes = self.prototypes(self.pool(support, fore), self.pool(support, back))
        return self.enlarge(self.scores(queries, prototypes), size)
