"""PANet with its support as a segmenter, SSP's second pass, and bundles."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from raygseg.bundle import Bundle
from raygseg.data.picture_files import ClassMap, Picture
from raygseg.errors import CheckpointError, ConfigError, DataError
from raygseg.labels import LabelSpace
from raygseg.methods.panet.network import (
    FrontCache,
    PrototypeNetwork,
    blank_network,
    network_from,
    pretrained_network,
)
from raygseg.methods.panet.segmenter import PrototypeSegmenter, with_support
from raygseg.methods.panet.self_prototypes import FEWEST, adaptive_background, self_supported_scores, sure_cells
from raygseg.nn.masked_prototypes import cosine_scores
from tests.unit.methods.panet.few_shapes import COLOURS, R, shape_picture, small_network

LABELS = LabelSpace(("background", "red", "green"), void=255)


def support(*colours: int) -> list[tuple[Picture, ClassMap]]:
    found = []
    for i, colour in enumerate(colours):
        picture, mask = shape_picture(colour, np.random.default_rng(i))
        found.append((picture, (mask * (colour + 1)).astype(np.uint8)))
    return found


class Colours(torch.nn.Module):
    """The picture itself at quarter size: colour is all there is to a class."""

    title, channels, stride = "colours", 3, 4

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(images, 4)


@pytest.mark.parametrize("self_prototypes", [False, True])
def test_classes_of_the_support_are_found_in_pictures_of_any_size(self_prototypes: bool) -> None:
    segmenter = with_support(PrototypeNetwork("vgg16", Colours(), 0.0, self_prototypes), support(0, 1, 1), LABELS, R)
    picture = np.full((50, 90, 3), 120, np.uint8)
    picture[10:30, 10:40] = COLOURS[0]
    picture[10:40, 60:85] = COLOURS[1]
    (answer,) = segmenter.predict([picture])
    assert answer.label_map.shape == (50, 90)
    assert answer.label_map[20, 25] == 1 and answer.label_map[25, 72] == 2 and answer.label_map[45, 5] == 0
    found = segmenter.probabilities(torch.zeros(2, 3, R, R))
    torch.testing.assert_close(found.sum(1), torch.ones(2, R, R))


def test_prototypes_are_those_of_the_spec() -> None:
    network = small_network()
    shown = support(0, 1, 1)
    segmenter = with_support(network, shown, LABELS, R)
    with torch.no_grad():
        maps = [network.features(torch.from_numpy(p).permute(2, 0, 1)[None].float() / 127.5 - 1)[0] for p, _ in shown]
        fore = [network.pool(m, torch.from_numpy(c > 0)) for m, (_, c) in zip(maps, shown, strict=True)]
        back = [network.pool(m, torch.from_numpy(c == 0)) for m, (_, c) in zip(maps, shown, strict=True)]
    expected = torch.stack([(back[0] + (back[1] + back[2]) / 2) / 2, fore[0], (fore[1] + fore[2]) / 2])
    torch.testing.assert_close(segmenter.prototypes, expected)
    turned = with_support(network, shown[::-1], LABELS, R)
    torch.testing.assert_close(turned.prototypes, segmenter.prototypes)


def test_a_class_that_is_not_shown_is_never_an_answer(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        segmenter = with_support(small_network(), support(1), LABELS, R)
    assert "shows no red" in caplog.text
    found = segmenter.probabilities(torch.randn(1, 3, R, R))
    assert found[:, 1].abs().max() == 0 and found[:, 2].max() > 0


def test_a_support_that_cannot_be_used() -> None:
    network = small_network()
    picture, mask = support(0)[0]
    with pytest.raises(DataError, match="none of 1 pictures shows a class"):
        with_support(network, [(picture, np.zeros_like(mask))], LABELS, R)
    with pytest.raises(DataError, match="no pixel is background"):
        with_support(network, [(picture, np.ones_like(mask))], LABELS, R)
    with pytest.raises(DataError, match="have no background"):
        with_support(network, support(0), LabelSpace(("red", "green"), background=None), R)


# --- self-prototypes -----------------------------------------------------------------------------


def test_sure_cells() -> None:
    fore = torch.full((40,), 0.1)
    fore[:3] = 0.8
    found = sure_cells(torch.stack([1 - fore, fore])[None, None])
    assert found[0, 0, 1].nonzero().flatten().tolist() == [0, 1, 2]
    assert found[0, 0, 0].sum() == 37
    nothing = sure_cells(torch.full((1, 1, 2, 40), 0.5) + torch.arange(40) * 1e-3)
    assert nothing[0, 0, 1].nonzero().flatten().tolist() == list(range(40 - FEWEST, 40))


def test_self_prototypes_by_hand() -> None:
    """Three cells a, a, b with the support's prototypes a and b: the sure cells say the same once more."""
    cells = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]).view(1, 1, 2, 1, 3)
    prototypes = torch.tensor([[[0.0, 1.0], [1.0, 0.0]]])  # background is b
    found = self_supported_scores(cells, prototypes, 20.0)
    torch.testing.assert_close(found, cosine_scores(cells, prototypes, 20.0))
    crooked = torch.tensor([[[0.0, 1.0], [1.0, 0.3]]])
    after = self_supported_scores(cells, crooked, 20.0)[0, 0, 1, 0, 0]
    # fg = half of (1, 0.3) and half of the query's (1, 0)
    assert after.item() == pytest.approx(20 / (1 + 0.15**2) ** 0.5, rel=1e-5)


