"""One local Ray cluster for all Ray tests of a session; starting one takes seconds."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A cluster of at least four logical CPUs, started as the command line starts it."""
    from raygseg.distributed import cluster

    os.environ.pop("RAY_ADDRESS", None)
    # Short: Ray puts sockets below it, whose paths may have 107 characters.
    folder = tempfile.mkdtemp(prefix="rgs-", dir="/tmp")
    os.environ["RAY_TMPDIR"] = folder
    cluster.connect()
    yield
    cluster.shutdown()
    shutil.rmtree(folder, ignore_errors=True)
