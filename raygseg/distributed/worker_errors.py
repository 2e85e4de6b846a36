"""Our own errors, found again inside what Ray wraps around them on their way out of a worker."""

from __future__ import annotations

from raygseg.errors import RaygsegError


def own_error(error: BaseException | None) -> RaygsegError | None:
    """The first RaygsegError in the chain of causes, as it was raised; None if there is none."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        # Ray makes classes that are both its own and the cause's: those are not what was raised.
        if isinstance(error, RaygsegError) and not hasattr(error, "cause"):
            return error
        error = getattr(error, "base_exc", None) or getattr(error, "cause", None) or error.__cause__
    return None
