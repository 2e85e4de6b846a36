"""A U-Net on a pretrained backbone: any size in, frozen weights nowhere inside, trained ones stored."""

from __future__ import annotations

import pytest
import torch

from raygseg.errors import CheckpointError
from raygseg.nn.pretrained_unet import PretrainedUNet, encoder_layers, new_unet, open_unet
from raygseg.nn.unet import UNet
from tests.unit.nn.backbones.weights_files import write_efficientnet_lite0, write_vgg16


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("weights")
    return {
        "efficientnet-lite0": str(write_efficientnet_lite0(folder / "e.safetensors", depth=3)),
        "vgg16": str(write_vgg16(folder / "v.safetensors", depth=3)),
    }


def make(weights: dict[str, str], name: str = "efficientnet-lite0", frozen: bool = True) -> PretrainedUNet:
    torch.manual_seed(0)
    return new_unet(name, weights[name], frozen, num_classes=3, width=8, depth=2)


@pytest.mark.parametrize("name", ["efficientnet-lite0", "vgg16"])
@pytest.mark.parametrize("size", [(32, 32), (33, 50)])
def test_gives_logits_at_the_input_size(weights: dict[str, str], name: str, size: tuple[int, int]) -> None:
    assert make(weights, name)(torch.randn(2, 3, *size)).shape == (2, 3, *size)


def test_levels_are_the_backbones_strides() -> None:
    assert encoder_layers("efficientnet-lite0", 4) == ("stride2", "stride4", "stride8", "stride16")
    assert encoder_layers("vgg16", 4) == ("block1", "block2", "block3", "block4", "block5")


def test_a_frozen_backbone_is_not_inside_and_a_trained_one_is(weights: dict[str, str]) -> None:
    frozen, tuned = make(weights), make(weights, frozen=False)
    assert not any(name.startswith("trunk") for name in frozen.state_dict())
    assert any(name.startswith("trunk") for name in tuned.state_dict())
    assert len(frozen.parameter_groups(0.0)) == 1
    own, inside = tuned.parameter_groups(0.1)
    assert inside["lr_scale"] == 0.1
    assert len(own["params"]) + len(inside["params"]) == len(list(tuned.parameters()))
    for net in (frozen, tuned):
        net(torch.randn(1, 3, 16, 16)).square().sum().backward()
        assert all(p.grad is not None for p in net.parameters())


@pytest.mark.parametrize("frozen", [True, False])
def test_is_rebuilt_from_its_build(weights: dict[str, str], frozen: bool) -> None:
    net = make(weights, frozen=frozen).eval()
    again = open_unet(**net.build)
    again.load_state_dict(net.state_dict())
    image = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(image), net(image), rtol=1e-4, atol=1e-4)
    other = net.build | {"encoder": net.build["encoder"] | {"sha256": "0" * 64}}
    if frozen:
        with pytest.raises(CheckpointError, match="not the efficientnet-lite0 weights"):
            open_unet(**other)
    else:
        assert isinstance(open_unet(**other), PretrainedUNet)  # its weights are in the bundle
    said = net.facts["backbone"]
    assert "EfficientNet-Lite0" in said and ("not inside" in said) == frozen and "Apache-2.0" in net.facts["licence"]


def test_a_bf16_backbone_is_read_in_full_precision_and_under_autocast(weights: dict[str, str]) -> None:
    net = new_unet("efficientnet-lite0", weights["efficientnet-lite0"], True, 3, 8, 2, "bf16")
    image = torch.randn(1, 3, 16, 16)
    assert net(image).dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert net(image).dtype == torch.bfloat16


def test_without_an_encoder_it_is_the_plain_network() -> None:
    assert isinstance(open_unet(**UNet(3, 4, 8, 2).build), UNet)
