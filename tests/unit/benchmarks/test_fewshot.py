"""The few-shot table from cells, and the benchmark of the cache, on a network of one convolution."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from raygseg.benchmarks import episodes as cache_benchmark
from raygseg.benchmarks import fewshot
from raygseg.config.episodes import EpisodesConfig
from raygseg.errors import ConfigError
from raygseg.pipelines.episodes import check_novel, load_network, network_digest, protocol_in_words, score_episodes
from tests.unit.data.episodes.sets import Blocks, blocks
from tests.unit.tiny_prototypes import TinyPrototypes

INDEX = blocks(16).index()


@pytest.fixture
def scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the cells that something was computed for; networks and data are stand-ins."""
    computed: list[str] = []

    def score(config: EpisodesConfig, index: Any, progress: Any, fronts: Any) -> Any:
        network = TinyPrototypes(seed=len(config.model))
        result = score_episodes(config, network, INDEX, progress)  # type: ignore[arg-type]
        computed.extend([config.name] * bool(network.calls))
        return result

    (tmp_path / "fewshot").mkdir()
    (tmp_path / "weights").mkdir()
    monkeypatch.setattr(fewshot, "score_episodes", score)
    monkeypatch.setattr(fewshot, "read_class_index", lambda place: INDEX)
    return computed


def run(place: Path, **changes: Any) -> dict[str, Any]:
    told = {"scale": "tiny", "folds": (0, 1), "resolution": 24, "bootstrap": 20, "shots": (1, 2), **changes}
    arms = {"aligned": f"{place}/panet-{{fold}}/bundle"}
    return fewshot.run(output=f"{place}/out", data=str(place), **{"arms": arms, **told})


