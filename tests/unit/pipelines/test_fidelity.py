"""Measuring generators, sheets to look at, and the page of a run: on a real run of a few steps."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from raygseg.config.schema import GanConfig
from raygseg.errors import ConfigError, DataError, MissingEnvironmentError
from raygseg.pipelines.fidelity import curve, fidelity, records
from raygseg.pipelines.run_report import run_report
from raygseg.pipelines.sheets import draw_sheet
from raygseg.pipelines.train import train
from tests.unit.tiny_networks import vgg16_file

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
REALS = "toy://default?count=40&seed=0"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    return vgg16_file(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    config = GanConfig.model_validate(
        {
            "name": "tiny",
            "data": {"source": REALS, "resolution": 16},
            "schedule": {"total_kimg": 0.032, "batch_size": 8},
            "generator": {"z_dim": 8, "w_dim": 8, "mapping_layers": 1, "channel_base": 64, "channel_max": 8},
            "runtime": {
                "in_process": True,
                "output": str(folder / "tiny"),
                "tracking_uri": f"sqlite:///{folder}/mlflow.db",
                "tick_kimg": 0.008,
                "checkpoint_kimg": 0.016,
            },
        }
    )
    train(config)
    return folder / "tiny"


def test_every_checkpoint_of_a_run_is_measured_once_and_tracked(run: Path, weights: str) -> None:
    told: list[str] = []
    first = fidelity(str(run), REALS, count=24, weights=weights, progress=lambda stage, *rest: told.append(stage))
    assert [r.nimg for r in first] == [16, 32]
    assert {r.metric for r in first} == {"FID-VGG16"}
    assert all(np.isfinite([r.fid, r.kid, r.precision, r.recall]).all() and r.fid > 0 for r in first)
    assert {(r.fakes, r.reals, r.side) for r in first} == {(24, 40, 64)}
    assert {"real pictures", "generated pictures"} <= set(told)

    told.clear()
    again = fidelity(str(run), REALS, count=24, weights=weights, progress=lambda stage, *rest: told.append(stage))
    assert again == first == records(str(run))
    assert not told, "nothing was measured again"
    fewer = fidelity(str(run), REALS, count=16, weights=weights)
    assert sorted((r.nimg, r.fakes) for r in records(str(run))) == [(16, 16), (16, 24), (32, 16), (32, 24)]
    assert fewer[0].fid != first[0].fid
    assert len({record.fakes for record in curve(str(run))}) == 1, "only what compares"
    assert fidelity(str(run) + "/", REALS, count=24, weights=weights) == first

    points = [json.loads(line) for line in (run / "tracking.jsonl").read_text().splitlines()]
    by = {p["nimg"]: p["metrics"]["fid_vgg16"] for p in points if "fid_vgg16" in p.get("metrics", {})}
    assert by == {r.nimg: r.fid for r in first}


def test_a_bundle_gives_the_figures_of_the_last_checkpoint(run: Path, weights: str, tmp_path: Path) -> None:
    of_run = fidelity(str(run), REALS, count=24, weights=weights)[-1]
    (of_bundle,) = fidelity(str(run / "bundle"), REALS, str(tmp_path), count=24, weights=weights)
    (of_checkpoint,) = fidelity(of_run.generator, REALS, str(tmp_path), count=24, weights=weights)
    assert of_bundle.fid == of_checkpoint.fid == of_run.fid
    assert len(records(str(tmp_path))) == 2


def test_real_pictures_are_nearer_to_themselves_than_to_an_untrained_generator(run: Path, weights: str) -> None:
    from raygseg.metrics.distributions import FeatureStatistics, frechet_distance
    from raygseg.pipelines.feature_statistics import Look, RealPictures

    look = Look(weights, 64, "fp32", "cpu")
    near = FeatureStatistics.of(RealPictures(look, REALS, 16, 0)()(0, 40))
    other = FeatureStatistics.of(RealPictures(look, "toy://default?count=40&seed=1", 16, 0)()(0, 40))
    (fake, *_) = fidelity(str(run), REALS, count=40, weights=weights)
    assert frechet_distance(near, other) < 0.5 * fake.fid


def test_what_is_missing_is_named(run: Path, weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAYGSEG_DATA", raising=False)
    with pytest.raises(MissingEnvironmentError, match="weights of vgg16"):
        fidelity(str(run), REALS)
    with pytest.raises(ConfigError, match="'alexnet'"):
        fidelity(str(run), REALS, network="alexnet")
    with pytest.raises(DataError, match="nowhere"):
        fidelity(str(run), str(tmp_path / "nowhere"), weights=weights)


@pytest.mark.parametrize(("sheet", "size"), [("grid", (2, 2)), ("truncation", (6, 3)), ("interpolation", (8, 3))])
def test_sheets_have_their_pictures(run: Path, tmp_path: Path, sheet: str, size: tuple[int, int]) -> None:
    count = 4 if sheet == "grid" else 3
    place = draw_sheet(str(run / "bundle"), sheet, str(tmp_path), count=count, seed=5)
    assert place == str(tmp_path / f"{sheet}.png")
    drawn = np.asarray(Image.open(place))
    head = 20 if sheet == "truncation" else 0
    assert drawn.shape == (size[1] * 18 - 2 + head, size[0] * 18 - 2, 3)
    cell = [[drawn[head + 18 * y :][:16, 18 * x :][:, :16].astype(int) for x in range(size[0])] for y in range(size[1])]
    if sheet == "truncation":  # psi 0 is the average picture whatever the seed, but for its noise
        average, varied = (float(np.abs(cell[0][x] - cell[1][x]).mean()) for x in (0, -1))
        assert average < varied
    if sheet == "interpolation":  # the rows begin with the pictures of the seeds
        steps = [float(np.abs(a - b).mean()) for a, b in itertools.pairwise([*cell[0], cell[1][0]])]
        assert max(steps) < float(np.abs(cell[0][0] - cell[1][0]).mean())
    again = draw_sheet(str(run / "bundle"), sheet, str(tmp_path / "again.png"), count=count, seed=5)
    assert Path(again).read_bytes() == Path(place).read_bytes()


def test_an_unknown_sheet_is_named(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no sheet 'wall'"):
        draw_sheet(str(run / "bundle"), "wall", str(tmp_path))


def test_the_page_of_a_run_holds_curves_grids_and_the_configuration(run: Path, weights: str) -> None:
    fidelity(str(run), REALS, count=24, weights=weights)
    with (run / "tracking.jsonl").open("a") as file:
        file.write('{"nimg": 40, "metr')  # killed while writing
    page = Path(run_report(str(run))).read_text()
    for text in ("losses", "augmentation", "FID-VGG16", "channel_base", "data:image/png", "raygseg fidelity"):
        assert text in page, text
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "")
    with pytest.raises(DataError, match="not the folder of a run"):
        run_report(str(run / "bundle"))
