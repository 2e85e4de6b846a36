"""What `segment` was given, as jobs of a few dozen pictures: from a file, a folder or Parquet of any size.

A job is a small JSON-like value that any process can read the pictures of. Only names are listed
beforehand (about 100 bytes a file; nothing a row for Parquet); pictures are read one by one.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from raygseg.data.object_store import filesystem, is_s3, join, list_files, local_path, read_bytes, translated
from raygseg.data.parquet_rows import table_files
from raygseg.data.picture_files import PICTURE_SUFFIXES
from raygseg.errors import DataError, StorageError

FILES_A_JOB = 32
ROWS_AT_ONCE = 16


class PictureEntry(NamedTuple):
    """A picture's name as listed, and where its mask belongs: relative path without suffix."""

    name: str
    target: str


@dataclass(frozen=True)
class FileJob:
    """Files below `place`."""

    place: str
    entries: tuple[PictureEntry, ...]

    def contents(self) -> Iterator[tuple[PictureEntry, bytes | DataError]]:
        """Each file's bytes, or why it cannot be read."""
        for entry in self.entries:
            try:
                yield entry, read_bytes(join(self.place, entry.name))
            except StorageError as error:
                yield entry, DataError(f"cannot be read: {error.message}", error.hint)


@dataclass(frozen=True)
class TableJob:
    """Rows of one row group of a Parquet file, less those in `done` (row numbers in the file)."""

    place: str
    table: str
    group: int
    first: int
    count: int
    done: frozenset[int] = frozenset()

    @property
    def entries(self) -> Iterator[PictureEntry]:
        rows = (row for row in range(self.first, self.first + self.count) if row not in self.done)
        return (row_entry(self.table, row) for row in rows)

    def contents(self) -> Iterator[tuple[PictureEntry, bytes | DataError]]:
        """Each row's encoded picture; the group is streamed, never held whole."""
        import pyarrow as pa
        from pyarrow import parquet

        uri = join(self.place, self.table)
        system, path = filesystem(uri)
        row = self.first
        try:
            with translated(uri):
                file = parquet.ParquetFile(path, filesystem=system, pre_buffer=False, buffer_size=1 << 20)
                for batch in file.iter_batches(ROWS_AT_ONCE, row_groups=[self.group], columns=["image"]):
                    for value in batch.column(0):
                        if row not in self.done:
                            yield row_entry(self.table, row), _cell(value.as_py())
                        row += 1
        except pa.ArrowInvalid as error:
            raise DataError(f"{uri}: damaged at row {row} ({error})", "copy or write the file again") from error


PictureJob = FileJob | TableJob


def job_to_text(job: PictureJob) -> str:
    """JSON (ASCII, so that any file name survives) for another process."""
    if isinstance(job, FileJob):
        return json.dumps({"place": job.place, "entries": job.entries})
    return json.dumps({**asdict(job), "done": sorted(job.done)})


def job_from_text(text: str) -> PictureJob:
    """Undo `job_to_text`."""
    raw = json.loads(text)
    if "entries" in raw:
        return FileJob(raw["place"], tuple(PictureEntry(*entry) for entry in raw["entries"]))
    return TableJob(raw["place"], raw["table"], raw["group"], raw["first"], raw["count"], frozenset(raw["done"]))


@dataclass(frozen=True)
class PictureListing:
    """All pictures of an input.

    Attributes:
        place: folder or prefix to which names are relative.
        files: names of pictures, in order; empty for Parquet.
        tables: (name, rows of each row group) of Parquet files.
        ignored: files that are no pictures, counted by suffix.
    """

    place: str
    files: tuple[PictureEntry, ...]
    tables: tuple[tuple[str, tuple[int, ...]], ...]
    ignored: dict[str, int]

    @property
    def count(self) -> int:
        return len(self.files) + sum(sum(groups) for _, groups in self.tables)

    def jobs(self, done: Callable[[PictureEntry], bool] = lambda entry: False) -> Iterator[PictureJob]:
        """The pictures that are not done, in order."""
        waiting: list[PictureEntry] = []
        for entry in self.files:
            if done(entry):
                continue
            waiting.append(entry)
            if len(waiting) == FILES_A_JOB:
                yield FileJob(self.place, tuple(waiting))
                waiting = []
        if waiting:
            yield FileJob(self.place, tuple(waiting))
        for table, groups in self.tables:
            first = 0
            for group, count in enumerate(groups):
                finished = frozenset(r for r in range(first, first + count) if done(row_entry(table, r)))
                if len(finished) < count:
                    yield TableJob(self.place, table, group, first, count, finished)
                first += count


