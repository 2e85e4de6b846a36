"""Configuration: precedence, faults all at once with file, line and fix, fingerprints."""

from __future__ import annotations

from pathlib import Path

import pytest

from raygseg.config.loader import changed_keys, fingerprint, identity, load_config, resolved_yaml
from raygseg.config.schema import GanConfig, GenerateConfig
from raygseg.errors import ConfigError

GAN = """\
kind: gan
name: toy
data:
  source: toy://default?count=100
  resolution: 32
schedule:
  total_kimg: 1e3
  batch_size: 16
"""
MINIMAL = ["name=toy", "data.source=pictures", "data.resolution=32", "schedule.total_kimg=1"]


@pytest.fixture
def gan(tmp_path: Path) -> Path:
    path = tmp_path / "gan.yaml"
    path.write_text(GAN)
    return path


def faults_of(path: Path | None, *overrides: str, kind: str | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides, kind)
    return str(caught.value)


def edited(path: Path, old: str, new: str) -> Path:
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    return path


def test_file_then_overrides(gan: Path) -> None:
    config = load_config(gan, ["schedule.batch_size=32", "augment={mode: none}", "generator.capacity=0.25"])
    assert isinstance(config, GanConfig)
    assert config.schedule.total_kimg == 1000.0
    assert isinstance(config.schedule.total_kimg, float)
    assert (config.schedule.batch_size, config.augment.mode, config.augment.target) == (32, "none", 0.6)
    assert config.generator.widths == (8192, 128)


def test_overrides_alone_and_the_callers_kind() -> None:
    config = load_config(None, MINIMAL, "gan")
    assert isinstance(config, GanConfig)
    assert load_config(None, ["kind=gan", *MINIMAL]) == config
    assert load_config(None, ["kind=gan", *MINIMAL, "name=7"]).name == "7"


def test_lists_and_whole_floats() -> None:
    words = [
        "kind=segmenter",
        "name=s",
        "labelled=x",
        "resolution=64",
        "schedule.total_kimg=1",
        "augment.scale=[0.8, 1]",
    ]
    assert load_config(None, words).augment.scale == (0.8, 1.0)  # type: ignore[attr-defined]
    config = load_config(None, ["name=g", "sampler=x", "num_pairs=2e4", "output=y"], "generate")
    assert isinstance(config, GenerateConfig)
    assert config.num_pairs == 20_000


def test_bases_chain_relative_to_the_file_that_names_them(gan: Path, tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "middle.yaml").write_text("base: gan.yaml\nschedule: {batch_size: 8}\nseed: 1\n")
    top = tmp_path / "deep" / "top.yaml"
    top.write_text("base: ../middle.yaml\nseed: 2\n")
    config = load_config(top, ["name=over"])
    assert isinstance(config, GanConfig)
    assert (config.schedule.batch_size, config.seed, config.name, config.data.resolution) == (8, 2, "over", 32)


def test_fault_in_a_base_names_the_base(gan: Path, tmp_path: Path) -> None:
    edited(gan, "resolution: 32", "resolution: wide")
    top = tmp_path / "top.yaml"
    top.write_text("base: gan.yaml\nseed: 2\n")
    assert "gan.yaml:5:3: 'data.resolution': must be a whole number, not 'wide'" in faults_of(top)


def test_bases_that_do_not_work(tmp_path: Path) -> None:
    one, two = tmp_path / "one.yaml", tmp_path / "two.yaml"
    one.write_text("kind: gan\nbase: two.yaml\n")
    two.write_text("base: one.yaml\n")
    assert "two.yaml:1:1: 'base': 'one.yaml' leads back to this file" in faults_of(one)
    one.write_text("kind: gan\nbase: absent.yaml\n")
    assert "one.yaml:2:1: 'base'" in faults_of(one)
    one.write_text("kind: gan\nbase: [a]\n")
    assert "must be the path of one file" in faults_of(one)


def test_typo_names_line_and_the_word_meant(gan: Path) -> None:
    text = faults_of(edited(gan, "batch_size", "batch_sise"))
    assert f"{gan}:8:3: 'schedule.batch_sise': unknown key" in text
    assert "did you mean 'batch_size'?" in text


def test_key_of_another_section_and_key_of_none(gan: Path) -> None:
    assert "did you mean 'loss.r1_gamma'?" in faults_of(gan, "r1_gamma=2")
    assert "known keys here: total_kimg, batch_size, micro_batch" in faults_of(gan, "schedule.xyzzy=2")


