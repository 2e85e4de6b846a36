from __future__ import annotations

import pytest
from ray.exceptions import RayTaskError

from raygseg.distributed.worker_errors import own_error
from raygseg.errors import DataError


def chained(inner: Exception, outer: Exception) -> Exception:
    outer.__cause__ = inner
    return outer


@pytest.mark.parametrize("wrap", ["bare", "chained", "task", "task-of-chained"])
def test_our_error_is_found_as_it_was_raised(wrap: str) -> None:
    ours = DataError("broken.png: not a picture", "remove it")
    wrapped: Exception = chained(ours, ValueError("outer")) if "chained" in wrap else ours
    if "task" in wrap:
        wrapped = RayTaskError("read", "trace", wrapped).as_instanceof_cause()
    found = own_error(wrapped)
    assert type(found) is DataError and found.hint == "remove it"


def test_other_errors_are_not_ours() -> None:
    assert own_error(RayTaskError("read", "trace", ValueError("x"))) is None
    loop = ValueError("a")
    assert own_error(chained(loop, loop)) is None
