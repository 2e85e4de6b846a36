"""The GPU queue on a machine without one: the same verbs at a tiny size on the CPU."""

from __future__ import annotations

import importlib
import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from raygseg.benchmarks.gpu_queue import gpu_tests, inputs, items, parcels, records, timing, trained, wheels
from raygseg.benchmarks.gpu_queue.command import main
from raygseg.benchmarks.gpu_queue.compiled import MainPhasesCompiled
from raygseg.benchmarks.gpu_queue.lease import Lease, run_items
from raygseg.benchmarks.gpu_queue.resident import ResidentStream, toy_array
from raygseg.bundle import read_bundle
from raygseg.config.schema import GanConfig
from raygseg.data.sources import open_pictures
from raygseg.data.streams import PictureStream
from raygseg.engine import state_tree
from raygseg.engine.checkpoint import read_checkpoint
from raygseg.engine.loop import Trainer
from raygseg.errors import ConfigError, DataError, MissingEnvironmentError
from raygseg.methods.stylegan2.training import build_recipe
from tests.unit.benchmarks.queue_on_cpu import ABSENT, lease, words

TOY = "toy://default?count=24&seed=0"


def place_cars(travels: Path, count: int = 20) -> None:
    """A stand-in for the car photos."""
    (travels / "inputs").mkdir(parents=True)
    pictures = np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    with zipfile.ZipFile(travels / items.CARS_ZIP, "w") as archive:
        for i, picture in enumerate(pictures):
            content = io.BytesIO()
            Image.fromarray(picture).save(content, "WEBP", lossless=True)
            archive.writestr(f"{i:05d}.webp", content.getvalue())


