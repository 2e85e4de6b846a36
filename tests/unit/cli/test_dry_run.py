"""`--dry-run` of every shipped configuration says what would happen, and writes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from raygseg.cli.app import main
from raygseg.config.loader import load_config

ROOT = Path(__file__).resolve().parents[3]
BUNDLES = {path.parent for path in (ROOT / "configs").rglob("checksums.json")}  # their config.yaml is a record
FILES = sorted(p.relative_to(ROOT) for p in (ROOT / "configs").rglob("*.yaml") if p.parent not in BUNDLES)


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the configurations and nothing else, and the current one."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("file", FILES, ids=str)
def test_dry_run(file: Path, checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kind = load_config(file).kind
    verb = kind if kind in ("generate", "evaluate", "episodes", "compare") else "train"
    assert main([verb, str(file), "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert f"kind: {kind}" in text
    assert "fingerprint" in text
    assert "output" in text
    assert ("parameters" in text) == (verb == "train")
    assert [path.name for path in checkout.iterdir()] == ["configs"]


def test_dry_run_refuses_what_the_run_would_refuse(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "configs/toy/gan.yaml", "runtime.workers=7", "--dry-run"]) == 2
    assert "runtime.workers=7" in capsys.readouterr().err


def test_counts_are_those_of_the_networks(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Twice as wide is close to four times the parameters; a count that is not taken from networks would not know."""
    counts = []
    for most in (32, 64):
        sizes = ["generator.channel_base=4096", f"generator.channel_max={most}", "generator.w_dim=64"]
        assert main(["train", "configs/toy/gan.yaml", *sizes, "--dry-run"]) == 0
        line = next(x for x in capsys.readouterr().out.splitlines() if "parameters.discriminator" in x)
        counts.append(int(line.split()[-1].replace(",", "")))
    assert 3.5 < counts[1] / counts[0] < 4.1
