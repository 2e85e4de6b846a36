"""What a segmenter sees, drawn over the picture: overlays, error maps, legends, comparison sheets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raygseg.errors import DataError
from raygseg.labels import RGB, LabelMap, LabelSpace
from raygseg.viz.grids import INK, PAPER, Canvas, fit, picture_grid, text_width, write_text

ERROR: RGB = (214, 39, 40)
UNKNOWN: RGB = (128, 128, 128)
LINE = 18
GAP = 4


def class_edges(label_map: LabelMap) -> NDArray[np.bool_]:
    """[H, W]: pixels whose right or lower neighbour has another class."""
    edges = np.zeros(label_map.shape, dtype=bool)
    edges[:, :-1] |= label_map[:, :-1] != label_map[:, 1:]
    edges[:-1] |= label_map[:-1] != label_map[1:]
    return edges


def overlay(picture: Canvas, label_map: LabelMap, labels: LabelSpace, opacity: float = 0.65) -> Canvas:
    """The picture tinted by class, with a white outline between classes; the background stays clear.

    Args:
        picture: [H, W, 3] uint8. label_map: [H, W] class indices of the same size.
        opacity: of the tint, 0 to 1.
    """
    if picture.shape[:2] != label_map.shape:
        raise DataError(
            f"picture is {picture.shape[:2]} but its label map {label_map.shape}", "draw maps at the picture's size"
        )
    strength = np.full(label_map.shape, opacity, np.float32)
    if labels.background is not None:
        strength[label_map == labels.background] = 0
    tint = labels.colourise(label_map).astype(np.float32)
    mixed = picture + (tint - picture) * strength[..., None]
    edges = class_edges(label_map)
    mixed[edges] = 0.35 * mixed[edges] + 0.65 * 255
    return np.rint(mixed).astype(np.uint8)


def error_map(picture: Canvas, truth: LabelMap, prediction: LabelMap, labels: LabelSpace) -> Canvas:
    """Wrong pixels red, unlabelled ones grey, over a pale grey picture."""
    pale = 160 + picture.mean(-1, keepdims=True) * (95 / 255)
    drawn = np.repeat(np.rint(pale), 3, axis=-1).astype(np.uint8)
    drawn[truth != prediction] = ERROR
    if labels.void is not None:
        drawn[truth == labels.void] = UNKNOWN
    return drawn


def legend(labels: LabelSpace, width: int, classes: Sequence[int] | None = None) -> Canvas:
    """Colour swatches with class names, wrapped to `width` pixels."""
    entries = [(labels.names[i], labels.palette[i]) for i in (classes or range(labels.num_classes))]
    width = max(width, max(text_width(name) for name, _ in entries) + 24)
    places: list[tuple[int, int]] = []
    left = row = 0
    for name, _ in entries:
        needed = text_width(name) + 30
        if left and left + needed > width:
            left, row = 0, row + 1
        places.append((left, row * LINE))
        left += needed
    canvas = np.full(((row + 1) * LINE, width, 3), PAPER, np.uint8)
    for (name, colour), (x, y) in zip(entries, places, strict=True):
        canvas[y + 3 : y + 15, x : x + 12] = INK
        canvas[y + 4 : y + 14, x + 1 : x + 11] = colour
        canvas = write_text(canvas, name, x + 17, y + 2)
    return canvas


@dataclass(frozen=True)
class Comparison:
    """One row of a sheet, already shrunk to what is drawn, so that many pictures can be kept.

    Attributes:
        tiles: picture, overlay, truth, prediction errors, all of one size.
        caption: file name and score.
    """

    tiles: tuple[Canvas, Canvas, Canvas, Canvas]
    caption: str


def compare(
    picture: Canvas, truth: LabelMap, prediction: LabelMap, labels: LabelSpace, caption: str, side: int = 192
) -> Comparison:
    """picture | overlay of the prediction | overlay of the truth | errors, `side` pixels the longer side.

    Maps are shrunk by nearest neighbour before drawing, so that no colour is made up.
    """
    small = fit(picture, side)
    rows = np.arange(small.shape[0]) * picture.shape[0] // small.shape[0]
    columns = np.arange(small.shape[1]) * picture.shape[1] // small.shape[1]
    true, predicted = truth[rows][:, columns], prediction[rows][:, columns]
    return Comparison(
        (
            small,
            overlay(small, predicted, labels),
            overlay(small, true, labels),
            error_map(small, true, predicted, labels),
        ),
        caption,
    )


def comparison_sheet(comparisons: Sequence[Comparison], labels: LabelSpace) -> Canvas:
    """All rows under each other with headings, captions and one legend below."""
    headings = ("picture", "prediction", "truth", "errors")
    blocks: list[Canvas] = []
    for comparison in comparisons:
        cell = max(comparison.tiles[0].shape[1], 72)
        padded = [_widened(tile, cell) for tile in comparison.tiles]
        row = picture_grid(padded, columns=4, gap=GAP)
        head = np.full((LINE, row.shape[1], 3), PAPER, np.uint8)
        for i, heading in enumerate(headings):
            head = write_text(head, heading, i * (cell + GAP), 3, size=11)
        caption = np.full((LINE, max(row.shape[1], text_width(comparison.caption) + 4), 3), PAPER, np.uint8)
        blocks.append(_stacked([write_text(caption, comparison.caption, 0, 2), head, row], gap=0))
    width = max((b.shape[1] for b in blocks), default=320)
    key = legend(labels, width)
    return _stacked([*blocks, key], gap=14)


def _widened(canvas: Canvas, width: int) -> Canvas:
    """The canvas with paper to its right, so that narrow pictures leave room for headings."""
    wide = np.full((canvas.shape[0], max(width, canvas.shape[1]), 3), PAPER, np.uint8)
    wide[:, : canvas.shape[1]] = canvas
    return wide


def _stacked(blocks: Sequence[Canvas], gap: int) -> Canvas:
    width = max(block.shape[1] for block in blocks)
    height = sum(block.shape[0] for block in blocks) + gap * (len(blocks) - 1)
    sheet = np.full((height, width, 3), PAPER, np.uint8)
    top = 0
    for block in blocks:
        sheet[top : top + block.shape[0], : block.shape[1]] = block
        top += block.shape[0] + gap
    return sheet


def pair_sheet(
    pictures: Sequence[Canvas], label_maps: Sequence[LabelMap], labels: LabelSpace, columns: int = 6
) -> Canvas:
    """Contact sheet of pairs: each picture beside its own overlay, legend below."""
    cells = [
        picture_grid([picture, overlay(picture, label_map, labels)], columns=2, gap=0)
        for picture, label_map in zip(pictures, label_maps, strict=True)
    ]
    sheet = picture_grid(cells, columns=columns, gap=GAP)
    return _stacked([sheet, legend(labels, sheet.shape[1])], gap=8)
