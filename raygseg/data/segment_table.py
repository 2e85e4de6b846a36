"""segments.csv: one line a picture, appended as they are done, so that the same command goes on after a kill.

Beside it segments.json says which model made the masks; another model in the same place is refused.
"""

from __future__ import annotations

import csv
import io
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple, Self

from raygseg.data import object_store
from raygseg.data.picture_jobs import PictureEntry
from raygseg.errors import DataError, FingerprintError
from raygseg.labels import LabelSpace

TABLE, ABOUT = "segments.csv", "segments.json"
FIXED_COLUMNS = ("file", "mask", "width", "height", "seconds", "confidence", "status", "reason")
OK, SKIPPED = "ok", "skipped"
UPLOAD_SECONDS = 30.0


class SegmentRow(NamedTuple):
    """What became of one picture.

    Attributes:
        name: as listed. mask: place of the mask below the output; empty where there is none.
        width, height: in pixels; 0 where the picture could not be decoded.
        seconds: decoding, its share of the batch's prediction, and writing.
        confidence: mean probability of the chosen classes, 0 to 1.
        shares: share of the pixels of each class, in class order; empty where skipped.
        reason: why it was skipped; empty if it was not.
    """

    name: str
    mask: str
    width: int
    height: int
    seconds: float
    confidence: float
    shares: tuple[float, ...]
    reason: str

    def cells(self, classes: int) -> list[str]:
        """The line of the table."""
        known = (f"{self.seconds:.4f}", f"{self.confidence:.4f}", OK, "")
        shares = [f"{share:.6f}" for share in self.shares]
        if self.reason:
            known, shares = ("", "", SKIPPED, self.reason), [""] * classes
        return [self.name, self.mask, str(self.width), str(self.height), *known, *shares]


def mask_name(entry: PictureEntry) -> str:
    """Where a picture's mask goes, below the output."""
    return f"masks/{entry.target}.png"


class SegmentTable:
    """The open table of an output; use it as a context manager.

    Args:
        output: folder or s3:// prefix (there the table is uploaded now and then, and at the end).
        labels: classes of the masks.
        model, checksum: which model, and the checksum of its files (empty: not known).
        overlays: whether a picture is done only with its overlay.

    Raises:
        FingerprintError: the output holds masks of another model.
    """

    def __init__(self, output: str, labels: LabelSpace, model: str, checksum: str, overlays: bool) -> None:
        self.place = object_store.join(output, TABLE)
        self._columns = (*FIXED_COLUMNS, *(f"share {name}" for name in labels.names))
        self._classes, self._remote = labels.num_classes, object_store.is_s3(output)
        self._uploaded = time.monotonic()
        self._agree(output, {"model": model, "checksum": checksum, "labels": labels.to_dict()})
        object_store.delete_temporaries(output)
        kept = list(self._kept(output, overlays))
        self._done = {cells[0]: cells[1] for cells in kept}
        # Lines of skipped pictures and torn lines go: those pictures are tried again.
        text = self._text([list(self._columns), *kept])
        object_store.write_bytes(self.place, text.encode(errors="surrogateescape"))
        self._file: IO[str] = self._open(text)

    def is_done(self, entry: PictureEntry) -> bool:
        """Whether an earlier run wrote this picture's files and line."""
        return self._done.get(entry.name) == mask_name(entry)

    def add(self, row: SegmentRow) -> None:
        """Append a line; it is on disk when this returns."""
        with object_store.translated(self.place):
            self._file.write(self._text([row.cells(self._classes)]))
            self._file.flush()
        if self._remote and time.monotonic() - self._uploaded > UPLOAD_SECONDS:
            self._upload()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._remote:
            self._upload()
        self._file.close()

    def _agree(self, output: str, about: dict[str, object]) -> None:
        """Refuse an output of another model or other classes; else leave a note for next time."""
        place = object_store.join(output, ABOUT)
        if object_store.exists(place):
            try:
                before = json.loads(object_store.read_bytes(place))
            except json.JSONDecodeError as error:
                raise DataError(f"{place}: not JSON", "delete it, or choose another output") from error
            if (before.get("checksum"), before.get("labels")) != (about["checksum"], about["labels"]):
                raise FingerprintError(
                    f"{output} holds masks made by {before.get('model')}, a different model than {about['model']}",
                    "choose another output, or delete that folder to start afresh",
                )
            return
        object_store.write_bytes(place, (json.dumps(about, indent=1) + "\n").encode())

    def _kept(self, output: str, overlays: bool) -> Iterator[list[str]]:
        """Whole lines of pictures whose files are all there."""
        if not object_store.exists(self.place):
            return
        content = object_store.read_bytes(self.place)
        whole = content[: content.rfind(b"\n") + 1].decode(errors="surrogateescape")
        masks = {f"masks/{e.name}" for e in object_store.list_files(object_store.join(output, "masks"))}
        drawn = {e.name.rpartition(".")[0] for e in object_store.list_files(object_store.join(output, "overlays"))}
        seen: set[str] = set()
        for cells in csv.reader(io.StringIO(whole, newline="")):
            if len(cells) != len(self._columns) or cells[6] != OK or cells[0] in seen or cells[1] not in masks:
                continue
            if overlays and cells[1].removeprefix("masks/").removesuffix(".png") not in drawn:
                continue
            seen.add(cells[0])
            yield cells

    def _text(self, lines: Sequence[Sequence[str]]) -> str:
        buffer = io.StringIO(newline="")
        csv.writer(buffer, lineterminator="\n").writerows(lines)
        return buffer.getvalue()

    def _open(self, text: str) -> IO[str]:
        path = object_store.local_path(self.place)
        if self._remote:
            self._local = tempfile.TemporaryDirectory(prefix="raygseg-segments-")
            path = Path(self._local.name, TABLE)
            path.write_bytes(text.encode(errors="surrogateescape"))
        return path.open("a", encoding="utf-8", errors="surrogateescape", newline="")

    def _upload(self) -> None:
        self._file.flush()
        object_store.write_bytes(self.place, Path(self._local.name, TABLE).read_bytes())
        self._uploaded = time.monotonic()
