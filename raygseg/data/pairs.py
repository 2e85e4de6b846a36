"""Pairs as Parquet rows: picture, mask, the two likeliest classes of every pixel with their probabilities.

    image, mask         struct {bytes, path}: encoded files, as Hugging Face `datasets` knows them
    top2_classes        binary, uint8 [2, R, R]: likeliest and second class (the mask is the first)
    top2_probabilities  binary, uint8 [2, R, R]: 255 times their probabilities, rounded
    score               float32, higher is less certain
    seed                int64

The two maps are raw bytes and left to Parquet's zstd, which packs the flat areas of a label map well
and costs no decoder per row. Reading back, what the two classes leave of the probability is shared
equally by the other classes; where rounding makes the two exceed 1 they are scaled to sum to 1.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from raygseg.data.picture_files import decode_picture, encode_picture, encode_png
from raygseg.errors import DataError
from raygseg.interfaces import Pairs
from raygseg.labels import LabelSpace

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor

COLUMNS = ("image", "mask", "top2_classes", "top2_probabilities", "score", "seed")
ROWS_PER_GROUP = 128
_FEATURES = {
    "image": {"_type": "Image"},
    "mask": {"_type": "Image"},
    "top2_classes": {"dtype": "binary", "_type": "Value"},
    "top2_probabilities": {"dtype": "binary", "_type": "Value"},
    "score": {"dtype": "float32", "_type": "Value"},
    "seed": {"dtype": "int64", "_type": "Value"},
}


class StoredPairs(NamedTuple):
    """Rows read back.

    images: uint8 [N, 3, R, R]. probabilities: float32 [N, K, R, R], sums to 1 over K.
    scores: float32 [N]. seeds: int64 [N].
    """

    images: Tensor
    probabilities: Tensor
    scores: Tensor
    seeds: Tensor


def pair_schema() -> pa.Schema:
    """The columns above, with the metadata by which `datasets` decodes the pictures."""
    import pyarrow as pa

    file = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    types = (file, file, pa.binary(), pa.binary(), pa.float32(), pa.int64())
    metadata = {"huggingface": json.dumps({"info": {"features": _FEATURES}})}
    return pa.schema(list(zip(COLUMNS, types, strict=True)), metadata=metadata)


def encode_pairs(
    pairs: Pairs, seeds: Sequence[int], labels: LabelSpace | None = None, image_format: str = "png"
) -> pa.Table:
    """A table of the pairs.

    Args:
        pairs: pictures, probabilities and scores of one batch, on any device.
        seeds: one a row.
        labels: gives the masks their palette; None: a palette of its own.
        image_format: png (exact), jpeg or webp (quality 95); masks are always PNG.

    Raises:
        DataError: probabilities or scores are not finite.
    """
    import pyarrow as pa

    images = pairs.images.detach().cpu().numpy().transpose(0, 2, 3, 1)
    classes, levels = _top_two(pairs.probabilities)
    scores = pairs.scores.detach().cpu().numpy().astype(np.float32)
    assert len(images) == len(classes) == len(scores) == len(seeds), "one row of each a seed"
    if not np.isfinite(scores).all():
        raise DataError(f"seed {_first(seeds, ~np.isfinite(scores))}: its score is not finite", "check the sampler")
    space = labels or LabelSpace(tuple(f"class{i}" for i in range(pairs.probabilities.shape[1])))
    palette = mask_palette(space)
    rows: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    for row, seed in enumerate(seeds):
        picture = encode_picture(np.ascontiguousarray(images[row]), image_format)
        rows["image"].append({"bytes": picture, "path": f"{seed}.{image_format}"})
        rows["mask"].append({"bytes": encode_png(classes[row, 0], palette), "path": f"{seed}.mask.png"})
        rows["top2_classes"].append(classes[row].tobytes())
        rows["top2_probabilities"].append(levels[row].tobytes())
    rows["score"], rows["seed"] = scores.tolist(), [int(s) for s in seeds]
    return pa.table(rows, schema=pair_schema())


def decode_pairs(table: pa.Table, num_classes: int) -> StoredPairs:
    """Rows of a table as tensors. Raises DataError where a row does not fit the schema."""
    import torch

    images = torch.from_numpy(stored_images(table))
    classes, levels = top_two(table)
    if classes.size and int(classes.max()) >= num_classes:
        raise DataError(
            f"seed {_first(seeds_of(table), (classes >= num_classes).any((1, 2, 3)))}: class {int(classes.max())} "
            f"is out of range for {num_classes} classes", "read the pairs with the label space of their manifest",
        )  # fmt: skip
    probabilities = spread(torch.from_numpy(classes), torch.from_numpy(levels), num_classes)
    scores = torch.from_numpy(table.column("score").to_numpy().astype(np.float32, copy=True))
    return StoredPairs(images, probabilities, scores, torch.from_numpy(seeds_of(table)))


def spread(classes: Tensor, levels: Tensor, num_classes: int) -> Tensor:
    """uint8 [N, 2, R, R] classes and levels to float32 [N, K, R, R] probabilities that sum to 1.

    The rest of the two is shared equally by the other K - 2 classes.
    """
    import torch

    two = levels.float() / 255.0
    total = two.sum(1, keepdim=True)
    if num_classes == 1:
        return torch.ones_like(total)
    over = total.clamp(min=1.0) if num_classes > 2 else total.clamp(min=1e-6)
    rest = (1.0 - total).clamp(min=0.0) / max(num_classes - 2, 1)
    probabilities = rest.repeat(1, num_classes, 1, 1)
    return probabilities.scatter_(1, classes.long(), two / over)


def stored_images(table: pa.Table) -> NDArray[np.uint8]:
    """The decoded pictures, uint8 [N, 3, R, R]."""
    cells = table.column("image").to_pylist()
    pictures = [decode_picture(cell["bytes"]).transpose(2, 0, 1) for cell in cells]
    return np.stack(pictures) if pictures else np.empty((0, 3, 1, 1), dtype=np.uint8)


def top_two(table: pa.Table) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Classes and levels of the two likeliest classes, each uint8 [N, 2, R, R]."""
    return _maps(table, "top2_classes"), _maps(table, "top2_probabilities")


