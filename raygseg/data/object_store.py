"""The one seam to disk and S3: whole files in, whole files out, and "put unless it is there".

A place is a path (`runs/pairs`, `file:///runs/pairs`) or `s3://bucket/key`. S3 is reached at
AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL, else at AWS, with the keys botocore finds. The only
conditional request used is PUT with `If-None-Match: *`: stores agree on no other form. A server that
is away for a minute is waited for (`s3_patience`). Every failure is a StorageError that names the URI,
the endpoint and the likely cause.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from raygseg.data import s3_objects
from raygseg.data.s3_objects import endpoint, error_code
from raygseg.data.s3_patience import expect_outages as expect_outages
from raygseg.errors import MissingEnvironmentError, StorageError

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

TEMPORARY_SUFFIX = ".tmp"

_S3_CAUSES: Mapping[str, str] = {
    "NoSuchBucket": "the bucket does not exist: make it, or correct its name",
    "InvalidAccessKeyId": "the access key is unknown there: set AWS_ACCESS_KEY_ID",
    "SignatureDoesNotMatch": "the secret key is wrong: set AWS_SECRET_ACCESS_KEY",
    "AccessDenied": "the keys may not do this: check the bucket's policy",
    "403": "the keys are wrong or may not do this: check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "EndpointConnectionError": "nothing answers there: start the server or correct AWS_ENDPOINT_URL",
    "ConnectTimeoutError": "nothing answers there: start the server or correct AWS_ENDPOINT_URL",
    "NoCredentialsError": "no keys found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "InsufficientStorage": "the store is full: free space there",
    "InternalError": "the store failed; if it is full, free space there and run the command again",
}
_DISK_CAUSES: Mapping[int, str] = {
    errno.ENOSPC: "the disk is full: free space there and run the same command again",
    errno.EDQUOT: "your quota is used up: free space there and run the same command again",
    errno.EFBIG: "the file would exceed the allowed size: raise `ulimit -f` and run the same command again",
    errno.EACCES: "you may not write or read there: change the permissions or the place",
    errno.EROFS: "that file system is read-only: choose another place",
    errno.ENOTDIR: "a file stands where a folder is needed: choose another place",
}


class Entry(NamedTuple):
    """A file below a listed place: its path relative to that place, with `/`, and its size in bytes."""

    name: str
    size: int


def is_s3(uri: str) -> bool:
    return uri.startswith("s3://")


def join(uri: str, *parts: str) -> str:
    """The place `parts` below `uri`."""
    return "/".join([uri.rstrip("/"), *parts]) if is_s3(uri) else str(Path(local_path(uri), *parts))


def local_path(uri: str) -> Path:
    """The path of a place on disk; `file://` is taken off."""
    return Path(uri.removeprefix("file://"))


def filesystem(uri: str) -> tuple[FileSystem, str]:
    """The pyarrow file system of a place and the place's path in it, for reading Parquet."""
    from pyarrow import fs

    if not is_s3(uri):
        return fs.LocalFileSystem(), str(local_path(uri).absolute())
    return s3_objects.arrow_filesystem(), uri.removeprefix("s3://").rstrip("/")


def read_bytes(uri: str) -> bytes:
    """The whole file. Raises StorageError, also where it does not exist."""
    with translated(uri):
        return s3_objects.read(uri) if is_s3(uri) else local_path(uri).read_bytes()


def write_bytes(uri: str, content: bytes) -> None:
    """Write the file whole or not at all, replacing what is there."""
    with translated(uri):
        if is_s3(uri):
            s3_objects.write(uri, content)
            return
        temporary = _write_temporary(local_path(uri), content)
        try:
            os.replace(temporary, local_path(uri))
        except OSError:
            temporary.unlink(missing_ok=True)
            raise


def put_if_absent(uri: str, content: bytes) -> bool:
    """Write the file whole unless it exists; of several writers exactly one gets True."""
    with translated(uri):
        return s3_objects.put_if_absent(uri, content) if is_s3(uri) else _put_disk(local_path(uri), content)


def exists(uri: str) -> bool:
    """Whether the file (not folder) exists."""
    with translated(uri):
        return s3_objects.exists(uri) if is_s3(uri) else local_path(uri).is_file()


