"""The command line: exit codes, errors with their fix, help without heavy imports."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from raygseg.cli import run_verbs
from raygseg.cli.app import main, user_error
from raygseg.errors import DataError, MissingEnvironmentError, RaygsegError, TrainingError

GAN = ["kind=gan", "name=toy", "data.source=pictures", "data.resolution=32", "schedule.total_kimg=1"]
VERBS = (
    *(
        "prepare",
        "train",
        "generate",
        "evaluate",
        "episodes",
        "compare",
        "submit",
        "sample",
        "project",
        "segment",
        "import",
        "pull",
    ),
    "inspect",
    *("quickstart", "benchmark", "doctor", "config"),
)
HEAVY = ("torch", "ray", "mlflow", "pandas", "pyarrow", "numpy", "kornia", "safetensors")


def installed(monkeypatch: pytest.MonkeyPatch, name: str, **functions: object) -> None:
    """Put a stand-in for one pipeline where the commands import it from."""
    monkeypatch.setitem(sys.modules, f"raygseg.pipelines.{name}", SimpleNamespace(**functions))


def failing(error: BaseException) -> object:
    def run(*_: object, **__: object) -> None:
        raise error

    return run


@pytest.mark.parametrize("verb", [None, *VERBS])
def test_help_shows_examples(verb: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--help"] if verb else ["--help"]) == 0
    text = capsys.readouterr().out
    assert "Usage: raygseg" in text
    if verb is None:
        assert all(f" {name} " in text for name in VERBS)
    elif verb != "config":
        assert f"raygseg {verb}" in text.split("Example")[1]


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, time; began = time.perf_counter()\n"
        "from raygseg.cli.app import main\n"
        f"for verb in {VERBS!r}: assert main([verb, '--help']) == 0\n"
        f"print('LOADED', [m for m in {HEAVY!r} if m in sys.modules], time.perf_counter() - began)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    last = done.stdout.strip().splitlines()[-1]
    assert last.startswith("LOADED []"), last


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("raygseg 0.")


@pytest.mark.parametrize(
    "words", [["nonsense"], ["train", "--nonsense"], ["segment", "x.png"], ["sample", "g", "-k", "0"]]
)
def test_wrong_usage_is_2(words: list[str]) -> None:
    assert main(words) == 2


def test_wrong_configuration_is_2_and_says_how_to_mend_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "gan.yaml"
    file.write_text("kind: gan\nname: toy\ndata:\n  source: pictures\n  resolutoin: 32\nschedule: {total_kimg: 1}\n")
    assert main(["train", str(file)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert f"{file}:5:3: 'data.resolutoin': unknown key; did you mean 'resolution'?" in captured.err
    assert "fix:" in captured.err
    assert main(["train", str(tmp_path / "absent.yaml")]) == 2
    assert main(["train"]) == 2
    assert main(["train", "kind=generate", "name=x", "sampler=s", "num_pairs=3", "output=o"]) == 2
    assert "raygseg generate" in capsys.readouterr().err
    assert main(["benchmark", "nonsense"]) == 2


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (TrainingError("loss is not finite at step 3", "lower the learning rate"), 1, "lower the learning rate"),
        (DataError("a.jpg: truncated", "replace it"), 1, "a.jpg: truncated"),
        (MissingEnvironmentError("no cluster", "start one"), 3, "start one"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (KeyboardInterrupt("stopped after 3 kimg"), 130, "interrupted: stopped after 3 kimg"),
        (ZeroDivisionError("by zero"), 1, "unexpected ZeroDivisionError: by zero"),
    ],
)
def test_exit_codes(
    error: BaseException, code: int, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    installed(monkeypatch, "train", train=failing(error))
    assert main(["train", *GAN]) == code
    text = capsys.readouterr().err
    assert words in text
    assert "Traceback" not in text


@pytest.mark.parametrize("words", [["--verbose", "train", *GAN], ["train", *GAN, "--verbose"]])
def test_verbose_shows_the_trace(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    installed(monkeypatch, "train", train=failing(TrainingError("bad", "mend")))
    assert main(words) == 1
    assert "Traceback" in capsys.readouterr().err


def test_train_runs_the_pipeline_and_shows_its_result(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[object] = []

    def train(config: object, progress: object = None) -> dict[str, object]:
        seen.append(config)
        assert callable(progress)
        progress("train", 0.5, 1.0, {"loss": 0.25})
        return {"bundle": "runs/toy/bundle", "nimg": 1000, "losses": list(range(100)), "best": None}

    installed(monkeypatch, "train", train=train)
    assert main(["train", *GAN, "schedule.batch_size=8"]) == 0
    assert seen[0].schedule.batch_size == 8  # type: ignore[attr-defined]
    captured = capsys.readouterr()
    assert "runs/toy/bundle" in captured.out
    assert "100 values" in captured.out
    assert "best" not in captured.out
    assert "train: 0.5/1 (50 %)  loss 0.25" in captured.err


def test_dry_run_runs_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    plan = {"parameters": {"generator": 1234567}, "memory": "0.4 GiB", "output": "runs/toy"}
    installed(monkeypatch, "train", train=failing(AssertionError("ran")), plan=lambda config: plan)
    assert main(["train", *GAN, "--dry-run"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for part in ("total_kimg: 1.0", "parameters.generator 1,234,567", "output runs/toy", "fingerprint"):
        assert part in text


def test_config_show_prints_what_loads_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "show", *GAN]) == 0
    first = capsys.readouterr().out
    file = tmp_path / "again.yaml"
    file.write_text(first)
    assert main(["config", "show", str(file)]) == 0
    assert capsys.readouterr().out == first
    assert "# fingerprint: " in first


def test_config_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "schema", "gan"]) == 0
    assert "generator.capacity" in capsys.readouterr().out
    assert main(["config", "schema", "gan", "--json"]) == 0
    assert "schedule" in json.loads(capsys.readouterr().out)["properties"]
    assert main(["config", "schema", "gans"]) == 2


def test_benchmark_prints_one_json_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def run(repeats: int = 5, sizes: tuple[int, ...] = ()) -> dict[str, object]:
        return {"ratio": 3.5, "repeats": repeats, "sizes": sizes, "memory_ratio": float("nan")}

    monkeypatch.setitem(sys.modules, "raygseg.benchmarks.hypercolumn", SimpleNamespace(run=run))
    assert main(["benchmark", "hypercolumn", "repeats=3", "sizes=[1, 2]", "--json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    wanted = {"name": "hypercolumn", "ratio": 3.5, "repeats": 3, "sizes": [1, 2], "memory_ratio": None}
    assert json.loads(lines[0]) == wanted
    assert main(["benchmark", "hypercolumn", "repeats"]) == 2
    assert main(["benchmark", "hypercolumn", "repeat=3"]) == 2
    assert "its settings: repeats, sizes" in capsys.readouterr().err
    assert main(["benchmark", "list"]) == 0
    assert "hypercolumn" in capsys.readouterr().out.split()


def test_error_of_a_worker_is_found_in_the_chain() -> None:
    ours = TrainingError("loss is not finite", "lower the rate")

    def wrapped(**attributes: object) -> BaseException:
        outer = RuntimeError("a worker failed")
        vars(outer).update(attributes)
        return outer

    try:
        raise RuntimeError("outer") from ours
    except RuntimeError as error:
        assert user_error(error) is ours
    assert user_error(wrapped(cause=wrapped(cause=ours))) is ours
    assert user_error(wrapped(worker_failures={0: wrapped(cause=ours)})) is ours
    circle = wrapped()
    vars(circle)["cause"] = circle
    assert user_error(circle) is None


def test_file_may_hold_an_equals_sign(tmp_path: Path) -> None:
    file = tmp_path / "a=b.yaml"
    file.write_text("kind: gan\nname: toy\ndata: {source: p, resolution: 32}\nschedule: {total_kimg: 1}\n")
    assert run_verbs.load([str(file)]).name == "toy"
    with pytest.raises(RaygsegError, match="no configuration"):
        run_verbs.load([])
