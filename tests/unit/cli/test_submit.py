"""submit: everything is checked here before anything is sent; the printed line is what would be done."""

from __future__ import annotations

import json
import shlex
import zipfile
from pathlib import Path

import pytest

from raygseg.cli.app import main
from raygseg.cli.submit_verb import SUBMITTED

ROOT = Path(__file__).resolve().parents[3]
GAN = ["kind=gan", "name=toy", "data.source=toy://default", "data.resolution=32", "schedule.total_kimg=1"]
FAR = ["--address", "http://head:8265", "--dry-run"]


@pytest.fixture(autouse=True)
def _empty_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def submitted(capsys: pytest.CaptureFixture[str]) -> tuple[list[str], list[str]]:
    """The words of the printed `ray job submit` line, and the names in its zip."""
    line = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("ray job submit "))
    words = shlex.split(line)
    with zipfile.ZipFile(words[words.index("--working-dir") + 1]) as archive:
        return words, archive.namelist()


def test_the_scripts_of_jobs_are_what_is_submitted() -> None:
    assert {f.stem for f in (ROOT / "jobs").glob("*.py")} - {"gpu_queue"} == set(SUBMITTED)


def test_the_line_names_job_files_environment_and_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["submit", "train", *GAN, "runtime.output=s3://lab/toy", *FAR]) == 0
    words, names = submitted(capsys)
    at = words.index("--")
    assert words[at + 1 :] == ["python", "jobs/train.py", *GAN, "runtime.output=s3://lab/toy"]
    assert words[words.index("--address") + 1] == "http://head:8265"
    environment = json.loads(words[words.index("--runtime-env-json") + 1])
    assert environment["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"] == "60"
    assert {"jobs/train.py", "raygseg/__init__.py"} <= set(names)
    assert not [name for name in names if name.startswith(("tests", "runs", "configs"))]


def test_a_configuration_takes_its_bases_and_inputs_along(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "my/parts").mkdir(parents=True)
    (tmp_path / "my/base.yaml").write_text("kind: head\nname: h\ngenerator: runs/gan/bundle\n")
    (tmp_path / "my/head.yaml").write_text("base: base.yaml\nsamples: my/parts\n")
    (tmp_path / "my/parts/1.png").write_bytes(b"x")
    (tmp_path / "runs/gan/bundle").mkdir(parents=True)
    (tmp_path / "runs/gan/bundle/weights.safetensors").write_bytes(b"w")
    assert main(["submit", "train", str(tmp_path / "my/head.yaml"), "runtime.output=/shared/h", *FAR]) == 0
    words, names = submitted(capsys)
    assert words[-2:] == ["my/head.yaml", "runtime.output=/shared/h"]
    expected = {"my/base.yaml", "my/head.yaml", "my/parts/1.png", "runs/gan/bundle/weights.safetensors"}
    assert expected == {name for name in names if not name.startswith(("raygseg/", "jobs/"))}


def test_other_verbs_pass_their_options_on(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"x")
    command = ["segment", "models:/toy@champion", "photo.jpg", "--output", "s3://lab/parts", "--no-overlays"]
    assert main(["submit", *command, *FAR]) == 0
    words, names = submitted(capsys)
    assert words[words.index("--") + 1 :] == ["python", "jobs/segment.py", *command[1:]]
    assert "photo.jpg" in names
    assert main(["submit", "benchmark", "generate", "sampler=photo.jpg", *FAR]) == 0
    assert "photo.jpg" in submitted(capsys)[1]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["train", *GAN, *FAR], "Ray deletes when the job has ended"),
        (["train", *GAN, "runtime.output=runs/x", *FAR], "runtime.output is 'runs/x'"),
        (["train", *GAN, "runtime.output=/x", "runtime.tracking_uri=sqlite:///runs/m.db", *FAR], "tracking_uri"),
        (["train", *GAN, "data.resolutoin=3", *FAR], "did you mean 'resolution'"),
        (["train", *GAN, "runtime.output=/x", "data.source=my/photos", *FAR], "'my/photos' is not here"),
        (["train", *GAN, "runtime.output=/x", "runtime.workers=3", *FAR], "cannot be shared out"),
        (["train", *GAN, "runtime.output=/x"], "no cluster to submit to"),
        (["train", *GAN, "runtime.output=/x", "--include", "nothing", *FAR], "'nothing' is not here"),
        (["train", *GAN, "runtime.output=/x", "runtime.tracking_uri=http://a:b@h", *FAR], "password"),
        (["train", "kind=evaluate", "name=e", "model=models:/m", "data=toy://d", *FAR], "submit evaluate"),
        (["segment", "models:/x", "models:/y", "--output", "parts", *FAR], "--output is 'parts'"),
        (["quickstart", *FAR], "not run on a cluster"),
    ],
)
def test_what_cannot_work_is_2_and_nothing_is_sent(
    words: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["submit", *words]) == 2
    text = capsys.readouterr().err
    assert reason in text
    assert "fix:" in text


def test_wrong_options_of_the_verb_are_usage_errors() -> None:
    assert main(["submit", "segment", "models:/x", *FAR]) == 2


def test_a_runtime_environment_is_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "env.yaml").write_text("pip: [kornia]")
    words = ["submit", "train", *GAN, "runtime.output=/x", "--runtime-env", "env.yaml", *FAR]
    assert main(words) == 2
    assert "'pip' cannot work here" in capsys.readouterr().err


def test_nothing_answers(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["submit", "benchmark", "list", "--address", "http://127.0.0.1:9"]) == 3
    assert "nothing answers there" in capsys.readouterr().err
