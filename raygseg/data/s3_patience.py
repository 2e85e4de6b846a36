"""Waiting for an S3 server that is away for a while: it restarts, the network is cut, it asks for less.

botocore tries a request three times within seconds. Here the whole of it is tried again, with growing pauses, until
RAYGSEG_S3_PATIENCE seconds are over (120), so that a job outlives what a store needs to come back. A store that never
answered in this process is more likely addressed wrongly: then the first refusal counts. Worker processes, whose
driver has reached the store, say `expect_outages` first.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from raygseg.errors import ConfigError

ENVIRONMENT = "RAYGSEG_S3_PATIENCE"
PATIENCE_SECONDS = 120.0
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 8.0
# By name, as botocore makes some of its classes at run time.
AWAY = frozenset(
    {
        "EndpointConnectionError", "ConnectTimeoutError", "ReadTimeoutError", "ConnectionClosedError",
        "HTTPClientError", "ConnectionError", "ResponseStreamingError", "IncompleteReadError", "ProxyConnectionError",
    }
)  # fmt: skip
BUSY = frozenset(
    {"SlowDown", "ServiceUnavailable", "InternalError", "RequestTimeout", "Throttling", "ThrottlingException",
     "500", "502", "503", "504"}
)  # fmt: skip

T = TypeVar("T")
log = logging.getLogger(__name__)
_lock = threading.Lock()
_answered: set[str] = set()
_always = False


def expect_outages() -> None:
    """Be patient from the first request on: called in worker processes."""
    global _always
    _always = True


def patience() -> float:
    """Seconds. Raises ConfigError for a value that is no number."""
    text = os.environ.get(ENVIRONMENT, "")
    try:
        return float(text) if text else PATIENCE_SECONDS
    except ValueError:
        raise ConfigError(f"{ENVIRONMENT}='{text}' is not a number", "give seconds, 0 for no patience") from None


def is_away(error: BaseException) -> bool:
    """Whether the store may answer if it is asked again."""
    if any(kind.__name__ in AWAY for kind in type(error).__mro__):
        return True
    response = getattr(error, "response", None)
    if not isinstance(response, Mapping):
        return False
    code = str(response.get("Error", {}).get("Code", ""))
    status = str(response.get("ResponseMetadata", {}).get("HTTPStatusCode", ""))
    return code in BUSY or status in BUSY


def patiently(where: str, request: Callable[[bool], T]) -> T:
    """The answer of `request(again)`, which is made anew while the store `where` is away.

    again: whether an earlier try may have been carried out although no answer came.
    """
    began, pause, again = time.monotonic(), FIRST_PAUSE, False
    while True:
        try:
            answer = request(again)
        except Exception as error:
            waited = time.monotonic() - began
            if not is_away(error):
                _answers(where)
                raise
            if waited >= patience() or not (_always or where in _answered):
                raise
            if not again:
                _tell(where, error)
            # Workers that lost the store together must not come back together.
            time.sleep(pause * (0.75 + 0.5 * (hash((os.getpid(), threading.get_ident(), pause)) % 1000) / 1000))
            pause, again = min(2 * pause, LONGEST_PAUSE), True
            continue
        _answers(where)
        if again:
            log.warning("%s answers again after %.0f s", where, time.monotonic() - began)
        return answer


def _answers(where: str) -> None:
    with _lock:
        _answered.add(where)


def _tell(where: str, error: Exception) -> None:
    lines = str(error).strip().splitlines()
    why = lines[0] if lines else type(error).__name__
    log.warning("%s does not answer (%s); waiting up to %.0f s", where, why, patience())
