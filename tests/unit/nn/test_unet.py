"""The U-Net: any size in, the same size out, and no picture sees its neighbours."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from raygseg.nn.unet import UNet


@pytest.mark.parametrize("size", [(32, 32), (33, 50), (7, 16)])
def test_gives_logits_at_the_input_size(size: tuple[int, int]) -> None:
    net = UNet(num_classes=5, width=8, depth=3)
    assert net(torch.randn(2, 3, *size)).shape == (2, 5, *size)


def test_a_picture_does_not_depend_on_the_batch() -> None:
    torch.manual_seed(0)
    net = UNet(num_classes=3, width=8, depth=2)
    images = torch.randn(3, 3, 16, 16)
    with torch.no_grad():
        together = net(images)
        alone = torch.cat([net(images[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in net.modules())


def test_widths_stop_at_eight_times_the_first() -> None:
    net = UNet(num_classes=2, width=8, depth=5)
    assert [block[0].out_channels for block in net.down] == [16, 32, 64, 64, 64]


def test_padding_does_not_change_what_needs_none() -> None:
    """The top left of a picture padded by hand gives the same logits as the padding inside."""
    torch.manual_seed(0)
    net = UNet(num_classes=2, width=8, depth=2)
    image = torch.randn(1, 3, 13, 16)
    by_hand = torch.nn.functional.pad(image, (0, 0, 0, 3), mode="replicate")
    with torch.no_grad():
        torch.testing.assert_close(net(image), net(by_hand)[..., :13, :])


def test_bf16_autocast_and_gradients() -> None:
    torch.manual_seed(0)
    net = UNet(num_classes=2, width=8, depth=2).to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        logits = net(torch.randn(1, 3, 16, 16))
    assert logits.dtype == torch.bfloat16
    logits.float().logsumexp(1).sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())