def seeds_of(table: pa.Table) -> NDArray[np.int64]:
    return np.array(table.column("seed").to_numpy(), dtype=np.int64)


def table_bytes(table: pa.Table) -> bytes:
    """The table as one Parquet file; the same table always gives the same bytes."""
    from pyarrow import parquet

    buffer = io.BytesIO()
    # Encoded pictures do not shrink further and a dictionary of distinct blobs only costs time.
    packed = ("image.path", "mask.path", "top2_classes", "top2_probabilities", "score", "seed")
    parquet.write_table(
        table, buffer, use_dictionary=False, row_group_size=ROWS_PER_GROUP, write_statistics=["score", "seed"],
        compression={"image.bytes": "NONE", "mask.bytes": "NONE", **dict.fromkeys(packed, "ZSTD")},
        compression_level=dict.fromkeys(packed, 1),
    )  # fmt: skip
    return buffer.getvalue()


def mask_palette(labels: LabelSpace) -> bytes:
    """768 bytes: the label space's colours, grey above its classes."""
    table = np.full((256, 3), 128, dtype=np.uint8)
    table[: labels.num_classes] = np.asarray(labels.palette, dtype=np.uint8)
    return table.tobytes()


def _top_two(probabilities: Tensor) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """uint8 [N, 2, R, R] classes and levels; of equal probabilities the lower class comes first."""
    import torch

    values = probabilities.detach().float()
    first, top = values.max(1, keepdim=True)  # NaN anywhere comes out as the maximum
    if not bool(torch.isfinite(first).all()):
        raise DataError("the sampler gave probabilities that are not finite", "check its weights and precision")
    if values.shape[1] == 1:
        second, runner_up = torch.zeros_like(first), top
    else:
        second, runner_up = values.scatter(1, top, -1.0).max(1, keepdim=True)
    classes = torch.cat([top, runner_up], 1).to(torch.uint8)
    levels = (torch.cat([first, second], 1) * 255.0).round().clamp(0, 255).to(torch.uint8)
    return classes.cpu().numpy(), levels.cpu().numpy()


def _maps(table: pa.Table, column: str) -> NDArray[np.uint8]:
    """[N, 2, R, R] from a binary column whose cells all have the same length 2 R R."""
    cells = table.column(column).to_pylist()
    if not cells:
        return np.empty((0, 2, 1, 1), dtype=np.uint8)
    side = math.isqrt(len(cells[0]) // 2)
    if any(len(c) != 2 * side * side for c in cells):
        raise DataError(f"column '{column}' does not hold [2, R, R] bytes in every row", "generate the pairs again")
    return np.frombuffer(b"".join(cells), dtype=np.uint8).reshape(len(cells), 2, side, side).copy()


def _first(seeds: Sequence[int] | NDArray[np.int64], bad: Any) -> int:
    """The seed of the first row that is bad ([N] booleans)."""
    return int(seeds[int(np.flatnonzero(bad)[0])])
