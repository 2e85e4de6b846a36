"""Every error a user can meet. Each says what is wrong, where, and how to mend it.

Exit codes (the command line maps each class to one): 0 ok, 1 the run failed, 2 usage or
configuration, 3 environment, 130 interrupted.
"""

from __future__ import annotations


class RaygsegError(Exception):
    """Base of all errors meant for users.

    Args:
        message: what is wrong, naming the file, key or URI.
        hint: what to do about it, one sentence.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  fix: {self.hint}" if self.hint else self.message

    def __reduce__(self) -> tuple[type[RaygsegError], tuple[str, str]]:
        # Errors cross process boundaries (Ray workers); the default would lose the hint.
        return type(self), (self.message, self.hint)


class ConfigError(RaygsegError, ValueError):
    """A configuration file, key or override is wrong."""

    exit_code = 2


class FingerprintError(ConfigError):
    """The place already holds results of another configuration; names the changed keys."""


class DataError(RaygsegError, ValueError):
    """A picture, mask, table or label set cannot be used; names the file."""


class CheckpointError(RaygsegError, ValueError):
    """A checkpoint or bundle is truncated, altered or of another kind; names the file."""


class StorageError(RaygsegError, OSError):
    """A disk or object store refused; names the URI, the endpoint and the likely cause."""


class TrainingError(RaygsegError, RuntimeError):
    """Training cannot go on (non-finite loss, too many failed workers)."""


class MissingEnvironmentError(RaygsegError, RuntimeError):
    """Something outside raygseg is missing: a package, a cluster, a server, a token."""

    exit_code = 3


class RegistryError(RaygsegError, LookupError):
    """A model, version or alias is not in the registry, or its files do not match."""
