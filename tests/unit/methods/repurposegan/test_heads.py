"""Heads: published receptive fields and sizes, ensembles that equal their members, measured norms."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from raygseg.config.sections import HeadNetwork
from raygseg.errors import ConfigError
from raygseg.interfaces import FeatureLayer
from raygseg.methods.repurposegan.heads import LabelHead, MeasuredBatchNorm, build_head

LAYERS = (FeatureLayer("b4.conv1", 6, 4), FeatureLayer("b8.conv0", 5, 8), FeatureLayer("b8.conv1", 4, 8))


def random_maps(batch: int = 2, seed: int = 0) -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return {x.name: torch.randn(batch, x.channels, x.resolution, x.resolution, generator=rng) for x in LAYERS}


@pytest.mark.parametrize(("architecture", "field"), [("cnn-s", 13), ("cnn-m", 29), ("cnn-l", 61), ("linear", 1)])
def test_receptive_field_by_impulse(architecture: str, field: int) -> None:
    """With positive weights, exactly `field` pixels across answer to one lit pixel."""
    head = LabelHead(architecture, [FeatureLayer("x", 1, 95)], num_classes=2, resolution=95, projection_dim=4)
    for parameter in head.parameters():
        nn.init.constant_(parameter, 0.1 if parameter.ndim > 1 else 0.0)
    impulse = torch.zeros(1, 1, 95, 95)
    impulse[0, 0, 47, 47] = 1.0
    with torch.no_grad():
        answer = head({"x": impulse})[0, 0, 0]
    lit = (answer > 0).nonzero()
    assert (lit.max(0).values - lit.min(0).values + 1).tolist() == [field, field]


def test_cnn_l_has_the_published_size() -> None:
    """About 0.93 M parameters for 5,056 channels and 10 classes (spec 1.4)."""
    head = LabelHead("cnn-l", [FeatureLayer("all", 5056, 8)], num_classes=10, resolution=8)
    assert sum(p.numel() for p in head.parameters()) == 927_082


@pytest.mark.parametrize(("classes", "hidden"), [(31, 32), (32, 128)])
def test_mlp_widths_follow_the_class_count(classes: int, hidden: int) -> None:
    head = LabelHead("mlp", LAYERS, classes, 8)
    assert head.plan.channels == (128, hidden, classes)


@pytest.mark.parametrize("architecture", ["linear", "mlp", "cnn-s"])
def test_an_ensemble_member_is_a_head_of_its_own(architecture: str) -> None:
    """Member 1 of 3, taken out into a head with one member, gives the same logits."""
    torch.manual_seed(0)
    ensemble = LabelHead(architecture, LAYERS, 3, 8, members=3, projection_dim=8)
    single = LabelHead(architecture, LAYERS, 3, 8, members=1, projection_dim=8)
    with torch.no_grad():
        for mine, theirs in zip(single.parameters(), ensemble.parameters(), strict=True):
            mine.copy_(theirs.chunk(3)[1])
        assert torch.allclose(single(random_maps())[:, 0], ensemble(random_maps())[:, 1], atol=1e-5)


def test_prediction_is_the_mean_of_the_members() -> None:
    torch.manual_seed(0)
    head = LabelHead("linear", LAYERS, 3, 8, members=4)
    with torch.no_grad():
        opinion = head.predict(random_maps())
        soft = head(random_maps()).softmax(2).mean(1)
    assert torch.allclose(opinion.probabilities, soft)
    assert torch.allclose(opinion.probabilities.sum(1), torch.ones(2, 8, 8), atol=1e-5)
    assert opinion.js.shape == (2, 8, 8)
    assert bool((opinion.js > 0).all())


def test_training_passes_leave_the_norm_statistics_alone() -> None:
    head = LabelHead("mlp", LAYERS, 3, 8, members=2, projection_dim=8).train()
    before = {k: v.clone() for k, v in head.state_dict().items()}
    head(random_maps())
    assert all(torch.equal(before[k], v) for k, v in head.state_dict().items())


def test_measured_norms_make_eval_agree_with_training() -> None:
    """Measured on one batch, evaluation of that batch equals the training pass over it."""
    torch.manual_seed(0)
    head = LabelHead("mlp", LAYERS, 3, 8, members=2, projection_dim=8).train()
    features = random_maps(4)
    with torch.no_grad():
        training = head(features)
        head.measure_norms([features])
        assert not head.training
        assert torch.allclose(head(features), training, rtol=1e-2, atol=1e-2)  # running variances are unbiased
    norm = next(m for m in head.modules() if isinstance(m, MeasuredBatchNorm))
    assert norm.running_mean is not None
    assert norm.running_mean.abs().sum() > 0


def test_build_head_selects_layers_and_caps_the_stack() -> None:
    taps = [*LAYERS, FeatureLayer("b1024.conv1", 2, 1024)]
    assert build_head(HeadNetwork(), taps, 3).resolution == 512
    chosen = build_head(HeadNetwork(layers=("b8.conv1", "b4.conv1")), taps, 3)
    assert (chosen.layer_names, chosen.resolution) == (["b4.conv1", "b8.conv1"], 8)
    assert build_head(HeadNetwork(stack_resolution=16), taps, 3, stack_resolution=4).resolution == 16
    with pytest.raises(ConfigError, match=r"no layer 'b9\.conv1'"):
        build_head(HeadNetwork(layers=("b9.conv1",)), taps, 3)


def test_the_build_record_rebuilds_the_head() -> None:
    head = build_head(HeadNetwork(architecture="mlp", members=2, projection_dim=8), LAYERS, 3)
    again = LabelHead(**head.build)
    again.load_state_dict(head.state_dict())
    with torch.no_grad():
        assert torch.equal(again.eval()(random_maps()), head.eval()(random_maps()))