# --- the whole way ---------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_runs_beside_plain_torch_comes_back_and_goes_on(tmp_path: Path, repository: Path) -> None:
    place_cars(tmp_path / "travels")
    job = str(repository / "jobs" / "gpu_queue.py")
    blocked = f"import runpy, sys\nfor name in {ABSENT}: sys.modules[name] = None\n"
    code = f"{blocked}sys.argv = sys.argv[1:]\nrunpy.run_path(sys.argv[0], run_name='__main__')"
    three = ("timing-256", "cars-128", "toy-generator")
    command = [sys.executable, "-c", code, job, *words(tmp_path, "run", *three)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    names = sorted(path.name for path in (tmp_path / "out-1").iterdir())
    assert names == ["index.json", "results.jsonl", "returned.zip.part-000"]

    assert main(words(tmp_path, "collect", str(tmp_path / "out-1"))) == 0
    known = records.read(tmp_path / "keep" / "results.jsonl")
    assert not [record for record in known if "error" in record]
    assert records.done_items(known) == {"timing-256"}
    figures = next(r for r in known if r["key"] == "bf16 tf32 plain")
    assert figures["training"]["images_per_second"] > 0 and figures["inference"]["images_per_second"] > 0
    for item in three[1:]:
        assert [p.name for p in (tmp_path / "keep" / item).glob("checkpoint-*")] == ["checkpoint-000000032"]
        with Image.open(tmp_path / "keep" / item / "grid-000000032.png") as grid:
            assert grid.size == (8 * 10 - 2, 8 * 10 - 2)

    # Another machine: nothing but what travels.
    assert main(words(tmp_path, "run", "cars-128", "toy-generator", call="2")) == 0
    assert main(words(tmp_path, "collect", str(tmp_path / "out-2"))) == 0
    known = records.read(tmp_path / "keep" / "results.jsonl")
    assert {"timing-256", "cars-128", "toy-generator"} <= records.done_items(known)
    assert [r["nimg"] for r in known if r["item"] == "cars-128" and "nimg" in r] == [16, 32, 48, 64]
    assert read_bundle(tmp_path / "keep" / "cars-128" / "generator-000000064").kind == "generator"


def test_two_machines_train_what_one_does(tmp_path: Path) -> None:
    place_cars(tmp_path / "travels")
    for call in ("1", "1"):  # the same machine: its own state goes on
        assert main(words(tmp_path, "run", "cars-128", call=call)) == 0
    one = read_checkpoint(str(tmp_path / "work-1" / "cars-128" / "checkpoint-000000064")).state
    other = tmp_path / "other"
    place_cars(other / "travels")
    for call in ("1", "2"):
        assert main(words(other, "run", "cars-128", call=call)) == 0
        assert main(words(other, "collect", str(other / f"out-{call}"))) == 0
    two = read_checkpoint(str(other / "work-2" / "cars-128" / "checkpoint-000000064")).state
    weights = [state["recipe"]["modules"]["average"] for state in (one, two)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_what_a_first_call_measured_goes_back_with_the_second(tmp_path: Path) -> None:
    lease(tmp_path).record("timing-256", "matmul", {"tflops": 1.0})
    again = lease(tmp_path)
    assert again.has("timing-256", "matmul") and not again.has("timing-256", "other")
    assert [r["key"] for r in records.read(tmp_path / "out" / "results.jsonl")] == ["matmul"]
    records.append(tmp_path / "travels" / "results.jsonl", again.known)  # as if it had been collected
    lease(tmp_path)
    assert records.read(tmp_path / "out" / "results.jsonl") == []


def test_a_failing_item_is_recorded_and_the_next_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(self: items.Item, on: Lease) -> bool:
        if self.name == "timing-256":
            raise RuntimeError("no such kernel")
        return True

    monkeypatch.setattr(items.Item, "run", run)
    machine = lease(tmp_path)
    assert run_items(machine) == ["gpu-tests", "timing-256", "toy-generator"]  # the others lack their inputs
    assert records.done_items(machine.known) == {"gpu-tests", "toy-generator"}
    assert "no such kernel" in next(r for r in machine.known if r["key"] == "error")["error"]
    assert run_items(lease(tmp_path, seconds=0)) == []


def test_without_a_gpu_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    assert main(["run", "--minutes", "1", "--output", str(tmp_path), "--travels", str(tmp_path)]) == 3
    assert "no CUDA device" in capsys.readouterr().err


def test_list_names_every_item_with_its_state(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words(tmp_path, "list")) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == [item.name for item in items.ITEMS]
    assert "inputs/cars-128.zip (missing)" in lines[4] and "to do" in lines[1]
    with pytest.raises(ConfigError, match="no item 'horses'"):
        items.chosen(["horses"])


# --- coming back -----------------------------------------------------------------------------------


def test_a_parcel_survives_and_a_broken_one_is_named(tmp_path: Path) -> None:
    source, output = tmp_path / "source", tmp_path / "output"
    (source / "cars-128").mkdir(parents=True)
    (source / "cars-128" / "state.bin").write_bytes(np.random.default_rng(0).bytes(2500))
    parcels.pack(source, output, part_bytes=1000)
    parcels.pack(source, output, part_bytes=1200)  # leaves nothing of the first
    assert sorted(path.name[-3:] for path in output.glob("*.part-*")) == ["000", "001", "002"]
    (unpacked,) = parcels.unpack(output, tmp_path / "back")
    assert unpacked.read_bytes() == (source / "cars-128" / "state.bin").read_bytes()
    part = output / "returned.zip.part-001"
    part.write_bytes(part.read_bytes()[:-1])
    with pytest.raises(DataError, match="part-001: checksum differs"):
        parcels.unpack(output, tmp_path / "back")
    part.unlink()
    with pytest.raises(DataError, match="part-001: missing"):
        parcels.unpack(output, tmp_path / "back")


def test_the_newest_grids_go_back_where_there_is_little_room(tmp_path: Path) -> None:
    for kimg in range(5):
        (tmp_path / "source").mkdir(exist_ok=True)
        (tmp_path / "source" / f"grid-{kimg}.png").write_bytes(np.random.default_rng(kimg).bytes(1000))
    parcels.pack(tmp_path / "source", tmp_path / "output", part_bytes=400)  # 6 parts
    names = sorted(path.name for path in parcels.unpack(tmp_path / "output", tmp_path / "back"))
    assert names == ["grid-3.png", "grid-4.png"]


def test_records_of_a_killed_run_are_taken_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = {"item": "timing-256", "key": "bf16 tf32 plain", "at": "now", "error": "RuntimeError: out of memory"}
    output = tmp_path / "out-1"
    output.mkdir()
    (output / "results.jsonl").write_text(json.dumps(whole) + '\n{"item": "timing-256", "ke')
    for fresh in ("1 new", "0 new"):
        assert main(words(tmp_path, "collect", str(output))) == 0
        assert fresh in capsys.readouterr().out
    assert records.read(tmp_path / "travels" / "results.jsonl") == [whole]
    assert main(words(tmp_path, "collect", str(tmp_path / "nothing"))) == 1


# --- going there -----------------------------------------------------------------------------------


def wheel(folder: Path, name: str, needs: str = "", tag: str = "py3-none-any", version: str = "1.0") -> None:
    folder.mkdir(exist_ok=True)
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    lines += [f"Requires-Dist: {needs}"] if needs else []
    with zipfile.ZipFile(folder / f"{name}-{version}-{tag}.whl", "w") as archive:
        archive.writestr(f"{name}-{version}.dist-info/METADATA", "\n".join(lines))
        archive.writestr(f"{name}.py", f"version = {version!r}\n")


@pytest.mark.parametrize(
    ("needs", "tag", "fault"),
    [
        ("beta>=1", "py3-none-any", ""),
        ("beta>=2", "py3-none-any", "needs beta>=2, there is 1.0"),
        ("gamma", "py3-none-any", "needs gamma, there is none"),
        ('gamma; extra == "all"', "py3-none-any", ""),
        ('gamma; python_version < "3.9"', "py3-none-any", ""),
        ("beta", "cp312-cp312-manylinux_2_17_x86_64", ""),
        ("beta", "cp311-cp311-manylinux_2_17_x86_64", "is not for Python 3.12"),
        ("beta", "cp312-cp312-manylinux_2_17_aarch64", "is not for Python 3.12"),
    ],
)
def test_wheels_that_do_not_fit_are_named(tmp_path: Path, needs: str, tag: str, fault: str) -> None:
    wheel(tmp_path, "alpha", needs, tag)
    wheel(tmp_path, "beta")
    found = wheels.misfit(tmp_path, "3.12")
    assert fault in found if fault else not found


def test_carried_wheels_become_importable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheels, "WANTED", "carried_alpha")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("PYTHONPATH", "before")
    with pytest.raises(MissingEnvironmentError, match="no wheels there"):
        wheels.provide(tmp_path)
    wheel(tmp_path, "carried_alpha", "carried_beta")
    with pytest.raises(MissingEnvironmentError, match="needs carried_beta"):
        wheels.provide(tmp_path)
    wheel(tmp_path, "carried_beta")
    wheels.provide(tmp_path)
    assert importlib.import_module("carried_alpha").version == "1.0"
    code = "import carried_beta; print(carried_beta.version)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1.0"


def test_pictures_are_packed_as_well_as_there_is_room_for(tmp_path: Path) -> None:
    pictures = toy_array(TOY, 64)
    files = [tmp_path / f"{i:02d}.png" for i in range(12)]
    for file, picture in zip(files, pictures, strict=False):
        Image.fromarray(picture).save(file)
    roomy, tight = (inputs.compress(files, tmp_path / "inputs" / "a.zip", limit) for limit in (10**6, 12_000))
    assert roomy == inputs.QUALITIES[0] > tight
    assert (tmp_path / "inputs" / "a.zip").stat().st_size <= 12_000
    with zipfile.ZipFile(tmp_path / "inputs" / "a.zip") as archive:
        assert archive.namelist() == [f"{i:02d}.webp" for i in range(12)]
    with pytest.raises(DataError, match="do not fit"):
        inputs.compress(files, tmp_path / "b.zip", 100)


def test_too_much_to_travel_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "large").write_bytes(bytes(1000))
    monkeypatch.setattr(inputs, "_tree_bytes", lambda: 500)
    monkeypatch.setattr(inputs, "LIMIT", 1500)
    assert inputs.check_size(tmp_path) == (500, 1000)
    monkeypatch.setattr(inputs, "LIMIT", 1499)
    with pytest.raises(DataError, match="would travel"):
        inputs.check_size(tmp_path)


