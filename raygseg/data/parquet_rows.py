"""Parquet tables as sources: a column `image` and, where labelled, `mask`, as bytes or {bytes, path} structs.

Row groups are read as wanted and kept, still encoded, up to a budget of bytes: reading in order
costs one pass; reading at random is fast while the encoded table fits in the budget. Past that,
`blocks` says which rows lie together, for an order that reads each row group once (`table_order`).
"""

from __future__ import annotations

import itertools
import json
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from raygseg.data.folder import Classes, read_classes, read_labelled
from raygseg.data.object_store import exists, filesystem, is_s3, join, list_files, local_path, read_bytes, translated
from raygseg.data.picture_files import ClassMap, Picture, decode_picture
from raygseg.data.source_address import SourceAddress
from raygseg.errors import DataError, RaygsegError
from raygseg.labels import LabelSpace

if TYPE_CHECKING:
    import pyarrow as pa

ENCODED_LIMIT = 1 << 30  # bytes of encoded pictures kept


class ParquetRows:
    """Rows of one or more Parquet files. Raises DataError naming the file that is no table of pictures.

    Args:
        checked: whether every row was decoded when it was written.
    """

    def __init__(self, files: Sequence[str], classes: Classes | None = None, checked: bool = False) -> None:
        self._files, self._classes, self.checked = files, classes, checked
        self._columns = ["image"] if classes is None else ["image", "mask"]
        self._groups: list[tuple[int, int]] = []  # (file, row group)
        self._lock, self._kept, self._kept_bytes = threading.Lock(), OrderedDict[int, "pa.Table"](), 0
        counts: list[int] = []
        self._group_bytes: list[int] = []
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="row-groups")
        self._coming: set[int] = set()
        self.names: list[str] = []
        self._facts: list[list[Any]] = []
        for number, file in enumerate(files):
            metadata = self._open(file).metadata
            self._facts.append([file.rpartition("/")[2], metadata.num_rows, metadata.serialized_size])
            for group in range(metadata.num_row_groups):
                self._groups.append((number, group))
                counts.append(metadata.row_group(group).num_rows)
                self._group_bytes.append(metadata.row_group(group).total_byte_size)
            self.names += [f"{self._facts[-1][0]}#{row}" for row in range(metadata.num_rows)]
        self._starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)

    def picture(self, row: int, resolution: int | None) -> Picture:
        return decode_picture(self._cell(row, "image"), resolution)

    def labelled(self, row: int, resolution: int | None) -> tuple[Picture, ClassMap]:
        assert self._classes is not None, "opened without masks"
        return read_labelled(self._cell(row, "image"), self._cell(row, "mask"), resolution, self._classes)

    @property
    def encoded_bytes(self) -> int:
        """Of all row groups."""
        return sum(self._group_bytes)

    def blocks(self) -> list[NDArray[np.int64]]:
        """The rows of each row group."""
        return [np.arange(a, b, dtype=np.int64) for a, b in itertools.pairwise(self._starts.tolist())]

    def prefetch(self, blocks: Sequence[int]) -> None:
        """Begin to read these row groups, in a thread; what cannot be read is told by whoever reads it."""
        with self._lock:
            fresh = [block for block in blocks if block not in self._kept and block not in self._coming]
            self._coming.update(fresh)
        for block in fresh:
            self._reader.submit(self._fetch, block)

    def _fetch(self, block: int) -> None:
        try:
            self._group(block)
        except RaygsegError:
            pass
        finally:
            with self._lock:
                self._coming.discard(block)

    def identity(self, rows: Sequence[int]) -> Mapping[str, Any]:
        whole = len(rows) == len(self.names)
        return {"parquet": self._facts, "rows": "all" if whole else list(rows)}

    def _open(self, file: str) -> Any:
        import pyarrow as pa
        from pyarrow import parquet

        system, path = filesystem(file)
        with translated(file):
            try:
                opened = parquet.ParquetFile(path, filesystem=system)
            except pa.ArrowInvalid as error:
                raise DataError(f"{file}: not a Parquet file ({error})", "copy or write the file again") from error
        missing = [c for c in self._columns if c not in opened.schema_arrow.names]
        if missing:
            raise DataError(
                f"{file}: no column '{missing[0]}' (it has {opened.schema_arrow.names})",
                "name the columns image and mask; each holds encoded files as bytes",
            )
        return opened

    def _cell(self, row: int, column: str) -> bytes:
        group = int(np.searchsorted(self._starts, row, side="right")) - 1
        value = self._group(group).column(column)[row - int(self._starts[group])].as_py()
        content = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(content, bytes):
            kind = "mask" if column == "mask" else "picture"
            raise DataError(f"{kind} is missing", f"put the encoded file's bytes into column '{column}'")
        return content

    def _group(self, group: int) -> pa.Table:
        """The row group, from what is kept or from the file; the longest unused is dropped."""
        with self._lock:
            if group in self._kept:
                self._kept.move_to_end(group)
                return self._kept[group]
        number, index = self._groups[group]
        # Not under the lock: another thread may want what is kept while this one waits for the store.
        with translated(self._files[number]):
            table = self._open(self._files[number]).read_row_group(index, columns=self._columns)
        with self._lock:
            if group not in self._kept:
                self._kept[group] = table
                self._kept_bytes += table.nbytes
            while self._kept_bytes > ENCODED_LIMIT and len(self._kept) > 1:
                _, dropped = self._kept.popitem(last=False)
                self._kept_bytes -= dropped.nbytes
        return table


def table_files(place: str) -> list[str]:
    """The Parquet files of a place: itself, or all below it in name order."""
    if place.endswith(".parquet"):
        if exists(place):
            return [place]
        raise DataError(f"{place}: no such file", "check the path")
    return [join(place, e.name) for e in list_files(place, ".parquet")]


def table_classes(place: str, coarse: bool) -> Classes:
    """Classes of a table: from the manifest of a pair set, else labels.json or meta.json beside or above it."""
    folder = place.rpartition("/")[0] if place.endswith(".parquet") else place
    manifest = join(folder, "manifest.json") if is_s3(place) else str(local_path(folder or ".") / "manifest.json")
    if exists(manifest) and not coarse:
        document = json.loads(read_bytes(manifest))
        if isinstance(document.get("labels"), dict):
            return Classes(LabelSpace.from_dict(document["labels"], manifest))
    return read_classes(folder or ".", coarse)


def parquet_rows(address: SourceAddress, labelled: bool) -> tuple[ParquetRows, LabelSpace | None]:
    """Open the table(s) of a source.

    Raises DataError where a split is asked for (tables have none), or a preparation has not ended.
    """
    if address.split:
        raise DataError(f"{address.place}: Parquet sources have no splits", "take ?split= off the source")
    files = table_files(address.place)
    prepared = _prepared(address.place)
    classes = table_classes(address.place, address.coarse) if labelled else None
    return ParquetRows(files, classes, checked=prepared and not labelled), classes.labels if classes else None


def _prepared(place: str) -> bool:
    """Whether `prepare` wrote the set, which decodes all that it keeps.

    Raises DataError for a set that it has begun but not finished: it would be taken for a smaller one.
    """
    record = join(place, "prepared.json")
    if place.endswith(".parquet") or not exists(record):
        return False
    if not json.loads(read_bytes(record)).get("complete"):
        raise DataError(
            f"{place}: its preparation has not finished", "run the same `raygseg prepare` again: it goes on"
        )
    return True
