"""The one seam to disk and S3: whole files in, whole files out, and "put unless it is there".

A place is a path (`runs/pairs`, `file:///runs/pairs`) or `s3://bucket/key`. S3 is reached at
AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL, else at AWS, with the keys botocore finds. The only
conditional request used is PUT with `If-None-Match: *`: stores agree on no other form. Every
failure is a StorageError that names the URI, the endpoint and the likely cause.
"""

from __future__ import annotations

import errno
import functools
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

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


def endpoint() -> str | None:
    """The S3 endpoint from the environment; None means AWS itself."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None


def filesystem(uri: str) -> tuple[FileSystem, str]:
    """The pyarrow file system of a place and the place's path in it, for reading Parquet."""
    from pyarrow import fs

    if not is_s3(uri):
        return fs.LocalFileSystem(), str(local_path(uri).absolute())
    return _arrow_s3(endpoint(), os.environ.get("AWS_ACCESS_KEY_ID")), uri.removeprefix("s3://").rstrip("/")


def read_bytes(uri: str) -> bytes:
    """The whole file. Raises StorageError, also where it does not exist."""
    with translated(uri):
        if not is_s3(uri):
            return local_path(uri).read_bytes()
        bucket, key = _split(uri)
        return bytes(_client().get_object(Bucket=bucket, Key=key)["Body"].read())


def write_bytes(uri: str, content: bytes) -> None:
    """Write the file whole or not at all, replacing what is there."""
    with translated(uri):
        if is_s3(uri):
            bucket, key = _split(uri)
            _client().put_object(Bucket=bucket, Key=key, Body=content)
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
        return _put_s3(uri, content) if is_s3(uri) else _put_disk(local_path(uri), content)


def exists(uri: str) -> bool:
    """Whether the file (not folder) exists."""
    with translated(uri):
        if not is_s3(uri):
            return local_path(uri).is_file()
        bucket, key = _split(uri)
        try:
            _client().head_object(Bucket=bucket, Key=key)
        except Exception as error:  # botocore makes its error classes at run time
            if _code(error) in ("404", "NoSuchKey", "NotFound"):
                return False
            raise
        return True


def list_files(uri: str, suffix: str = "") -> list[Entry]:
    """All files below the place, at any depth, in name order; temporary and hidden ones left out.

    One pass over the listing (1,000 names a request on S3). A place that does not exist is empty.
    """
    with translated(uri):
        entries = _list_s3(uri) if is_s3(uri) else _list_disk(local_path(uri))
        return sorted(e for e in entries if e.name.endswith(suffix) and not _hidden(e.name))


def delete(uri: str) -> None:
    """Delete the file; it need not exist."""
    with translated(uri):
        if is_s3(uri):
            bucket, key = _split(uri)
            _client().delete_object(Bucket=bucket, Key=key)
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
    code = _code(error)
    if code in ("NoSuchKey", "404", "FileNotFoundError"):
        return StorageError(f"{uri}: not found{_at(uri)}", "check the path; list the place to see what is there")
    number = error.errno if isinstance(error, OSError) else None
    cause = _S3_CAUSES.get(code) or _DISK_CAUSES.get(number or 0)
    if cause is None:  # pyarrow puts the S3 code into the message only
        cause = next((c for k, c in _S3_CAUSES.items() if not k.isdigit() and k in str(error)), None)
    return StorageError(f"{uri}: {error}{_at(uri)}", cause or "check that the place exists and can be reached")


def _at(uri: str) -> str:
    return f" (endpoint {endpoint() or 'AWS'})" if is_s3(uri) else ""


def _code(error: Exception) -> str:
    """The S3 error code, else the name of the exception's class."""
    response = getattr(error, "response", None)
    if isinstance(response, Mapping):
        return str(response.get("Error", {}).get("Code", ""))
    return type(error).__name__


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


def _list_disk(folder: Path) -> Iterator[Entry]:
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            try:
                yield Entry(path.relative_to(folder).as_posix(), path.stat().st_size)
            except FileNotFoundError:  # another process removed its temporary file meanwhile
                continue


# --- S3 ------------------------------------------------------------------------------------------


def _split(uri: str) -> tuple[str, str]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not bucket:
        raise StorageError(f"{uri}: no bucket in the address", "write s3://BUCKET/PREFIX")
    return bucket, key


def _client() -> Any:
    return _client_for(endpoint(), os.environ.get("AWS_ACCESS_KEY_ID"), os.environ.get("AWS_SECRET_ACCESS_KEY"))


@functools.lru_cache(maxsize=8)
def _client_for(url: str | None, key: str | None, secret: str | None) -> Any:
    """A botocore client (thread-safe), made again when endpoint or keys change."""
    try:
        import botocore.session
        from botocore.config import Config
    except ImportError as error:
        raise MissingEnvironmentError("s3:// places need the package botocore", "pip install 'raygseg[s3]'") from error
    config = Config(
        connect_timeout=5,
        read_timeout=60,
        retries={"mode": "standard"},  # three attempts, or AWS_MAX_ATTEMPTS
        # Older stores refuse the checksum trailers that newer clients add unasked.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3={"addressing_style": "path"} if url else {},
    )
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    return botocore.session.get_session().create_client("s3", region_name=region, endpoint_url=url, config=config)


@functools.lru_cache(maxsize=8)
def _arrow_s3(url: str | None, key: str | None) -> Any:
    os.environ.setdefault("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
    from pyarrow import fs

    options: dict[str, Any] = {"connect_timeout": 5, "request_timeout": 60}
    if url:
        scheme, _, host = url.rpartition("://")
        options.update(endpoint_override=host, scheme=scheme or "http")
        options["region"] = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    return fs.S3FileSystem(**options)


def _put_s3(uri: str, content: bytes) -> bool:
    bucket, key = _split(uri)
    try:
        _client().put_object(Bucket=bucket, Key=key, Body=content, IfNoneMatch="*")
    except Exception as error:  # botocore makes its error classes at run time
        if _code(error) in ("PreconditionFailed", "412", "ConditionalRequestConflict"):
            return False
        raise
    return True


def _list_s3(uri: str) -> Iterator[Entry]:
    bucket, key = _split(uri)
    prefix = key.rstrip("/") + "/" if key.strip("/") else ""
    for page in _client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for item in page.get("Contents", ()):
            name = item["Key"][len(prefix) :]
            if name and not name.endswith("/"):
                yield Entry(name, int(item["Size"]))