def test_prepare_fills_the_folder_and_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With wheels, pictures and public code that are stand-ins; nothing is downloaded."""
    monkeypatch.setattr(wheels, "fetch", lambda folder, python: wheel(folder, "pydantic"))
    monkeypatch.setenv("RAYGSEG_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("RAYGSEG_PEERS", str(tmp_path / "peers"))
    (tmp_path / "data" / "cars" / "unlabelled").mkdir(parents=True)
    Image.fromarray(toy_array(TOY, 16)[0]).save(tmp_path / "data" / "cars" / "unlabelled" / "1.jpg")
    source = tmp_path / "peers" / "stylegan2-ada-pytorch" / "training"
    source.mkdir(parents=True)
    for name in ("networks.py", "teaser.png"):
        (source / name).write_text("x")
    travels = tmp_path / "travels"
    travels.mkdir()
    assert main(words(tmp_path, "prepare")) == 0
    assert "run --minutes 9 --output DIR" in capsys.readouterr().out
    there = {path.relative_to(travels).as_posix() for path in parcels.files_below(travels)}
    assert {"inputs/cars-128.zip", "peers/stylegan2-ada-pytorch/training/networks.py", "about.json"} <= there
    assert not [name for name in there if name.endswith(".png")]
    assert main(words(tmp_path, "prepare", "timing-256")) == 0
    assert not (travels / items.CARS_ZIP).exists() and not (travels / items.PEERS).exists()


# --- the items -------------------------------------------------------------------------------------


def test_resident_pictures_come_as_from_the_stream() -> None:
    pictures = open_pictures(TOY, 8)
    resident = ResidentStream(pictures, toy_array(TOY, 8), 5, True, "cpu")
    plain = PictureStream(pictures, 5, True)
    for first, count in ((0, 8), (20, 8), (100, 3)):
        assert torch.equal(resident.micro_batch(first, count)["images"], plain.micro_batch(first, count)["images"])


def test_first_moments_do_not_decide_anything() -> None:
    config = GanConfig.model_validate({**trained.settings("toy-generator", "tiny"), "seed": 1})
    stream = PictureStream(open_pictures(TOY, 8), 1, True)
    straight, resumed = (Trainer(build_recipe(config), stream) for _ in range(2))
    for _ in range(2):
        straight.step()
    resumed.load_state_dict(trained.without_first_moments(state_tree.snapshot(straight.state_dict())))
    for trainer in (straight, resumed):
        for _ in range(2):
            trainer.step()
    for one, other in zip(straight.recipe.modules().values(), resumed.recipe.modules().values(), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_the_state_of_an_item_does_not_go_back_in_time(tmp_path: Path) -> None:
    for nimg, text in ((16, "old"), (32, "new")):
        folder = tmp_path / text / f"checkpoint-{nimg:09d}"
        folder.mkdir(parents=True)
        (folder / "state.json").write_text(text)
        parcels.zip_files(tmp_path / f"{text}.zip", tmp_path / text, parcels.files_below(tmp_path / text))
    work = tmp_path / "work"
    for name, newest in (("old", 16), ("new", 32), ("old", 32), ("none", 32)):
        trained.take_state(tmp_path / f"{name}.zip", work)
        assert max(path.name for path in work.iterdir()) == f"checkpoint-{newest:09d}"


def test_the_full_settings_are_valid_and_their_print_leaves_runtime_out() -> None:
    for item in ("cars-128", "toy-generator"):
        values = trained.settings(item)
        assert GanConfig.model_validate(values).schedule.total_kimg >= 2000
        assert trained.own_print(values) == trained.own_print({**values, "runtime": {}})
        assert trained.own_print(values) != trained.own_print({**values, "seed": 7})
    with pytest.raises(ConfigError):
        trained.settings("timing-256")


def test_only_main_phases_are_compiled() -> None:
    case, size = timing.Case("fp32", 1), timing.SIZES["tiny"]
    config = timing.configuration(case, size)
    plain, recipe = build_recipe(config), build_recipe(config)
    calls: list[str] = []

    def compiler(function: Any) -> Any:
        def fast(*arguments: Any, **keywords: Any) -> Any:
            calls.append(phase)
            return function(*arguments, **keywords)

        return fast

    names = set(recipe.generator.state_dict())
    MainPhasesCompiled(recipe, compiler)
    assert set(recipe.generator.state_dict()) == names
    pictures = timing.SamePictures(size, "cpu")
    phase = ""
    for one, other in zip(plain.phases, recipe.phases, strict=True):
        phase = one.name
        batch = timing_batch(pictures, size)
        assert torch.equal(one.loss(batch).loss, other.loss(batch).loss)
    assert set(calls) == {"Gmain", "Dmain"}


def timing_batch(pictures: timing.SamePictures, size: timing.Size) -> Any:
    from raygseg.interfaces import Draws, MicroBatch

    return MicroBatch(pictures.micro_batch(0, size.batch), Draws(0, 0, 0), 0)


def test_a_case_that_cannot_run_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(function: Any, **_: Any) -> Any:
        raise RuntimeError("no compiler here")

    monkeypatch.setattr(torch, "compile", broken)
    found = timing.attempt(timing.Case("bf16", 1, compiled=True), timing.SIZES["tiny"], "cpu", 1.0)
    assert found["error"] == "RuntimeError: no compiler here" and "training" not in found


def test_a_precision_that_came_later_is_measured_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "TINY_CASES", (timing.Case("fp32", 1),))
    monkeypatch.setattr(timing, "precisions", lambda: ("bf16",))
    machine = lease(tmp_path)
    assert timing.run(machine, "timing-256")
    assert not machine.has("timing-256", "fp32 tf32 plain")
    monkeypatch.setattr(timing, "precisions", lambda: ("fp32",))
    assert timing.run(machine, "timing-256")
    assert machine.has("timing-256", "fp32 tf32 plain")


@pytest.mark.parametrize(("code", "passed"), [(0, True), (1, False)])
def test_the_gpu_tests_are_done_when_they_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, passed: bool
) -> None:
    done = subprocess.CompletedProcess([], code, "collected\n9 of them\n", "")
    monkeypatch.setattr(gpu_tests.subprocess, "run", lambda *_, **__: done)
    machine = lease(tmp_path)
    assert gpu_tests.run(machine, "gpu-tests") is passed
    assert (machine.known[-1]["passed"], machine.known[-1]["summary"]) == (passed, "9 of them")


def test_work_on_paper_is_that_of_the_phases() -> None:
    assert len({case.key for case in timing.CASES}) == len(timing.CASES)
    size = timing.SIZES["tiny"]
    plain = timing.on_paper(timing.configuration(timing.Case("fp32", 1), size))
    recomputing = timing.on_paper(timing.configuration(timing.Case("fp32", 1, recompute_from=4), size))
    assert plain["flop_a_round"] == recomputing["flop_a_round"] > 0
    assert set(plain["phase_bytes"]) == {"Gmain", "Greg", "Dmain", "Dreg"}
