"""The two dense encoders against plain chains of torch's functions on random weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from raygseg.errors import CheckpointError, MissingEnvironmentError
from raygseg.nn.backbones.resnet50_stride8 import FrozenBatchNorm, ResNet50Stride8, load_resnet50_stride8
from raygseg.nn.backbones.vgg16_stride8 import VGG16Stride8, load_vgg16_stride8
from tests.unit.nn.backbones.weights_files import write_vgg16

VGG_CONVS = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))


def plain_vgg(weights: dict[str, Tensor], images: Tensor) -> Tensor:
    x = (images + 1) * 127.5 - torch.tensor([123.68, 116.779, 103.939]).view(3, 1, 1)
    for block, places in enumerate(VGG_CONVS):
        wide = 2 if block == 4 else 1
        for place in places:
            kernel, bias = weights[f"features.{place}.weight"], weights[f"features.{place}.bias"]
            x = functional.conv2d(x, kernel, bias, padding=wide, dilation=wide)
            if place != 28:
                x = functional.relu(x)
        if block < 4:
            x = functional.max_pool2d(x, 3, stride=1 if block == 3 else 2, padding=1)
    return x


def test_vgg_is_the_plain_chain(tmp_path: Path) -> None:
    place = write_vgg16(tmp_path / "v.safetensors", depth=5)
    network = load_vgg16_stride8(place)
    assert sum(p.numel() for p in network.parameters()) == 14_714_688
    images = torch.rand(1, 3, 33, 50) * 2 - 1
    with torch.no_grad():
        found = network(images)
        torch.testing.assert_close(found, plain_vgg(network.state_dict(), images), rtol=1e-4, atol=1e-4)
    assert found.shape == (1, 512, 5, 7)
    assert (found < 0).any() and (found > 0).any()  # no last ReLU
    assert VGG16Stride8("bf16")(images).dtype == torch.float32


@pytest.mark.parametrize(("pixels", "cells"), [(417, 53), (201, 26), (8, 1)])
def test_the_map_has_a_cell_every_eight_pixels(pixels: int, cells: int) -> None:
    size = pixels
    for _ in range(3):
        size = (size + 2 - 3) // 2 + 1
    assert size == cells == -(-pixels // 8)


def plain_resnet(w: dict[str, Tensor], images: Tensor) -> Tensor:
    """The layout of the spec written out: no modules of ours, torch's own batch norm."""
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])

    def norm(x: Tensor, name: str) -> Tensor:
        parts = (w[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return functional.batch_norm(x, *parts, training=False)

    def block(x: Tensor, name: str, stride: int, dilation: int, relu: bool) -> Tensor:
        y = functional.relu(norm(functional.conv2d(x, w[f"{name}.conv1.weight"]), f"{name}.bn1"))
        y = functional.conv2d(y, w[f"{name}.conv2.weight"], None, stride, dilation, dilation)
        y = norm(functional.conv2d(functional.relu(norm(y, f"{name}.bn2")), w[f"{name}.conv3.weight"]), f"{name}.bn3")
        if f"{name}.downsample.0.weight" in w:
            x = norm(functional.conv2d(x, w[f"{name}.downsample.0.weight"], None, stride), f"{name}.downsample.1")
        return functional.relu(x + y) if relu else x + y

    x = (images * 0.5 + 0.5 - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    for place, stride in ((0, 2), (3, 1)):
        x = functional.relu(
            norm(functional.conv2d(x, w[f"conv1.{place}.weight"], None, stride, 1), f"conv1.{place + 1}")
        )
    x = functional.relu(norm(functional.conv2d(x, w["conv1.6.weight"], None, 1, 1), "bn1"))
    x = functional.max_pool2d(x, 3, 2, 1)
    for layer, count, stride in ((1, 3, 1), (2, 4, 2), (3, 6, 1)):
        for i in range(count):
            dilation = 2 if layer == 3 and i > 0 else 1
            x = block(x, f"layer{layer}.{i}", 1 if i else stride, dilation, not (layer == 3 and i == 5))
    return x


def random_resnet(seed: int = 0) -> ResNet50Stride8:
    torch.manual_seed(seed)
    network = ResNet50Stride8()
    for module in network.modules():
        if isinstance(module, FrozenBatchNorm):
            for name, low, high in (("weight", 0.3, 0.9), ("bias", -0.3, 0.3), ("running_mean", -0.3, 0.3)):
                nn.init.uniform_(getattr(module, name), low, high)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return network


def test_resnet_is_the_plain_chain(tmp_path: Path) -> None:
    network = random_resnet()
    more = {"layer4.0.conv1.weight": torch.zeros(2), "fc.weight": torch.zeros(2)}
    counted = {"bn1.num_batches_tracked": torch.zeros((), dtype=torch.int64)}
    save_file(
        {k: v.contiguous() for k, v in (network.state_dict() | more | counted).items()}, tmp_path / "r.safetensors"
    )
    again = load_resnet50_stride8(tmp_path / "r.safetensors")
    images = torch.rand(1, 3, 49, 64) * 2 - 1
    with torch.no_grad():
        found = again(images)
        plain = plain_resnet(network.state_dict(), images)
    assert found.shape == (1, 1024, 7, 8)
    assert float((found - plain).abs().max()) < 1e-5 * float(plain.abs().max())
    assert (found < 0).any()


def test_batch_norms_stay_frozen() -> None:
    network = random_resnet().train()
    assert sum(p.numel() for p in network.parameters()) == 8_636_096  # convolutions alone
    before = {k: v.clone() for k, v in network.state_dict().items() if "bn" in k}
    network(torch.rand(2, 3, 32, 32)).sum().backward()
    assert all(torch.equal(v, network.state_dict()[k]) for k, v in before.items())


def test_weights_that_are_not_there_or_not_those(tmp_path: Path) -> None:
    with pytest.raises(MissingEnvironmentError, match=r"none.safetensors.*not there"):
        load_vgg16_stride8(tmp_path / "none.safetensors")
    with pytest.raises(MissingEnvironmentError, match=r"none.safetensors.*not there"):
        load_resnet50_stride8(tmp_path / "none.safetensors")
    place = write_vgg16(tmp_path / "v.safetensors", depth=1)
    with pytest.raises(CheckpointError, match="not VGG-16"):
        load_vgg16_stride8(place)
    with pytest.raises(CheckpointError, match="not a ResNet-50"):
        load_resnet50_stride8(place)


@pytest.mark.parametrize(("make", "count"), [(VGG16Stride8, 5), (ResNet50Stride8, 4)])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_front_and_back_are_the_whole(make: type[VGG16Stride8], count: int, precision: str) -> None:
    torch.manual_seed(0)
    network = make(precision).eval()  # type: ignore[arg-type]
    assert len(network.parts) == count
    images = torch.rand(2, 3, 33, 50) * 2 - 1
    with torch.no_grad():
        whole = network(images)
        for parts in range(count + 1):
            halfway = network.front(images, parts)
            assert torch.equal(network.back(halfway, parts).to(images.dtype), whole), parts
