from __future__ import annotations

from pathlib import Path

import pytest

from raygseg.benchmarks import prepare
from raygseg.errors import ConfigError


def test_planted_defects_are_found_and_named(tmp_path: Path) -> None:
    result = prepare.run(files=160, each=2, threads=1, folder=str(tmp_path), tenth=False)
    assert result["planted"] == result["found"] == 20
    assert result["missed"] == result["false_alarms"] == 0
    assert set(result["kinds"]) == set(prepare.PLANTED) and all(s["planted"] == 2 for s in result["kinds"].values())
    # Seven kinds of the ten are not kept, the others are mended.
    assert result["kept"] == 160 - 7 * 2
    assert all(s["missed"] == 0 for s in result["mended"].values())
    assert result["peak_mib"] > 10 and result["files_per_second"] > 0


def test_the_score_counts_what_is_missed_and_what_is_made_up() -> None:
    wanted = {("a", "grey"), ("b", "grey"), ("c", "CMYK")}
    reported = {("a", "grey"), ("c", "grey"), ("c", "CMYK")}
    assert prepare.score("grey", wanted, reported) == {"planted": 2, "found": 1, "missed": 1, "false_alarms": 1}
    with pytest.raises(ConfigError, match="too few"):
        prepare.run(files=20, each=5)