def test_the_table_fills_in_what_comes_later(tmp_path: Path, scored: list[str]) -> None:
    (tmp_path / "panet-0/bundle").mkdir(parents=True)
    pytest.importorskip("scipy")
    table = run(tmp_path, weak_fold=0)
    assert table["open"] == ["aligned.fold-1.mask"] and len(scored) == 3 + 3
    rows = {(row["arm"], row["marks"], row["shots"]): row for row in table["rows"]}
    assert len(rows) == 2 * (2 + 3)
    plain, aligned = rows["no training", "mask", 1], rows["aligned", "mask", 1]
    assert set(plain["folds"]) == {"0", "1"} and "gain" not in plain["folds"]["0"]
    gain = aligned["folds"]["0"]["gain"]
    assert gain[0] == pytest.approx(aligned["folds"]["0"]["miou"] - plain["folds"]["0"]["miou"], abs=2e-5)
    assert plain["miou"] == pytest.approx(sum(f["miou"] for f in plain["folds"].values()) / 2, abs=2e-5)
    assert "gain" in rows["no training", "point", 2]["folds"]["0"], "over whole masks"
    text = (tmp_path / "out/table.md").read_text()
    assert "Protocol standard" in text and "Not there yet: aligned.fold-1.mask" in text
    assert json.loads((tmp_path / "out/table.json").read_text())["rows"] == table["rows"]
    scored.clear()
    (tmp_path / "panet-1/bundle").mkdir(parents=True)
    again = run(tmp_path, weak_fold=0)
    assert scored == ["aligned.fold-1.mask"] and not again["open"]
    assert again["rows"][:2] == table["rows"][:2]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"scale": "huge"}, "scale: there is no 'huge'"),
        ({"protocol": "panet_realease"}, "no protocol 'panet_realease'"),
        ({"arms": {"plain": "runs/panet/bundle"}}, "plain has no {fold}"),
        ({"weak_fold": 0, "weak_arm": "best"}, "no arm 'best'"),
    ],
)
def test_what_cannot_be_asked_is_told(tmp_path: Path, scored: list[str], changes: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        run(tmp_path, **changes)


def test_a_network_is_not_asked_about_what_it_was_trained_on() -> None:
    config = EpisodesConfig(name="few", model="m", data="here/fewshot", fold=1)
    trained = {"kind": "panet", "data": "there/fewshot", "fold": 1, "protocol": {"split": "separate"}}
    check_novel(config, trained, INDEX)
    check_novel(config, {**trained, "fold": 0, "data": "voc"}, INDEX)
    check_novel(config, {}, INDEX)
    for data in ("there/fewshot", "there/fewshot?void=255"):
        with pytest.raises(ConfigError, match="was trained for fold 0"):
            check_novel(config, {**trained, "fold": 0, "data": data}, INDEX)
    with pytest.raises(ConfigError, match="trained on all pictures"):
        check_novel(config, {**trained, "protocol": {"split": "same"}}, INDEX)


def test_folds_of_another_order_are_other_classes() -> None:
    """COCO's 80 classes: fold 0 is 1, 5, 9, ... or the first twenty, five of which are in both."""
    coco = Blocks([[c + 1] for c in range(80)]).index(80)
    config = EpisodesConfig(name="few", model="m", data="coco", fold=0)
    check_novel(config, {"kind": "panet", "data": "coco", "fold": 0, "protocol": {}}, coco)
    trained = {"kind": "panet", "data": "coco", "fold": 0, "protocol": {"coco_order": "contiguous"}}
    with pytest.raises(ConfigError, match=r"it knows c21, c25, c29, \.\.\. of fold 0"):
        check_novel(config, trained, coco)


def test_what_was_done_to_the_training_pictures_is_printed_with_the_score() -> None:
    config = EpisodesConfig(name="few", model="m", data="few")
    trained = {"kind": "panet", "data": "few", "fold": 0, "protocol": {"novel_pixels": "removed"}}
    assert protocol_in_words(config, {}) == "standard (the fair defaults)"
    assert protocol_in_words(config, trained).endswith("trained with novel_pixels=removed")


def test_the_second_pass_may_be_asked_of_any_network(monkeypatch: pytest.MonkeyPatch) -> None:
    import raygseg.methods.panet.network as networks

    monkeypatch.setattr(networks, "pretrained_network", lambda encoder, weights: networks.blank_network(encoder))
    told: dict[str, Any] = {"name": "few", "data": "few"}
    assert not load_network(EpisodesConfig(**told)).self_prototypes
    assert load_network(EpisodesConfig(**told, self_prototypes=True)).self_prototypes


def test_bf16_features_are_another_networks_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    import raygseg.methods.panet.network as networks

    seed = torch.Generator().manual_seed(0)
    blank = networks.blank_network("vgg16").eval()
    monkeypatch.setattr(networks, "pretrained_network", lambda encoder, weights: copy.deepcopy(blank))
    told: dict[str, Any] = {"name": "few", "data": "few"}
    exact = load_network(EpisodesConfig(**told))
    fast = load_network(EpisodesConfig(**told, encoder_precision="bf16"))
    assert network_digest(exact) == network_digest(blank) != network_digest(fast)
    picture = torch.rand(1, 3, 33, 33, generator=seed) * 2 - 1
    with torch.no_grad():
        maps = [network.features(picture) for network in (exact, fast)]
    assert maps[1].dtype == torch.float32 and not torch.equal(*maps)
    assert float(torch.cosine_similarity(*maps, dim=1).min()) > 0.99


def test_the_cache_benchmark_says_what_it_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_benchmark, "read_class_index", lambda place: INDEX)
    monkeypatch.setattr(cache_benchmark, "pretrained_network", lambda encoder, weights: TinyPrototypes())
    monkeypatch.setattr(cache_benchmark, "data_folder", lambda data, part: tmp_path)
    settings = {"shots": 2, "episodes": 12, "loop_episodes": 2, "repeats": 1, "resolution": 16, "pictures": 6}
    found = cache_benchmark.run(**settings)
    assert found["ratio"] > 0 and found["ratio_cpu"] > 0 and found["fill_pictures"] <= 6 + 6
    memory = found["small_memory"]
    assert memory["same_counts"] and memory["held_at_most_mib"] <= memory["limit_mib"]
    assert found["miou_difference"] < 0.02
