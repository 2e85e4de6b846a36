"""The label branch and the label discriminator: published sizes, shapes, and where gradients go (spec B3, B4)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from raygseg.bundle import read_bundle
from raygseg.methods.semanticgan.label_discriminator import LabelDiscriminator, SpectralConv, scores
from raygseg.methods.stylegan2.generator import StyleGAN2Generator

BUILD = {"resolution": 16, "z_dim": 8, "w_dim": 8, "mapping_layers": 2, "channel_base": 128, "channel_max": 8}


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def generator(label_channels: int, image_channels: int = 3) -> StyleGAN2Generator:
    torch.manual_seed(0)
    return StyleGAN2Generator(**BUILD, image_channels=image_channels, label_channels=label_channels)  # type: ignore[arg-type]


def test_published_parameter_counts() -> None:
    with torch.device("meta"):
        faces = StyleGAN2Generator(256, label_channels=8)
        assert count(faces) == 31_568_218
        blocks = faces.synthesis._blocks()
        assert sum(count(block.to_image) for block in blocks) == 1_519_125
        assert sum(count(block.to_labels) for block in blocks if block.to_labels) == 1_533_880
        assert count(StyleGAN2Generator(256, image_channels=1, label_channels=1)) == 31_541_659
        assert count(StyleGAN2Generator(256, label_channels=0)) == 30_034_338
    assert count(LabelDiscriminator(3 + 8)) == 8_316_099


def test_feature_sizes_of_the_label_discriminator() -> None:
    sizes = [[129, 65, 33, 34, 35], [65, 33, 17, 18, 19], [33, 17, 9, 10, 11]]
    judged = LabelDiscriminator(11, width=4)(torch.zeros(1, 3, 256, 256), torch.zeros(1, 8, 256, 256))
    assert [[m.shape[-1] for m in (*j.features, j.logits)] for j in judged] == sizes
    assert [m.shape[1] for m in judged[0].features] == [4, 8, 16, 32]
    small = LabelDiscriminator(11, width=4)(torch.zeros(2, 3, 8, 8), torch.zeros(2, 8, 8, 8))
    assert scores(small).shape == (2,) and bool(torch.isfinite(scores(small)).all())


def test_without_classes_it_is_the_plain_generator() -> None:
    plain, joint = generator(0), generator(5)
    assert plain.build.keys() == BUILD.keys() | {"image_channels"}
    added = joint.state_dict().keys() - plain.state_dict().keys()
    assert added and all(".to_labels." in name for name in added)
    joint.load_state_dict(plain.state_dict(), strict=False)
    with torch.no_grad():
        theirs, ours = plain.render(plain.latents([1, 2]), [1, 2]), joint.render(joint.latents([1, 2]), [1, 2])
    assert torch.equal(theirs.images, ours.images)
    assert theirs.label_logits is None and ours.label_logits is not None
    assert ours.label_logits.shape == (2, 5, 16, 16)


def test_a_bundle_from_before_the_label_branch_loads() -> None:
    bundle = read_bundle(Path(__file__).parents[4] / "configs/toy/generator")
    build = {key: value for key, value in bundle.build.items() if key != "architecture"}
    StyleGAN2Generator(**build).load_state_dict(dict(bundle.tensors))
    grown = StyleGAN2Generator(**build, label_channels=9).load_state_dict(dict(bundle.tensors), strict=False)
    assert not grown.unexpected_keys and all(".to_labels." in name for name in grown.missing_keys)


def test_grey_pictures_are_rendered_as_three_equal_channels() -> None:
    grey = generator(1, image_channels=1)
    rendering = grey.render(grey.latents([1]), [1])
    assert rendering.images.shape == (1, 3, 16, 16) and rendering.label_logits is not None
    assert torch.equal(rendering.images[:, 0], rendering.images[:, 2])
    assert rendering.label_logits.shape == (1, 1, 16, 16)
    assert grey.synthesis(grey.latents([1])).images.shape == (1, 1, 16, 16)


def _reached(net: StyleGAN2Generator, output: Tensor) -> set[str]:
    names, parameters = zip(*net.named_parameters(), strict=True)
    found = torch.autograd.grad(output.square().sum(), parameters, allow_unused=True)
    return {name for name, g in zip(names, found, strict=True) if g is not None and bool(g.any())}


@pytest.mark.parametrize("recompute_from", [0, 8])
def test_labels_shape_the_trunk_or_only_their_own_layers(recompute_from: int) -> None:
    net = generator(3)
    net.synthesis.recompute_from = recompute_from
    labels = net.render(net.latents([1, 2])).label_logits
    assert labels is not None
    reached = _reached(net, labels)
    assert {"mapping.layers.0.weight", "synthesis.blocks.0.conv1.weight"} < reached
    assert not any(".to_image." in name for name in reached)
    net.synthesis.labels_shape_trunk = False
    cut = net.render(net.latents([1, 2])).label_logits
    assert cut is not None
    torch.testing.assert_close(cut, labels, rtol=0, atol=0)
    reached = _reached(net, cut)
    assert reached and all(".to_labels." in name for name in reached)
    assert "mapping.layers.0.weight" in _reached(net, net.render(net.latents([1, 2])).images)


def test_spectral_normalisation_makes_the_largest_singular_value_one() -> None:
    torch.manual_seed(0)
    conv = SpectralConv(3, 8, 2)
    conv.advance(200)
    sigma = conv.u @ conv.weight.flatten(1) @ conv.v
    largest = torch.linalg.svdvals(conv.weight.detach().flatten(1))[0]
    torch.testing.assert_close(sigma.detach(), largest, rtol=1e-4, atol=0)
    before = conv.u.clone()
    conv(torch.randn(2, 3, 8, 8))  # a pass changes no state: workers make different numbers of them
    assert torch.equal(before, conv.u)
