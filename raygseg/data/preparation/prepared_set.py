"""Bookkeeping of a prepared set: which shards there should be, which there are, and what was asked for.

    OUTPUT/prepared.json                       settings, identity of the source, totals, every shard
    OUTPUT/labels.json                         the classes, where there are masks
    OUTPUT/pictures/pictures-000000000.parquet rows of source files 0.. ; named by the first file
    OUTPUT/notes/pictures-000000000.json       what was found in those files, written after it: the shard is done

A shard is made of a fixed run of the source's files in name order, so that it holds the same rows whenever it
is made. Files that give nothing leave it shorter; one without rows has notes only.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from raygseg.data.object_store import (
    delete,
    delete_temporaries,
    exists,
    join,
    list_files,
    put_if_absent,
    read_bytes,
    write_bytes,
)
from raygseg.data.preparation.findings import Finding
from raygseg.data.preparation.making import Row
from raygseg.errors import DataError, FingerprintError
from raygseg.labels import LabelSpace

if TYPE_CHECKING:
    import pyarrow as pa

SCHEMA_VERSION = 1
RECORD, LABELS, PICTURES, NOTES = "prepared.json", "labels.json", "pictures", "notes"
ROWS_PER_GROUP = 64


@dataclass(frozen=True)
class FileRun:
    """Source files first .. first + count - 1: what one shard is made of."""

    first: int
    count: int

    @property
    def name(self) -> str:
        return f"pictures-{self.first:09d}"

    def pictures_uri(self, output: str) -> str:
        return join(output, PICTURES, f"{self.name}.parquet")

    def notes_uri(self, output: str) -> str:
        return join(output, NOTES, f"{self.name}.json")


@dataclass(frozen=True)
class Notes:
    """What is known of a shard without opening it.

    Attributes:
        first, files: of the source.
        rows: [name, width, height] of what each row shows.
        kept: [name, digest, gradient hash] of each file that is in, for finding duplicates later on.
        findings: [name, kind, detail].
        class_pixels, class_rows: pixels of each class, and rows that have any.
        stored: bytes of the Parquet file; 0 where it has no rows, and then no file.
        sha256: of the Parquet file.
        seconds: that making it took.
    """

    first: int
    files: int
    rows: tuple[tuple[str, int, int], ...] = ()
    kept: tuple[tuple[str, str, int], ...] = field(default=(), repr=False)
    findings: tuple[Finding, ...] = field(default=(), repr=False)
    class_pixels: tuple[int, ...] = ()
    class_rows: tuple[int, ...] = ()
    stored: int = 0
    sha256: str = ""
    seconds: float = 0.0

    def to_json(self) -> bytes:
        return (json.dumps(asdict(self) | {"findings": [list(f) for f in self.findings]}) + "\n").encode()

    @classmethod
    def from_json(cls, content: bytes, where: str) -> Notes:
        """Raises DataError naming the file."""
        try:
            raw = {name: json.loads(content)[name] for name in cls.__dataclass_fields__}
            rows = tuple((str(n), int(w), int(h)) for n, w, h in raw.pop("rows"))
            kept = tuple((str(n), str(d), int(g)) for n, d, g in raw.pop("kept"))
            findings = tuple(Finding(*map(str, f)) for f in raw.pop("findings"))
            pixels, with_class = (tuple(int(n) for n in raw.pop(key)) for key in ("class_pixels", "class_rows"))
            return cls(rows=rows, kept=kept, findings=findings, class_pixels=pixels, class_rows=with_class, **raw)
        except (ValueError, KeyError, TypeError) as error:
            hint = "delete it and run the same command again"
            raise DataError(f"{where}: not the notes of a shard ({error!r})", hint) from error


@dataclass(frozen=True)
class Record:
    """What a prepared set is.

    Attributes:
        settings: everything that decides its rows, the identity of the source included; JSON values.
        labels: the classes; None without masks.
        files: of the source. files_per_shard: that one shard is made of.
        complete: whether every shard is there; the following are then filled in.
        rows: in the set.
        shards: [first file, rows, bytes, first 16 digits of sha256] for each.
    """

    settings: Mapping[str, Any]
    labels: LabelSpace | None
    files: int
    files_per_shard: int
    complete: bool = False
    rows: int = 0
    shards: tuple[tuple[int, int, int, str], ...] = field(default=(), repr=False)

    @property
    def fingerprint(self) -> str:
        """16 hex digits over the settings and the classes."""
        labels = self.labels.to_dict() if self.labels else None
        return hashlib.sha256(json.dumps([dict(self.settings), labels], sort_keys=True).encode()).hexdigest()[:16]

    def planned(self) -> list[FileRun]:
        """All shards in order."""
        starts = range(0, self.files, self.files_per_shard)
        return [FileRun(first, min(self.files_per_shard, self.files - first)) for first in starts]

    def to_json(self) -> bytes:
        document = {
            "schema_version": SCHEMA_VERSION,
            "complete": self.complete,
            "rows": self.rows,
            "files": self.files,
            "files_per_shard": self.files_per_shard,
            "fingerprint": self.fingerprint,
            "settings": dict(self.settings),
            "labels": self.labels.to_dict() if self.labels else None,
        }
        lines = ",\n  ".join(json.dumps(list(s), separators=(",", ":")) for s in self.shards)
        return (json.dumps(document, indent=1)[:-2] + f',\n "shards": [\n  {lines}\n ]\n}}\n').encode()

    @classmethod
    def from_json(cls, content: bytes, where: str) -> Record:
        """Raises DataError naming the file."""
        try:
            raw = json.loads(content)
            if raw["schema_version"] != SCHEMA_VERSION:
                raise ValueError(f"schema version {raw['schema_version']}, this raygseg reads {SCHEMA_VERSION}")
            labels = raw["labels"]
            return cls(
                settings=raw["settings"],
                labels=None if labels is None else LabelSpace.from_dict(labels, where),
                files=int(raw["files"]),
                files_per_shard=int(raw["files_per_shard"]),
                complete=bool(raw["complete"]),
                rows=int(raw["rows"]),
                shards=tuple((int(s[0]), int(s[1]), int(s[2]), str(s[3])) for s in raw["shards"]),
            )
        except (ValueError, KeyError, TypeError, IndexError) as error:
            hint = "prepare with --overwrite, or into another place"
            raise DataError(f"{where}: not the record of a prepared set ({error!r})", hint) from error


def read_record(output: str) -> Record | None:
    """The record at the place, or None."""
    where = join(output, RECORD)
    return Record.from_json(read_bytes(where), where) if exists(where) else None


def begin(output: str, wanted: Record, overwrite: bool) -> tuple[Record, set[str]]:
    """Claim the place; the record to go on with and the names of the shards that are done.

    Raises:
        FingerprintError: it holds a set made with other settings or of other files; names the changed keys.
        DataError: it holds shards without a record.
    """
    if overwrite:
        clear(output)
    delete_temporaries(output)
    wanted = Record.from_json(wanted.to_json(), output)  # as it will be read back
    found = read_record(output)
    if found is None:
        if exists(join(output, "manifest.json")):
            raise DataError(f"{output}: holds generated pairs", "choose another output")
        if list_files(join(output, PICTURES), ".parquet"):
            raise DataError(f"{output}: holds shards but no {RECORD}", "choose another output, or --overwrite")
        if put_if_absent(join(output, RECORD), wanted.to_json()):
            found = wanted
        else:
            found = read_record(output) or wanted  # another process began at the same moment
    if changed := changed_keys(found, wanted):
        raise FingerprintError(
            f"{output} was prepared otherwise; changed keys:\n    " + "\n    ".join(changed),
            "choose another --output, go back to the old settings, or --overwrite to replace it",
        )
    if wanted.labels is not None:
        write_bytes(join(output, LABELS), (json.dumps(wanted.labels.to_dict(), indent=1) + "\n").encode())
    return found, shards_done(output)


def shards_done(output: str) -> set[str]:
    """Names of the shards whose notes are there, and whose Parquet file too unless it has no rows."""
    there = {e.name.removesuffix(".parquet"): e.size for e in list_files(join(output, PICTURES), ".parquet")}
    noted = [e.name.removesuffix(".json") for e in list_files(join(output, NOTES), ".json")]
    without = [name for name in noted if name not in there]
    empty = {n for n in without if not Notes.from_json(read_bytes(join(output, NOTES, f"{n}.json")), n).rows}
    return (set(noted) & set(there)) | empty


def changed_keys(found: Record, wanted: Record) -> list[str]:
    """`key: old -> new` for everything that differs."""
    old = {**found.settings, "labels": found.labels.to_dict() if found.labels else None}
    new = {**wanted.settings, "labels": wanted.labels.to_dict() if wanted.labels else None}
    return [f"{k}: {old.get(k)!r} -> {new.get(k)!r}" for k in sorted({*old, *new}) if old.get(k) != new.get(k)]


def write_shard(output: str, run: FileRun, rows: Sequence[Row], notes: Notes) -> Notes:
    """Put the shard, then its notes. The same rows give the same bytes, so that a second writer does no harm."""
    if rows:
        content = shard_bytes(rows)
        write_bytes(run.pictures_uri(output), content)
        notes = replace(notes, stored=len(content), sha256=hashlib.sha256(content).hexdigest())
    write_bytes(run.notes_uri(output), notes.to_json())
    return notes


def read_notes(output: str, run: FileRun) -> Notes:
    """Raises DataError or StorageError naming the file."""
    where = run.notes_uri(output)
    return Notes.from_json(read_bytes(where), where)


def finish(output: str, record: Record, shards: Sequence[tuple[int, int, int, str]]) -> Record:
    """Write the record of a set whose shards are all there."""
    record = replace(record, complete=True, rows=sum(s[1] for s in shards), shards=tuple(shards))
    write_bytes(join(output, RECORD), record.to_json())
    return record


def shard_bytes(rows: Sequence[Row]) -> bytes:
    """The rows as one Parquet file: columns image and, where labelled, mask, as Hugging Face `datasets` knows them."""
    import pyarrow as pa
    from pyarrow import parquet

    labelled = rows[0].mask is not None
    cells: dict[str, list[dict[str, Any]]] = {"image": [{"bytes": r.picture, "path": r.name} for r in rows]}
    if labelled:
        cells["mask"] = [{"bytes": r.mask, "path": r.name} for r in rows]
    table = pa.table(cells, schema=_schema(tuple(cells)))
    buffer = io.BytesIO()
    packed = {f"{column}.path": "ZSTD" for column in cells}
    # Encoded pictures do not shrink further.
    plain = {f"{column}.bytes": "NONE" for column in cells}
    parquet.write_table(
        table, buffer, use_dictionary=False, row_group_size=ROWS_PER_GROUP, write_statistics=False,
        compression={**plain, **packed},
    )  # fmt: skip
    return buffer.getvalue()


def clear(output: str) -> None:
    """Delete a prepared set's own files; the record first, so that half a set is never taken for a whole one."""
    delete(join(output, RECORD))
    for folder, suffix in ((NOTES, ".json"), (PICTURES, ".parquet")):
        for entry in list_files(join(output, folder), suffix):
            if entry.name.startswith("pictures-"):
                delete(join(output, folder, entry.name))
    delete(join(output, LABELS))


def _schema(columns: Sequence[str]) -> pa.Schema:
    import pyarrow as pa

    file = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    features = {column: {"_type": "Image"} for column in columns}
    return pa.schema(
        [(c, file) for c in columns], metadata={"huggingface": json.dumps({"info": {"features": features}})}
    )