def row_entry(table: str, row: int) -> PictureEntry:
    """Name and target of a row: `part.parquet#7` and `part/000000007`."""
    return PictureEntry(f"{table}#{row}", f"{table.removesuffix('.parquet')}/{row:09d}")


def list_pictures(source: str, leave_out: str = "") -> PictureListing:
    """List a picture file, a folder (any depth), a Parquet file or a folder of them; on disk or s3://.

    Args:
        source: what the user gave.
        leave_out: a place whose files are not input (the output, where it lies inside the input).

    Raises:
        DataError: nothing there, no pictures, or a Parquet file without a column `image`.
        StorageError: the place cannot be reached.
    """
    if source.endswith(".parquet"):
        parent, _, name = source.rstrip("/").rpartition("/")
        if table_files(source) == [source]:
            return _tables(parent or ".", [name], {})
    if _is_file(source):
        parent, _, name = source.rpartition("/")
        return PictureListing(parent or ".", tuple(entries_of([name])), (), {})
    if not is_s3(source) and not local_path(source).exists():
        raise DataError(f"{source}: no such file or folder", "check the path")
    inside = _relative(leave_out, source)
    names = [e.name for e in list_files(source) if not (inside and f"{e.name}/".startswith(f"{inside}/"))]
    pictures = [name for name in names if name.lower().endswith(PICTURE_SUFFIXES)]
    tables = [name for name in names if name.endswith(".parquet")]
    chosen = set(pictures or tables)
    ignored = dict(Counter(PurePosixPath(n).suffix or "no suffix" for n in names if n not in chosen))
    if tables and not pictures:
        return _tables(source, tables, ignored)
    if not pictures:
        found = f" (it holds {', '.join(f'{c} {s}' for s, c in sorted(ignored.items()))})" if ignored else ""
        raise DataError(
            f"{source}: no pictures there{found}", f"give files ending in {' '.join(PICTURE_SUFFIXES)}, or Parquet"
        )
    return PictureListing(source, tuple(entries_of(pictures)), (), ignored)


def entries_of(names: Sequence[str]) -> Iterator[PictureEntry]:
    """Targets without suffix; pictures that differ only in it (a.jpg, a.png) keep theirs."""
    stems = Counter(_stem(name) for name in names)
    taken = {stem for stem, count in stems.items() if count == 1}
    for name in names:
        target = _stem(name)
        if stems[target] > 1:
            target = name
            while target in taken:
                target += "_"
            taken.add(target)
        yield PictureEntry(name, target)


def _stem(name: str) -> str:
    path = PurePosixPath(name)
    return str(path.with_suffix("")) if path.suffix else name


def _is_file(source: str) -> bool:
    if not is_s3(source):
        return local_path(source).is_file()
    return source.lower().endswith(PICTURE_SUFFIXES)


def _relative(inner: str, outer: str) -> str:
    """Path of `inner` below `outer`, empty where it is not below it."""
    if not inner or is_s3(inner) != is_s3(outer):
        return ""
    if is_s3(inner):
        start = outer.rstrip("/") + "/"
        return inner.rstrip("/").removeprefix(start) if inner.startswith(start) else ""
    try:
        path = local_path(inner).resolve().relative_to(local_path(outer).resolve()).as_posix()
    except ValueError:
        return ""
    return "" if path == "." else path


def _tables(place: str, names: Sequence[str], ignored: dict[str, int]) -> PictureListing:
    import pyarrow as pa
    from pyarrow import parquet

    tables = []
    for name in names:
        uri = join(place, name)
        system, path = filesystem(uri)
        with translated(uri):
            try:
                metadata = parquet.ParquetFile(path, filesystem=system).metadata
            except pa.ArrowInvalid as error:
                raise DataError(f"{uri}: not a Parquet file ({error})", "copy or write the file again") from error
        columns = metadata.schema.to_arrow_schema().names
        if "image" not in columns:
            raise DataError(
                f"{uri}: no column 'image' (it has {columns})", "name the column of encoded pictures 'image'"
            )
        tables.append((name, tuple(metadata.row_group(g).num_rows for g in range(metadata.num_row_groups))))
    listing = PictureListing(place, (), tuple(tables), ignored)
    if listing.count == 0:
        raise DataError(f"{place}: the Parquet files hold no rows", "check the path")
    return listing


def _cell(value: Any) -> bytes | DataError:
    content = value.get("bytes") if isinstance(value, dict) else value
    if isinstance(content, bytes):
        return content
    return DataError("picture is missing", "put the encoded file's bytes into column 'image'")