def test_all_faults_at_once_in_reading_order(gan: Path) -> None:
    edited(gan, "resolution: 32", "resolution: 0")
    edited(gan, "  batch_size: 16\n", "  batch_size: 16\n  batch_size: 8\naugment: {mode: adda}\nloss: 3\n")
    lines = faults_of(gan, "seed=x", "nonsense", "augment.p=2", "a.b=[1").splitlines()
    assert lines[0] == "8 faults in the configuration"
    expected = [
        "gan.yaml:5:3: 'data.resolution': must be greater than 0, not 0",
        "gan.yaml:9:3: 'schedule.batch_size': is given twice, first at line 8",
        "gan.yaml:10:11: 'augment.mode': cannot be 'adda'; did you mean 'ada'? allowed: ada, fixed, none",
        "gan.yaml:11:1: 'loss': must be a section",
        "command line 'a.b=[1'",
        "command line 'augment.p=2': 'augment.p': must be at most 1, not 2",
        "command line 'nonsense': is not an override",
        "command line 'seed=x': 'seed': must be a whole number, not 'x'",
    ]
    for line, start in zip(lines[1:9], expected, strict=True):
        assert start in line


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("schedule.micro_batch=3", "micro_batch 3 does not divide batch_size 16"),
        ("optimiser.lr_generator=.inf", "must be finite"),
        ("optimiser.lr_generator=.nan", "must be"),
        ("optimiser.lr_generator=0", "must be greater than 0"),
        ("data.flip=maybe", "must be true or false, not 'maybe'"),
        ("data.resolution=1.5", "must be a whole number, not 1.5"),
        ("data=3", "must be a section"),
        ("data.source=[a]", "must be text"),
        ("name='../x'", "must match"),
        ("optimiser.precision=fp6", "did you mean 'fp16'? allowed: fp32, bf16, fp16"),
        ("schedule.total_kimg=null", "must be a number, not None"),
    ],
)
def test_values_that_do_not_fit(gan: Path, override: str, words: str) -> None:
    assert words in faults_of(gan, override)


def test_missing_keys_say_what_they_are(gan: Path) -> None:
    text = faults_of(edited(gan, "  source: toy://default?count=100\n", ""))
    assert "gan.yaml:3:1: 'data.source': is missing" in text
    assert "it is: folder, Parquet" in text
    assert "'pairs'" in faults_of(None, "kind=segmenter", "name=s", "resolution=64", "schedule.total_kimg=1")


def test_kinds(gan: Path) -> None:
    assert "'kind': is missing" in faults_of(edited(gan, "kind: gan\n", ""))
    assert "did you mean 'gan'?" in faults_of(gan, "kind=gann")
    text = faults_of(gan, "kind=gan", kind="generate")
    assert "is 'gan', but 'generate' is wanted here" in text
    assert "raygseg train" in text


def test_resolved_yaml_reads_back(gan: Path, tmp_path: Path) -> None:
    config = load_config(gan, ["generator.capacity=0.1", "optimiser.lr_generator=1e-5", "runtime.workers=2"])
    again = tmp_path / "again.yaml"
    again.write_text(resolved_yaml(config))
    assert load_config(again) == config


def test_fingerprint_ignores_where_it_runs_and_nothing_else(gan: Path) -> None:
    plain = load_config(gan)
    assert len(fingerprint(plain)) == 64
    assert fingerprint(plain) == fingerprint(load_config(gan, ["runtime.workers=2", "runtime.output=elsewhere"]))
    assert fingerprint(plain) == fingerprint(load_config(gan, ["seed=0", "augment.mode=ada"]))
    for override in ("seed=1", "data.resolution=64", "loss.r1_gamma=2", "name=other"):
        assert fingerprint(plain) != fingerprint(load_config(gan, [override]))


def test_fingerprint_of_a_pair_set_ignores_place_mode_and_actors() -> None:
    words = ["name=g", "sampler=x", "num_pairs=10", "output=y"]
    plain = load_config(None, words, "generate")
    moved = load_config(None, [*words, "output=z", "actors=3", "mode=overwrite"], "generate")
    assert fingerprint(plain) == fingerprint(moved)
    assert fingerprint(plain) != fingerprint(load_config(None, [*words, "batch_size=8"], "generate"))
    assert "output" not in identity(plain)


def test_changed_keys(gan: Path) -> None:
    old = load_config(gan).model_dump(mode="json")
    new = load_config(gan, ["schedule.batch_size=32", "seed=3", "runtime.workers=9"]).model_dump(mode="json")
    assert changed_keys(old, new) == ["schedule.batch_size: 16 -> 32", "seed: 0 -> 3"]
    assert changed_keys(old, old) == []
    assert changed_keys({"a": {"b": 1}}, {"a": {}}) == ["a.b: 1 -> (absent)"]
    assert changed_keys({"a": (1, 2)}, {"a": [1, 2]}) == []