def concerns_one_file(error: StorageError) -> bool:
    """Whether a file that could not be read is to blame itself (missing, not allowed, a bad sector).

    Where a server does not answer, every file would seem bad.
    """
    cause = error.__cause__
    if cause is None or type(cause).__module__.startswith("botocore"):
        return error_code(cause or error) in ("NoSuchKey", "404", "AccessDenied", "403")
    return isinstance(cause, OSError) and cause.errno in (errno.ENOENT, errno.EACCES, errno.EPERM, errno.EIO)


def list_files(uri: str, suffix: str = "", closed: list[str] | None = None) -> list[Entry]:
    """All files below the place, at any depth, in name order; temporary and hidden ones left out.

    One pass over the listing (1,000 names a request on S3). A place that does not exist is empty, so is
    a folder that may not be opened; `closed` gets the paths of those.
    """
    with translated(uri):
        found = s3_objects.listing(uri) if is_s3(uri) else _list_disk(local_path(uri), closed)
        return sorted(Entry(name, size) for name, size in found if name.endswith(suffix) and not _hidden(name))


def delete(uri: str) -> None:
    """Delete the file; it need not exist."""
    with translated(uri):
        if is_s3(uri):
            s3_objects.delete(uri)
        else:
            local_path(uri).unlink(missing_ok=True)


def delete_temporaries(uri: str) -> int:
    """Remove what killed writers left below a place on disk; how many. S3 keeps no half-written objects."""
    if is_s3(uri) or not local_path(uri).is_dir():
        return 0
    with translated(uri):
        leftovers = list(local_path(uri).rglob(f".*{TEMPORARY_SUFFIX}"))
        for leftover in leftovers:
            leftover.unlink(missing_ok=True)
        return len(leftovers)


@contextmanager
def translated(uri: str) -> Iterator[None]:
    """Turn whatever disk, botocore or pyarrow raises about `uri` into StorageError."""
    try:
        yield
    except (StorageError, MissingEnvironmentError):
        raise
    except OSError as error:
        raise _storage_error(uri, error) from error
    except Exception as error:
        if not type(error).__module__.startswith("botocore"):
            raise
        raise _storage_error(uri, error) from error


def _storage_error(uri: str, error: Exception) -> StorageError:
    code = error_code(error)
    if code in ("NoSuchKey", "404", "FileNotFoundError"):
        return StorageError(f"{uri}: not found{_at(uri)}", "check the path; list the place to see what is there")
    number = error.errno if isinstance(error, OSError) else None
    cause = _S3_CAUSES.get(code) or _DISK_CAUSES.get(number or 0)
    if cause is None:  # pyarrow puts the S3 code into the message only
        cause = next((c for k, c in _S3_CAUSES.items() if not k.isdigit() and k in str(error)), None)
    return StorageError(f"{uri}: {error}{_at(uri)}", cause or "check that the place exists and can be reached")


def _at(uri: str) -> str:
    return f" (endpoint {endpoint() or 'AWS'})" if is_s3(uri) else ""


def _hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))


# --- disk ----------------------------------------------------------------------------------------


def _write_temporary(target: Path, content: bytes) -> Path:
    """A neighbour of `target` with the content, flushed to the disk; nothing is left after a failure."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def _put_disk(target: Path, content: bytes) -> bool:
    if target.exists():
        return False
    temporary = _write_temporary(target, content)
    try:
        os.link(temporary, target)
        return True
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
            raise
        return _create_exclusively(target, temporary)
    finally:
        temporary.unlink(missing_ok=True)


def _create_exclusively(target: Path, temporary: Path) -> bool:
    """Where the file system has no hard links: claim the name, then put the content in its place."""
    try:
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
    except FileExistsError:
        return False
    os.replace(temporary, target)
    return True


def _list_disk(folder: Path, closed: list[str] | None) -> Iterator[tuple[str, int]]:
    def refused(error: OSError) -> None:
        if closed is not None and Path(error.filename) != folder:
            closed.append(Path(error.filename).relative_to(folder).as_posix())

    for parent, _, names in os.walk(folder, onerror=refused):
        for name in names:
            path = Path(parent, name)
            try:
                yield path.relative_to(folder).as_posix(), path.stat().st_size
            except FileNotFoundError:  # another process removed its temporary file meanwhile
                continue
