"""Public StyleGAN2 weights as ours: NVIDIA's `.pkl` and rosinality's `.pt`. No code of a file is ever run."""

from __future__ import annotations

import zipfile
from pathlib import Path

from raygseg.errors import CheckpointError
from raygseg.methods.stylegan2.importers.layout import Weights
from raygseg.methods.stylegan2.importers.nvidia import NvidiaSnapshot
from raygseg.methods.stylegan2.importers.rosinality import RosinalityCheckpoint

__all__ = ["NvidiaSnapshot", "RosinalityCheckpoint", "Weights", "open_weights"]


def open_weights(path: str | Path) -> NvidiaSnapshot | RosinalityCheckpoint:
    """The reader for a file, chosen by its content: `torch.save` writes a zip file, NVIDIA a bare pickle.

    Raises:
        CheckpointError: not there, truncated, of another kind, or asking for what is refused (named).
    """
    file = Path(path)
    if not file.is_file():
        raise CheckpointError(f"{file}: no such file", "check the path; folders and addresses are not read")
    if zipfile.is_zipfile(file) or file.suffix in (".pt", ".pth"):
        return RosinalityCheckpoint(file)
    return NvidiaSnapshot(file)
