"""Open a source of pictures, given as one string.

    DIR, s3://bucket/prefix       pictures anywhere below; labelled: images/, masks/, labels.json or meta.json
    ...?split=test                names listed in splits.json (there or one folder up)
    ...?coarse=1                  classes merged by meta.json's fine_to_coarse
    ...?contrast=stretch          each picture stretched to the whole range of brightness
    FILE.parquet, a folder of them, on disk or s3://
    toy://STYLE?count=N&seed=S&start=I

Pictures that are not square are squashed to the square. Bad files are skipped and reported; past
`max_bad_fraction` they are an error.
"""

from __future__ import annotations

from raygseg.data.contrast import stretched_rows
from raygseg.data.folder import labelled_rows, picture_rows
from raygseg.data.parquet_rows import parquet_rows, table_files
from raygseg.data.picture_sets import (
    CACHE_LIMIT,
    BadFile,
    LabelledSet,
    PictureSet,
    Progress,
    Rows,
    ScanReport,
    data_fingerprint,
    scan,
)
from raygseg.data.source_address import SourceAddress, parse_source
from raygseg.data.streams import LabelledStream, PictureStream
from raygseg.labels import LabelSpace

__all__ = [
    "BadFile",
    "LabelledSet",
    "LabelledStream",
    "PictureSet",
    "PictureStream",
    "ScanReport",
    "data_fingerprint",
    "open_labelled",
    "open_pictures",
]


def open_pictures(
    source: str,
    resolution: int,
    max_bad_fraction: float = 0.05,
    limit: int = 0,
    progress: Progress | None = None,
    cache_limit: int = CACHE_LIMIT,
) -> PictureSet:
    """Unlabelled pictures at `resolution`.

    Args:
        source: see the module's text.
        resolution: side of the square in pixels.
        max_bad_fraction: share of files that may be skipped.
        limit: use only the first so many files in name order; 0: all.
        progress: called with (done, of how many) while files are checked.
        cache_limit: bytes of decoded pictures that may be kept in memory.

    Raises:
        DataError: nothing there, an unknown split, too many bad files.
        StorageError: the place cannot be reached.
    """
    address = parse_source(source)
    rows = _picture_rows(address)
    rows = stretched_rows(rows) if address.contrast else rows
    count = min(limit or len(rows.names), len(rows.names))
    if rows.checked:
        return PictureSet(rows, range(count), resolution, ScanReport(count), cache_limit)
    candidates = PictureSet(rows, range(count), resolution, ScanReport(count), cache_limit)
    kept, report = scan(candidates.read, candidates.names, source, max_bad_fraction, progress)
    return candidates.checked(kept, report)


def open_labelled(
    source: str,
    resolution: int | None,
    max_bad_fraction: float = 0.05,
    limit: int = 0,
    progress: Progress | None = None,
    cache_limit: int = CACHE_LIMIT,
) -> LabelledSet:
    """Pictures with label maps at `resolution`, or at their own sizes where it is None.

    Arguments and errors as for `open_pictures`; a missing mask, one of another size than its
    picture and a class index out of range make a file bad.
    """
    address = parse_source(source)
    rows, labels = _labelled_rows(address)
    rows = stretched_rows(rows) if address.contrast else rows
    count = min(limit or len(rows.names), len(rows.names))
    candidates = LabelledSet(rows, range(count), resolution, ScanReport(count), labels, cache_limit)
    if rows.checked:
        return candidates
    kept, report = scan(candidates.read, candidates.names, source, max_bad_fraction, progress)
    return candidates.checked(kept, report)


def _picture_rows(address: SourceAddress) -> Rows:
    if address.toy:
        return _toy_rows(address)
    if address.is_table or (not address.split and table_files(address.place)):
        return parquet_rows(address, labelled=False)[0]
    return picture_rows(address)


def _labelled_rows(address: SourceAddress) -> tuple[Rows, LabelSpace]:
    if address.toy:
        from raygseg.data.toy import toy_labels

        return _toy_rows(address), toy_labels()
    if address.is_table or (not address.split and table_files(address.place)):
        rows, labels = parquet_rows(address, labelled=True)
        assert labels is not None
        return rows, labels
    return labelled_rows(address)


def _toy_rows(address: SourceAddress) -> Rows:
    from raygseg.data.toy_rows import ToyRows

    return ToyRows(address.place, address.count, address.seed, address.start, address.size)
