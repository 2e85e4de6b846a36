"""Read one file of a source: what is wrong with it alone is a finding, what is wrong with the place is an error."""

from __future__ import annotations

from raygseg.data.object_store import concerns_one_file, read_bytes
from raygseg.data.preparation.findings import UnusableError
from raygseg.errors import StorageError


def read_file(where: str, kind: str) -> bytes:
    """The whole file.

    Raises:
        UnusableError: of this kind, where this file cannot be read.
        StorageError: the place cannot be reached; the same command goes on later.
    """
    try:
        return read_bytes(where)
    except StorageError as error:
        if not concerns_one_file(error):
            raise
        raise UnusableError(kind, str(error.__cause__ or error.message)) from error
