"""MATLAB files of PASCAL-Part and SBD through scipy, which is asked for only where one is read."""

from __future__ import annotations

import io
from typing import Any

from raygseg.data.preparation.findings import UnusableError
from raygseg.data.preparation.reading import read_file
from raygseg.errors import MissingEnvironmentError


def require_scipy(what: str) -> None:
    """Raise MissingEnvironmentError where scipy is not installed."""
    try:
        import scipy.io  # noqa: F401
    except ImportError as error:
        raise MissingEnvironmentError(f"{what} needs the package scipy", "pip install 'raygseg[matlab]'") from error


def read_matlab(where: str, variable: str) -> Any:
    """The variable, structures as objects with attributes. Raises UnusableError."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    content = read_file(where, "mask unreadable")
    try:
        document = loadmat(io.BytesIO(content), struct_as_record=False, squeeze_me=True, variable_names=[variable])
    except (MatReadError, ValueError, TypeError, OSError, NotImplementedError, IndexError, KeyError) as error:
        raise UnusableError("mask unreadable", f"not a MATLAB file ({error})") from error
    if variable not in document:
        raise UnusableError("mask unreadable", f"no variable '{variable}' in it")
    return document[variable]
