"""Files that the public code itself wrote, and the agreement with it; RAYGSEG_PEERS names its checkouts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from raygseg.benchmarks import parity
from raygseg.benchmarks.support import peers
from raygseg.methods.stylegan2.generator import StyleGAN2Generator
from raygseg.methods.stylegan2.importers import open_weights

# The pickle hooks, settings and half-precision blocks are the public code's own; {name} and {file} are filled in.
WRITE_SNAPSHOT = """
import importlib, torch
from raygseg.benchmarks.support import peers
peers.enter({name!r})
from torch_utils import persistence
import dnnlib
from training.augment import AugmentPipe
ada = {name!r} == peers.NVIDIA_ADA
networks = importlib.import_module('training.networks' if ada else 'training.networks_stylegan2')
widths = dict(channel_base=512, channel_max=32, num_fp16_res=2, conv_clamp=256)
sizes = dict(c_dim=0, img_resolution=32, img_channels=3)
G = networks.Generator(z_dim=16, w_dim=16, **sizes, mapping_kwargs=dict(num_layers=3),
                       **(dict(synthesis_kwargs=widths) if ada else widths))
D = networks.Discriminator(**sizes, **widths, block_kwargs=dict(freeze_layers=2),
                           epilogue_kwargs=dict(mbstd_group_size=8))
settings = dnnlib.EasyDict(class_name='training.dataset.ImageFolderDataset', path='a.zip', max_size=None)
pipe = AugmentPipe(xflip=1)
with open({file!r}, 'wb') as f:
    persistence.pickle.dump(dict(G=G, D=D, G_ema=G.eval().requires_grad_(False), augment_pipe=pipe,
                                 training_set_kwargs=settings), f)
torch.save(dict(G=G.state_dict(), D=D.state_dict()), {file!r} + '.pt')
"""


@pytest.fixture(autouse=True)
def checkouts() -> None:
    if not os.environ.get(peers.VARIABLE):
        pytest.skip(f"{peers.VARIABLE} is not set: no checkouts of the public implementations")


@pytest.mark.parametrize("name", [peers.NVIDIA_ADA, peers.NVIDIA_3])
def test_snapshot_of_the_public_code(name: str, tmp_path: Path) -> None:
    file = str(tmp_path / "network-snapshot.pkl")
    environment = {**os.environ, "PYTHONPATH": str(peers.REPOSITORY)}
    code = WRITE_SNAPSHOT.format(name=name, file=file)
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], env=environment, check=True, timeout=100)
    source = open_weights(file)
    assert source.networks == ("average", "generator", "discriminator")
    weights, judge = source.generator(), source.discriminator()
    theirs = torch.load(file + ".pt", weights_only=True)
    generator = StyleGAN2Generator(**weights.build)
    generator.load_state_dict(dict(weights.tensors))
    assert generator.build | {"resolution": 32, "mapping_layers": 3, "z_dim": 16} == generator.build
    assert torch.equal(generator.mapping.layers[2].weight, theirs["G"]["mapping.fc2.weight"])
    assert torch.equal(weights.tensors["synthesis.blocks.3.conv0.weight"], theirs["G"]["synthesis.b32.conv0.weight"])
    assert torch.equal(judge.tensors["blocks.0.conv0.weight"], theirs["D"]["b32.conv0.weight"])
    assert judge.build["mbstd_group"] == 8
    assert weights.notes == {"conv_clamp": 256, "fp16_resolutions": [16, 32]}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_nvidia_networks_agree() -> None:
    line = parity.run(only=peers.NVIDIA_ADA, sizes=(32,))
    assert line["relative_error"] <= 1e-4
    assert {"image", "logits", "r1, gradients", "path length, gradients"} <= line["quantities"].keys()
    assert max(line["fp64"].values()) <= 1e-10