def test_the_adaptive_background_is_a_mean_of_sure_cells() -> None:
    features = torch.randn(1, 1, 4, 9)
    sure = torch.zeros(1, 1, 9)
    sure[..., 5] = 1
    torch.testing.assert_close(adaptive_background(features, sure), features[..., 5:6].expand(-1, -1, -1, 9))


def test_the_residual_variant_has_the_scale_and_corners_that_it_was_published_with() -> None:
    """Spec section 2: cosine times 10, enlarging with aligned corners; VGG's are 20 and not aligned."""
    network, other = blank_network("resnet50").eval(), blank_network("vgg16")
    assert (network.scale, network.align_corners, other.scale, other.align_corners) == (10.0, True, 20.0, False)
    mask = torch.zeros(1, 1, 1, 33, 33)
    mask[..., :16, :] = 1
    with torch.no_grad():
        support = network.features(torch.randn(1, 3, 33, 33))
        query = network.features(torch.randn(2, 3, 33, 33))
        logits = network.classify(support[None, None], mask, 1 - mask, query[None], (33, 33))
    assert logits.shape == (1, 2, 2, 33, 33) and float(logits.abs().max()) <= 10.0 + 1e-4


def test_training_takes_no_second_pass() -> None:
    network = PrototypeNetwork("vgg16", small_network().encoder, 20.0, True).train()
    features, prototypes = torch.randn(1, 1, 8, 4, 4), torch.randn(1, 2, 8)
    torch.testing.assert_close(network.scores(features, prototypes), cosine_scores(features, prototypes, 20.0))
    assert not torch.allclose(network.eval().scores(features, prototypes), network.train().scores(features, prototypes))


# --- bundles -------------------------------------------------------------------------------------


def test_bundles_of_the_network_and_of_a_segmenter() -> None:
    torch.manual_seed(0)
    network = blank_network("vgg16", self_prototypes=True)
    bundle = network.to_bundle(64)
    assert bundle.kind == "few-shot" and bundle.labels is None and bundle.build["resolution"] == 64
    again = network_from(bundle)
    assert again.build == network.build and not any(p.requires_grad for p in again.parameters())
    segmenter = with_support(again, support(0, 1), LABELS, R)
    rebuilt = PrototypeSegmenter.from_bundle(segmenter.to_bundle())
    images = torch.rand(1, 3, R, R) * 2 - 1
    torch.testing.assert_close(rebuilt.probabilities(images), segmenter.probabilities(images))
    assert rebuilt.labels == LABELS
    with pytest.raises(CheckpointError, match="not a few-shot network"):
        network_from(segmenter.to_bundle())
    with pytest.raises(CheckpointError, match="not PANet with its support"):
        PrototypeSegmenter.from_bundle(bundle)
    with pytest.raises(CheckpointError, match="do not fit"):
        network_from(Bundle(bundle.kind, bundle.build, {"x": torch.zeros(1)}))


def test_encoders_that_are_not_known_or_lack_a_file() -> None:
    with pytest.raises(ConfigError, match="no encoder 'alexnet'"):
        blank_network("alexnet")
    with pytest.raises(ConfigError, match=r"network.weights: the ResNet-50 encoder needs a file"):
        pretrained_network("resnet50")


def test_networks_share_what_their_first_parts_make() -> None:
    """Only where those have the same weights and precision, and no figure moves."""
    networks = [small_network() for _ in range(3)]
    networks[1].encoder.second.weight.data.mul_(2.0)
    networks[2].encoder.first.weight.data.mul_(2.0)
    images = torch.rand(3, 3, R, R) * 2 - 1
    with torch.no_grad():
        plain = [network.features(images) for network in networks]
    fronts = FrontCache(1 << 20)
    for network in networks:
        network.fronts = fronts
    for made, network, expected in zip((3, 3, 6), networks, plain, strict=True):
        torch.testing.assert_close(network.features(images), expected)
        assert fronts.maps.made == made
    other = FrontCache(1 << 20)
    for precision in ("fp32", "bf16"):
        network = small_network()
        network.encoder.precision, network.fronts = precision, other
        network.features(images)
    assert other.maps.made == 6
