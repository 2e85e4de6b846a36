"""`raygseg import`: a public file becomes a bundle that samples, with its origin on record."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from raygseg.bundle import file_sha256, read_bundle
from raygseg.cli.app import main
from raygseg.errors import CheckpointError, ConfigError
from raygseg.methods.stylegan2.discriminator import Discriminator
from raygseg.pipelines.import_weights import import_weights
from raygseg.pipelines.kinds import load_generator
from tests.unit.methods.stylegan2.public_layouts import (
    dump,
    networks,
    nvidia_discriminator,
    nvidia_generator,
    rosinality_generator,
)


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    generator, discriminator = networks()
    document = {"G_ema": nvidia_generator(generator), "D": nvidia_discriminator(discriminator)}
    return dump(tmp_path / "snapshot.pkl", document)


def test_bundle_samples_what_the_networks_would(snapshot: Path, tmp_path: Path) -> None:
    result = import_weights(snapshot, tmp_path / "bundle", discriminator=tmp_path / "judge")
    generator, discriminator = networks()
    loaded = load_generator(result.bundle)
    with torch.no_grad():
        ours, theirs = (g.render(g.latents([3, 4], 0.7), [3, 4]).images for g in (loaded, generator))
    assert torch.equal(ours, theirs)
    bundle = read_bundle(tmp_path / "bundle")
    assert bundle.facts["sha256"] == result.sha256 == file_sha256(snapshot)
    assert (bundle.facts["imported_from"], bundle.facts["format"], result.network) == (
        "snapshot.pkl", "nvidia", "average",
    )  # fmt: skip
    assert "snapshot.pkl" in bundle.card
    judge = read_bundle(result.discriminator)
    rebuilt = Discriminator(**judge.build)
    rebuilt.load_state_dict(dict(judge.tensors))
    images = torch.randn(4, 3, 16, 16)
    assert torch.equal(rebuilt(images), discriminator(images))


def test_raw_weights_and_rosinality(tmp_path: Path) -> None:
    average, _ = networks()
    raw, _ = networks()
    with torch.no_grad():
        raw.synthesis.blocks[0].const.mul_(2)  # type: ignore[operator, union-attr]
    states = {"g": rosinality_generator(raw), "g_ema": rosinality_generator(average)}
    torch.save(states | {"latent_avg": torch.zeros(8)}, tmp_path / "weights.pt")
    names = {}
    for flag in (False, True):
        result = import_weights(tmp_path / "weights.pt", tmp_path / "bundle", raw=flag)
        names[result.network] = read_bundle(result.bundle).tensors["synthesis.blocks.0.const"]
    assert torch.equal(names["generator"], 2 * names["average"])


def test_nothing_is_written_where_something_is_wrong(snapshot: Path, tmp_path: Path) -> None:
    precious = tmp_path / "photos"
    precious.mkdir()
    (precious / "a.jpg").write_bytes(b"x")
    with pytest.raises(ConfigError, match="is no bundle"):
        import_weights(snapshot, precious)
    generator, _ = networks()
    alone = dump(tmp_path / "alone.pkl", {"G_ema": nvidia_generator(generator)})
    with pytest.raises(CheckpointError, match="no discriminator"):
        import_weights(alone, tmp_path / "bundle", discriminator=tmp_path / "judge")
    with pytest.raises(CheckpointError, match="holds no generator"):
        import_weights(alone, tmp_path / "bundle", raw=True)
    assert not (tmp_path / "bundle").exists()


def test_verb(snapshot: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", str(snapshot), "--output", str(tmp_path / "bundle")]) == 0
    assert "nvidia" in capsys.readouterr().out
    assert main(["import", str(tmp_path / "absent.pkl"), "--output", str(tmp_path / "bundle")]) == 1
    assert "no such file" in capsys.readouterr().err
