"""How hard is the toy set? Its two entrance conditions, measured.

(i) Colour and place alone must not solve it: a random forest on RGB + xy of 500 labelled pictures.
(ii) Few labels must hurt, and many must not: the same U-Net, steps and augmentation on 10 and on 2,000
labelled pictures. All scores are foreground mIoU over the confusion counts of unseen pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from raygseg.data.toy import render_toy_batch, toy_labels
from raygseg.nn.unet import UNet
from raygseg.seeding import derive_seed, numpy_rng, torch_rng

BATCH_SIZE = 32
# Sets of pictures by seed: the training ones and the unseen ones never share an index.
TRAIN_SEED, TEST_SEED = 0, 1
Pairs = tuple[NDArray[np.uint8], NDArray[np.uint8]]


def run(
    seeds: Sequence[int] = (0, 1, 2),
    steps: int = 600,
    label_counts: Sequence[int] = (10, 2000),
    resolution: int = 32,
    test_count: int = 200,
    width: int = 16,
    depth: int = 3,
    pixel_pictures: int = 500,
    device: str = "cpu",
) -> dict[str, Any]:
    """Measure both conditions.

    Args:
        seeds: one U-Net a seed and label count; the seed also picks which pictures are labelled.
        steps: optimiser steps of 32 pictures, the same for every label count.
        pixel_pictures: labelled pictures of the per-pixel classifier; 0 leaves it out.

    Returns:
        `pixel_miou`, `unet_miou` (label count -> one score a seed) and `ratio`, the mean score at the
        fewest labels over that at the most.
    """
    test = render_toy_batch(TEST_SEED, range(test_count), resolution)
    scores = {
        count: [_unet_miou(count, seed, steps, resolution, test, width, depth, device) for seed in seeds]
        for count in label_counts
    }
    few, many = (float(np.mean(scores[count])) for count in (min(label_counts), max(label_counts)))
    return {
        "pixel_miou": pixel_miou(pixel_pictures, test) if pixel_pictures else None,
        "unet_miou": scores,
        "ratio": few / many,
        "parameters": sum(p.numel() for p in UNet(3, toy_labels().num_classes, width, depth).parameters()),
    }


def foreground_miou(truth: NDArray[np.integer[Any]], found: NDArray[np.integer[Any]]) -> float:
    """Mean IoU of classes 1.. over the confusion counts of all pixels given."""
    classes = toy_labels().num_classes
    pairs = truth.astype(np.int64).ravel() * classes + found.astype(np.int64).ravel()
    counts = np.bincount(pairs, minlength=classes**2).reshape(classes, classes)
    union = counts.sum(0) + counts.sum(1) - np.diag(counts)
    return float(np.mean((np.diag(counts) / np.maximum(union, 1))[1:]))


def pixel_miou(pictures: int, test: Pairs, trees: int = 30, pixels: int = 150_000) -> float:
    """Score of a random forest that sees a pixel's RGB and place, and nothing around it."""
    from sklearn.ensemble import RandomForestClassifier

    train = render_toy_batch(TRAIN_SEED, range(pictures), test[0].shape[1])
    features, labels = _pixel_features(train[0]), train[1].ravel()
    chosen = numpy_rng(0, "toy-hardness-pixels").permutation(len(labels))[:pixels]
    forest = RandomForestClassifier(trees, min_samples_leaf=3, random_state=0)
    forest.fit(features[chosen], labels[chosen])
    return foreground_miou(test[1].ravel(), forest.predict(_pixel_features(test[0])))


def _pixel_features(pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
    """[N, H, W, 3] pictures to [N * H * W, 5] rows of RGB in [0, 1] and xy in [0, 1]."""
    count, height, width, _ = pictures.shape
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    place = np.broadcast_to(np.stack([columns / width, rows / height], -1), (count, height, width, 2))
    return np.concatenate([pictures / np.float32(255), place], -1).reshape(-1, 5).astype(np.float32)


def _unet_miou(
    labels: int, seed: int, steps: int, resolution: int, test: Pairs, width: int, depth: int, device: str
) -> float:
    """Train a U-Net on `labels` pictures for `steps` steps and score it on `test`."""
    indices = range(seed * 100_000, seed * 100_000 + labels)
    train = render_toy_batch(TRAIN_SEED, indices, resolution)
    torch.manual_seed(derive_seed(seed, "toy-hardness-init"))
    net = UNet(3, toy_labels().num_classes, width, depth).to(device)
    fit(net, train, seed, steps)
    net.eval()
    with torch.no_grad():
        found = net(_to_input(test[0], device)).argmax(1).cpu().numpy()
    return foreground_miou(test[1], found)


def fit(net: nn.Module, train: Pairs, seed: int, steps: int, lr: float = 2e-3) -> None:
    """Adam on cross entropy with a cosine to zero; flips, shifts, scalings and colour changes."""
    device = next(net.parameters()).device
    pictures = _to_input(train[0], str(device))
    label_maps = torch.from_numpy(train[1].astype(np.int64)).to(device)
    rng = torch_rng(seed, "toy-hardness-train")
    optimiser = torch.optim.AdamW(net.parameters(), lr=lr, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, lr, total_steps=steps, pct_start=0.1)
    augment = augmenter(rng)
    net.train()
    for _ in range(steps):
        rows = torch.randint(len(pictures), (BATCH_SIZE,), generator=rng).to(device)
        inputs, targets = augment(pictures[rows], label_maps[rows])
        loss = F.cross_entropy(net(inputs), targets)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()


def _to_input(pictures: NDArray[np.uint8], device: str) -> torch.Tensor:
    """[N, H, W, 3] bytes to [N, 3, H, W] in [-1, 1]."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).to(device).float().div(127.5).sub(1)


def augmenter(rng: torch.Generator) -> Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    """Flip with label swap, mild rotation, scaling and shift, and brightness, contrast and tint."""
    lut = torch.from_numpy(toy_labels().flip_lut.astype(np.int64))

    def uniform(count: int, low: float, high: float) -> torch.Tensor:
        return torch.rand(count, generator=rng) * (high - low) + low

    def augment(pictures: torch.Tensor, label_maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        count, device = len(pictures), pictures.device
        flip = (torch.rand(count, generator=rng) < 0.5).to(device)
        turn, scale = uniform(count, -0.2, 0.2), uniform(count, 0.88, 1.12)
        rows = [scale * turn.cos(), -scale * turn.sin(), uniform(count, -0.12, 0.12)]
        rows += [scale * turn.sin(), scale * turn.cos(), uniform(count, -0.12, 0.12)]
        theta = torch.stack(rows, 1).view(count, 2, 3).to(device)
        # Half the pictures keep their pixels: resampling blurs the borders that the score is about.
        still = (torch.rand(count, generator=rng) < 0.5).to(device)
        theta = torch.where(still[:, None, None], torch.eye(2, 3, device=device), theta)
        theta[:, :, 0] = torch.where(flip[:, None], -theta[:, :, 0], theta[:, :, 0])
        grid = F.affine_grid(theta, list(pictures.shape), align_corners=False)
        moved = F.grid_sample(pictures, grid, padding_mode="reflection", align_corners=False)
        maps = label_maps[:, None].float()
        maps = F.grid_sample(maps, grid, mode="nearest", align_corners=False)[:, 0].round().long()
        maps = torch.where(flip[:, None, None], lut.to(device)[maps], maps)
        contrast = uniform(count, 0.8, 1.2).view(-1, 1, 1, 1).to(device)
        tint = uniform(count * 3, -0.2, 0.2).view(-1, 3, 1, 1).to(device)
        return moved * contrast + tint, maps

    return augment
