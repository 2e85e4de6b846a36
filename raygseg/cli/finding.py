"""What a check of `raygseg doctor` found, and the one way it asks servers."""

from __future__ import annotations

import base64
import urllib.error
import urllib.request
from typing import NamedTuple

PATIENCE_SECONDS = 5


class Finding(NamedTuple):
    """state: ok, note (works, but not what was tested) or fail; found: what is there; fix: what to do."""

    name: str
    state: str
    found: str
    fix: str = ""


class Answer(NamedTuple):
    """HTTP status (0: none), the body, and why there was no answer."""

    status: int
    body: bytes = b""
    trouble: str = ""


def ask(address: str, headers: dict[str, str] | None = None) -> Answer:
    """GET an address; a refusal such as 403 is an answer."""
    try:
        request = urllib.request.Request(address, headers=headers or {})
        with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:
            return Answer(answer.status, answer.read())
    except urllib.error.HTTPError as error:
        return Answer(error.code)
    except (OSError, ValueError) as error:
        return Answer(0, trouble=str(getattr(error, "reason", error)))


def unreachable(address: str) -> str:
    """Why an HTTP address does not answer; empty if it does."""
    answer = ask(address)
    return f"HTTP {answer.status}" if answer.status >= 500 else answer.trouble


def basic(user: str, password: str) -> dict[str, str]:
    """The header of basic authentication; empty without a user."""
    text = base64.b64encode(f"{user}:{password}".encode()).decode()
    return {"Authorization": f"Basic {text}"} if user else {}
