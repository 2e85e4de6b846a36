"""A resolved configuration as MLflow wants it: flat, short, unchanging parameters and changeable tags."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

MAX_VALUE = 500
MAX_KEY = 250
CHANGEABLE = "runtime"
_FORBIDDEN = re.compile(r"[^\w\-. /:]")


def safe_key(key: str) -> str:
    """A name that MLflow accepts: letters, digits, `_-. /:`, at most 250 characters."""
    return _FORBIDDEN.sub("_", key).lstrip("/")[:MAX_KEY] or "_"


def cut(text: str, limit: int = MAX_VALUE) -> str:
    """`text`, or its start with an ellipsis and its full length, within `limit` characters."""
    if len(text) <= limit:
        return text
    note = f"… ({len(text)} characters)"
    return text[: limit - len(note)] + note


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """`{"data": {"resolution": 32}}` -> `{"data.resolution": "32"}`; lists become one value."""
    flat: dict[str, str] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{name}."))
        else:
            flat[safe_key(name)] = cut(str(list(value)) if isinstance(value, (list, tuple)) else str(value))
    return flat


def split_config(config: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, str]]:
    """(parameters, tags): `runtime` may change from one resume to the next, which MLflow allows of tags only."""
    lasting = {key: value for key, value in config.items() if key != CHANGEABLE}
    changeable = {key: value for key, value in config.items() if key == CHANGEABLE}
    return flatten(lasting), flatten(changeable)
