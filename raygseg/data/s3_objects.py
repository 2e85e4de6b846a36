"""S3 through botocore: one thread-safe client an endpoint, whole objects, conditional PUT, listings.

Only `object_store` uses this; errors leave it as botocore's and become StorageErrors there.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from raygseg.data.s3_patience import patiently
from raygseg.errors import MissingEnvironmentError, StorageError

T = TypeVar("T")


def endpoint() -> str | None:
    """The S3 endpoint from the environment; None means AWS itself."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None


def error_code(error: BaseException) -> str:
    """The S3 error code, else the name of the exception's class."""
    response = getattr(error, "response", None)
    if isinstance(response, Mapping):
        return str(response.get("Error", {}).get("Code", ""))
    return type(error).__name__


def read(uri: str) -> bytes:
    bucket, key = split(uri)
    return _patiently(lambda _: bytes(_client().get_object(Bucket=bucket, Key=key)["Body"].read()))


def write(uri: str, content: bytes) -> None:
    bucket, key = split(uri)
    _patiently(lambda _: _client().put_object(Bucket=bucket, Key=key, Body=content))


def put_if_absent(uri: str, content: bytes) -> bool:
    """PUT with `If-None-Match: *`; False where the object exists (412) or another writer is at it (409)."""
    bucket, key = split(uri)

    def put(again: bool) -> bool:
        try:
            _client().put_object(Bucket=bucket, Key=key, Body=content, IfNoneMatch="*")
        except Exception as error:  # botocore makes its error classes at run time
            if error_code(error) not in ("PreconditionFailed", "412", "ConditionalRequestConflict"):
                raise
            # The try before, whose answer was lost, may have been the one that wrote it.
            return again and bool(_client().get_object(Bucket=bucket, Key=key)["Body"].read() == content)
        return True

    return _patiently(put)


def exists(uri: str) -> bool:
    bucket, key = split(uri)
    try:
        _patiently(lambda _: _client().head_object(Bucket=bucket, Key=key))
    except Exception as error:  # botocore makes its error classes at run time
        if error_code(error) in ("404", "NoSuchKey", "NotFound"):
            return False
        raise
    return True


def delete(uri: str) -> None:
    bucket, key = split(uri)
    _patiently(lambda _: _client().delete_object(Bucket=bucket, Key=key))


def buckets() -> list[str]:
    """Names of all buckets; keys may be good and yet not be allowed to ask (AccessDenied)."""
    return [str(bucket["Name"]) for bucket in _client().list_buckets().get("Buckets", ())]


def listing(uri: str) -> Iterator[tuple[str, int]]:
    """(name below the place, size) of every object, 1,000 a request."""
    bucket, key = split(uri)
    prefix = key.rstrip("/") + "/" if key.strip("/") else ""
    told = {"Bucket": bucket, "Prefix": prefix}

    def ask(_: bool) -> dict[str, Any]:
        return dict(_client().list_objects_v2(**told))

    while True:
        page = _patiently(ask)
        for item in page.get("Contents", ()):
            name = item["Key"][len(prefix) :]
            if name and not name.endswith("/"):
                yield name, int(item["Size"])
        if not page.get("IsTruncated"):
            return
        told["ContinuationToken"] = page["NextContinuationToken"]


def _patiently(request: Callable[[bool], T]) -> T:
    return patiently(endpoint() or "AWS", request)


def split(uri: str) -> tuple[str, str]:
    """Bucket and key. Raises StorageError where there is no bucket."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not bucket:
        raise StorageError(f"{uri}: no bucket in the address", "write s3://BUCKET/PREFIX")
    return bucket, key


def arrow_filesystem() -> Any:
    """The same store for pyarrow."""
    return _arrow(endpoint(), *_keys())


def _client() -> Any:
    return _client_for(endpoint(), *_keys())


def _keys() -> tuple[str | None, str | None]:
    return os.environ.get("AWS_ACCESS_KEY_ID"), os.environ.get("AWS_SECRET_ACCESS_KEY")


def _region() -> str:
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"


@functools.lru_cache(maxsize=8)
def _client_for(url: str | None, key: str | None, secret: str | None) -> Any:
    """A client, made again when endpoint or keys change."""
    try:
        import botocore.session
        from botocore.config import Config
    except ImportError as error:
        raise MissingEnvironmentError("s3:// places need the package botocore", "pip install botocore") from error
    config = Config(
        connect_timeout=5,
        read_timeout=60,
        retries={"mode": "standard"},  # three attempts, or AWS_MAX_ATTEMPTS
        # Older stores refuse the checksum trailers that newer clients add unasked.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3={"addressing_style": "path"} if url else {},
    )
    return botocore.session.get_session().create_client("s3", region_name=_region(), endpoint_url=url, config=config)


@functools.lru_cache(maxsize=8)
def _arrow(url: str | None, key: str | None, secret: str | None) -> Any:
    os.environ.setdefault("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")  # read when pyarrow.fs loads
    from pyarrow import fs

    # 13 tries with doubling pauses: some 100 s, as `s3_patience` waits.
    patient = fs.AwsStandardS3RetryStrategy(max_attempts=13)
    options: dict[str, Any] = {"connect_timeout": 5, "request_timeout": 60, "retry_strategy": patient}
    if url:
        scheme, _, host = url.rpartition("://")
        options.update(endpoint_override=host, scheme=scheme or "http", region=_region())
    if key and secret and not os.environ.get("AWS_SESSION_TOKEN"):
        options.update(access_key=key, secret_key=secret)
    return fs.S3FileSystem(**options)
