"""A bundle's tensors into the network that its build describes."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from raygseg.errors import CheckpointError


def fit_weights(network: nn.Module, tensors: Mapping[str, Tensor], name: str, prefix: str = "") -> None:
    """Load the tensors whose names begin with `prefix`, which is cut off.

    Raises CheckpointError that calls the network by `name` where one is missing, unknown or of another shape.
    """
    own = {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
    try:
        network.load_state_dict(own)
    except RuntimeError as error:
        raise CheckpointError(
            f"the weights do not fit the {name}: {str(error).splitlines()[0]}", "pull the bundle again"
        ) from error
