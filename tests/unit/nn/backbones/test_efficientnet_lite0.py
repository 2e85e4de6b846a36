"""EfficientNet-Lite0's maps: published sizes, TensorFlow's padding, stored statistics, and a file that is checked."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.nn import functional

from raygseg.errors import CheckpointError, ConfigError, MissingEnvironmentError
from raygseg.nn.backbones.efficientnet_lite0 import EfficientNetLite0Features, SameConv2d, load_efficientnet_lite0
from tests.unit.nn.backbones.weights_files import write_efficientnet_lite0, write_vgg16


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_efficientnet_lite0(tmp_path_factory.mktemp("weights") / "e.safetensors")


@pytest.mark.parametrize("size", [(64, 64), (33, 50)])
def test_maps_have_the_stated_sizes(weights: Path, size: tuple[int, int]) -> None:
    network = load_efficientnet_lite0(weights, resolution=64)
    maps = network(torch.randn(2, 3, *size))
    assert [layer.name for layer in network.feature_layers] == ["stride2", "stride4", "stride8", "stride16", "stride32"]
    for i, layer in enumerate(network.feature_layers):
        height, width = (-(-side // 2 ** (i + 1)) for side in size)
        assert maps[layer.name].shape == (2, layer.channels, height, width)
    assert [layer.resolution for layer in network.feature_layers] == [32, 16, 8, 4, 2]


def test_parameters_are_those_of_the_published_network() -> None:
    """4,652,008 with the head's 1,280 channels and the classifier of 1,000 classes."""
    own = sum(p.numel() for p in EfficientNetLite0Features().parameters())
    assert own + 320 * 1280 + 2 * 1280 + 1281 * 1000 == 4_652_008


def test_a_shallow_network_has_no_deeper_blocks(weights: Path) -> None:
    shallow, deep = load_efficientnet_lite0(weights, depth=2), load_efficientnet_lite0(weights)
    assert [layer.name for layer in shallow.feature_layers] == ["stride2", "stride4"]
    assert len(shallow._blocks) == 3
    image = torch.randn(1, 3, 32, 32)
    assert torch.equal(shallow(image)["stride4"], deep(image, ["stride4"])["stride4"])


@pytest.mark.parametrize(("kernel", "size"), [(3, 8), (5, 8), (3, 7), (5, 9)])
def test_strided_convolutions_pad_like_tensorflow(kernel: int, size: int) -> None:
    """SAME: total = (ceil(n / 2) - 1) * 2 + k - n, its smaller half before."""
    torch.manual_seed(0)
    conv = SameConv2d(1, 1, kernel, 2)
    line = torch.randn(size)
    total = max((-(-size // 2) - 1) * 2 + kernel - size, 0)
    padded = np.pad(line.numpy(), (total // 2, total - total // 2))
    middle = conv.weight.detach()[0, 0].sum(0).numpy()  # a picture that is constant over its rows
    expected = [float(padded[2 * i : 2 * i + kernel] @ middle) for i in range(-(-size // 2))]
    picture = line.expand(1, 1, 9, size)
    with torch.no_grad():
        rows = conv(picture)[0, 0]
    assert np.allclose(rows[2].numpy(), expected, atol=1e-5)


def test_folding_the_norms_changes_nothing(weights: Path) -> None:
    image = torch.randn(1, 3, 64, 64)
    plain = load_efficientnet_lite0(weights, fused=False)
    fused = load_efficientnet_lite0(weights)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in fused.modules())
    for name, maps in plain(image).items():
        assert torch.allclose(fused(image)[name], maps, rtol=1e-3, atol=1e-3 * float(maps.abs().max()))


def test_training_leaves_the_stored_statistics_alone(weights: Path) -> None:
    network = load_efficientnet_lite0(weights, depth=2, fused=False).requires_grad_(True).train()
    before = {name: value.clone() for name, value in network.named_buffers()}
    images = torch.randn(3, 3, 32, 32)
    together = network(images)["stride4"]
    together.sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in network.named_buffers())
    assert torch.allclose(network(images[1:2])["stride4"], together[1:2], atol=1e-4)
    assert all(p.grad is not None for p in network.parameters())


def test_bf16_stays_close(weights: Path) -> None:
    image = torch.randn(1, 3, 64, 64)
    full = load_efficientnet_lite0(weights, depth=3)(image)["stride8"]
    half = load_efficientnet_lite0(weights, depth=3, precision="bf16")(image)["stride8"]
    assert half.dtype == torch.bfloat16
    assert float((half - full).norm() / full.norm()) < 0.05


def test_errors_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(MissingEnvironmentError, match=r"none\.safetensors"):
        load_efficientnet_lite0(tmp_path / "none.safetensors")
    other = write_vgg16(tmp_path / "vgg.safetensors", depth=1)
    with pytest.raises(CheckpointError, match=r"vgg\.safetensors: not EfficientNet-Lite0"):
        load_efficientnet_lite0(other)
    (tmp_path / "text.safetensors").write_text("no tensors")
    with pytest.raises(CheckpointError, match=r"text\.safetensors"):
        load_efficientnet_lite0(tmp_path / "text.safetensors")
    with pytest.raises(ConfigError, match="5 strides, not 6"):
        EfficientNetLite0Features(6)


def test_real_weights_know_dogs_and_cats(real_data: Path) -> None:
    """The classifier that lies in the file, on photos of VOC: ImageNet's dogs are 151-268, cats 281-285."""
    file = real_data / "weights" / "efficientnet_lite0.safetensors"
    network, tensors = load_efficientnet_lite0(file), {k: v.float() for k, v in load_file(file).items()}
    index = json.loads((real_data / "fewshot" / "index.json").read_text())["classes"]
    right = 0
    kinds = {"dog": range(151, 269), "cat": range(281, 286)}
    for name, classes in kinds.items():
        large = [entry["image"] for entry in index[f"animals_voc/{name}"] if entry["frac"] > 0.3]
        for file_name in large[:10]:
            picture = Image.open(real_data / file_name).convert("RGB").resize((224, 224), Image.Resampling.BICUBIC)
            image = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
            x = functional.conv2d(network(image, ["stride32"])["stride32"], tensors["_conv_head.weight"])
            norm = [tensors[f"_bn1.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
            x = functional.relu6(functional.batch_norm(x, *norm, eps=1e-3)).mean((2, 3))
            right += int((x @ tensors["_fc.weight"].T + tensors["_fc.bias"]).argmax()) in classes
    assert right >= 14, right
