"""Evaluation by episodes: what is written, what goes on after a stop, what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raygseg.config.episodes import EpisodesConfig
from raygseg.config.loader import load_config
from raygseg.data.episodes.draws import EpisodeList
from raygseg.data.picture_files import encode_png
from raygseg.errors import ConfigError, DataError, FingerprintError, MissingEnvironmentError
from raygseg.pipelines.episode_scores import EpisodesResult
from raygseg.pipelines.episodes import score_episodes
from tests.unit.data.episodes.sets import Blocks, blocks
from tests.unit.tiny_prototypes import TinyPrototypes

INDEX = blocks(16).index()


def config(place: Path, **changes: Any) -> EpisodesConfig:
    told = {"name": "few", "data": "held", "output": str(place), "episodes": 16, "runs": 1, "shots": (1, 2),
            "resolution": 16, "batch_size": 4, "bootstrap": 50, "fold": 1, **changes}  # fmt: skip
    return EpisodesConfig.model_validate(told)


def score(place: Path, network: TinyPrototypes | None = None, **changes: Any) -> EpisodesResult:
    return score_episodes(config(place, **changes), network or TinyPrototypes(), INDEX)  # type: ignore[arg-type]


def test_scores_come_with_protocol_split_and_digests(tmp_path: Path) -> None:
    result = score(tmp_path, protocol={"name": "panet_release", "labels": "original"})
    record = json.loads(Path(result.files["scores"]).read_text())
    assert record["protocol"].startswith("panet_release (void=background") and "by hand: labels" in record["protocol"]
    assert record["split"] == "training and test from the same pictures"
    assert set(record["scores"]) == {"1", "2"} and set(record["scores"]["1"]["class_iou"]) == {"c2"}
    stored = EpisodeList.load(str(tmp_path / "episodes/fold-1.shots-2.run-0.json"))
    assert record["episodes"]["fold-1.shots-2.run-0"] == stored.digest and len(stored) == 16
    low, high = record["scores"]["1"]["interval"]["miou"]
    assert low <= record["scores"]["1"]["miou"] <= high
    table = Path(result.files["table"]).read_text()
    assert "panet_release" in table and stored.digest in table and "| 2 |" in table
    assert not list((tmp_path / "tasks").glob("*"))


def test_the_same_command_computes_nothing_and_more_runs_only_themselves(tmp_path: Path) -> None:
    first = score(tmp_path)
    idle = TinyPrototypes()
    again = score(tmp_path, idle)
    assert idle.calls == 0 and again.scores[1].mean == first.scores[1].mean
    counts = {file.name: file.read_bytes() for file in (tmp_path / "counts").iterdir()}
    more = score(tmp_path, idle, runs=2)
    assert idle.calls > 0 and len(more.scores[1].by_run["miou"]) == 2
    assert more.scores[1].by_run["miou"][0] == first.scores[1].by_run["miou"][0]
    assert all((tmp_path / "counts" / name).read_bytes() == content for name, content in counts.items())


def test_a_stopped_evaluation_goes_on_to_the_same_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raygseg.distributed.episode_worker.EPISODES_A_TASK", 4)
    whole = score(tmp_path / "whole")
    told: list[int] = []

    def stop(stage: str, done: int, total: int, facts: object) -> None:
        told.append(done)
        if done >= 12:
            raise KeyboardInterrupt

    network = TinyPrototypes()
    with pytest.raises(KeyboardInterrupt):
        score_episodes(config(tmp_path / "cut"), network, INDEX, stop)  # type: ignore[arg-type]
    assert len(list((tmp_path / "cut/tasks").iterdir())) == 3 and not list((tmp_path / "cut").glob("counts/*"))
    resumed = TinyPrototypes()
    monkeypatch.setattr(resumed, "prototypes", counting(resumed.prototypes, batches := []))
    result = score(tmp_path / "cut", resumed)
    assert len(batches) == 8 - 3, "tasks that were done are not done again"
    for shots in (1, 2):
        assert (result.counts[shots][0] == whole.counts[shots][0]).all()


def counting(function: Any, calls: list[int]) -> Any:
    def wrapped(*arguments: Any) -> Any:
        calls.append(1)
        return function(*arguments)

    return wrapped


def test_another_network_configuration_or_data_is_refused_in_the_same_place(tmp_path: Path) -> None:
    score(tmp_path)
    with pytest.raises(DataError, match="counted by another network"):
        score(tmp_path, TinyPrototypes(seed=1))
    with pytest.raises(FingerprintError, match=r"protocol\.void"):
        score(tmp_path, protocol={"void": "background"})
    with pytest.raises(DataError, match="holds other episodes: the data changed"):
        score_episodes(config(tmp_path), TinyPrototypes(), blocks(17).index())  # type: ignore[arg-type]


def test_classes_with_few_pictures_are_an_error_or_left_out(tmp_path: Path) -> None:
    few = Blocks([[1]] * 12 + [[2]] * 12 + [[3]] * 3 + [[4]] * 12).index()
    own = replace(few, folds=(("c1", "c3"), ("c2", "c4")))
    with pytest.raises(DataError, match=r"too few of: c3 \(1\)"):
        score_episodes(config(tmp_path / "a", fold=0), TinyPrototypes(), own)  # type: ignore[arg-type]
    result = score_episodes(config(tmp_path / "b", fold=0, min_pictures=3), TinyPrototypes(), own)  # type: ignore[arg-type]
    assert result.classes == ("c1",) and result.few == ("c3",)
    with pytest.raises(DataError, match="no class has 30 pictures"):
        score_episodes(config(tmp_path / "c", min_pictures=30), TinyPrototypes(), own)  # type: ignore[arg-type]


def test_unreadable_pictures_cost_their_episodes_up_to_a_share(tmp_path: Path) -> None:
    class Torn(Blocks):
        def picture(self, row: int) -> np.ndarray:
            if row == int(INDEX.members[1][2]):
                raise DataError("torn.png: ends before its picture does", "copy it again")
            return super().picture(row)

    torn = replace(INDEX, pictures=Torn(blocks(16)._shown))
    whole = {"protocol": {"split": "same"}, "episodes": 20}
    with pytest.raises(DataError, match=r"episodes of fold-1\.shots-1\.run-0 cannot be read, e\.g\. torn\.png"):
        score_episodes(config(tmp_path / "a", **whole), TinyPrototypes(), torn)  # type: ignore[arg-type]
    allowed = config(tmp_path / "b", max_bad_fraction=0.9, **whole)
    result = score_episodes(allowed, TinyPrototypes(), torn)  # type: ignore[arg-type]
    assert 0 < result.left_out < 20 and result.scores[1].mean["miou"] > 0


@pytest.mark.parametrize("style", ["scribble", "box", "point"])
def test_weak_labels_are_scored_on_the_same_episodes(tmp_path: Path, style: str) -> None:
    pytest.importorskip("scipy")
    dense, weak = score(tmp_path / "mask", resolution=24), score(tmp_path / style, marks=style, resolution=24)
    assert weak.episodes == dense.episodes
    assert weak.scores[1].mean["miou"] != dense.scores[1].mean["miou"]


def test_an_unknown_protocol_a_missing_weights_file_and_a_fold_are_told(tmp_path: Path) -> None:
    words = ["name=a", "data=d", "protocol.name=panet_realease"]
    with pytest.raises(ConfigError, match=r"protocol\.name") as caught:
        load_config(None, words, "episodes")
    assert "panet_release" in str(caught.value)
    with pytest.raises(ConfigError, match="fold: 4 does not exist"):
        score(tmp_path / "a", fold=4)
    with pytest.raises(MissingEnvironmentError, match=r"none\.safetensors"):
        score_episodes(config(tmp_path / "b", weights=str(tmp_path / "none.safetensors")), index=INDEX)


def test_a_named_protocol_fills_in_its_keys_and_own_keys_win(tmp_path: Path) -> None:
    file = tmp_path / "few.yaml"
    file.write_text("kind: episodes\nname: few\ndata: d\nprotocol:\n  name: panet_release\n  void: excluded\n")
    protocol = load_config(file).protocol  # type: ignore[attr-defined]
    assert (protocol.void, protocol.labels, protocol.split) == ("excluded", "resized", "same")
    assert load_config(file, ["protocol.split=separate"]).protocol.split == "separate"  # type: ignore[attr-defined]


def test_a_real_network_scores_a_folder(tmp_path: Path) -> None:
    """From files on disk through VGG-16's graph with weights of chance."""
    from safetensors.torch import save_file

    from raygseg.nn.backbones.vgg16 import VGG16Features

    torch.manual_seed(0)
    save_file(dict(VGG16Features().state_dict()), tmp_path / "vgg.safetensors")
    held = blocks(6)
    for row, name in enumerate(held.names):
        for folder, array in (("images", held.picture(row)), ("masks", held.class_map(row))):
            (tmp_path / "set" / folder).mkdir(parents=True, exist_ok=True)
            (tmp_path / "set" / folder / name).write_bytes(encode_png(array))
    labels = {"classes": ["background", "c1", "c2", "c3", "c4"], "void": 255}
    (tmp_path / "set/labels.json").write_text(json.dumps(labels))
    told = config(
        tmp_path / "out", data=str(tmp_path / "set"), weights=str(tmp_path / "vgg.safetensors"), episodes=2, shots=(1,)
    )
    result = score_episodes(told)
    assert 0 <= result.scores[1].mean["binary_iou"] <= 1 and result.left_out == 0
