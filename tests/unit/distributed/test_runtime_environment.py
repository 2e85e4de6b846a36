"""Runtime environments that cannot work are refused before anything is sent, with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raygseg.distributed.runtime_environment import (
    STOP_WAIT,
    check_runtime_environment,
    read_runtime_environment,
    refuse_passwords,
)
from raygseg.errors import ConfigError

ROOT = Path(__file__).resolve().parents[3]


def test_the_shipped_one_is_taken() -> None:
    document = read_runtime_environment(ROOT / "cluster" / "runtime-env.yaml")
    assert int(document["env_vars"][STOP_WAIT]) >= 60


def test_a_stopped_job_may_save_even_without_a_file(tmp_path: Path) -> None:
    assert read_runtime_environment(None)["env_vars"] == {STOP_WAIT: "60"}
    file = tmp_path / "env.yaml"
    file.write_text(f'env_vars: {{{STOP_WAIT}: "300", A: b}}')
    assert read_runtime_environment(file)["env_vars"] == {STOP_WAIT: "300", "A": "b"}


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ({"pip": ["kornia"]}, "waits for minutes and fails"),
        ({"uv": ["kornia"]}, "waits for minutes"),
        ({"conda": {"dependencies": []}}, "waits for minutes"),
        ({"working_dir": "."}, "packs the job's files itself"),
        ({"excludes": ["*.bin"]}, "packs what the job reads"),
        ({"image_uri": "x/y:1"}, "excludes the files"),
        ({"container": {"image": "x"}}, "excludes the files"),
        ({"evn_vars": {}}, "no key of a job's runtime environment"),
        ({"env_vars": {"A": 1}}, "not text"),
        ({"env_vars": ["A"]}, "not a mapping"),
        ({"env_vars": {"AWS_SECRET_ACCESS_KEY": "hunter2"}}, "a secret would be shown"),
        ({"env_vars": {"MLFLOW_TRACKING_PASSWORD": "hunter2"}}, "a secret would be shown"),
        ({"env_vars": {"MLFLOW_TRACKING_URI": "http://a:hunter2@host"}}, "password in it"),
        ({"env_vars": {"RAY_ADDRESS": "x:6379"}}, "takes it from its cluster"),
        ({"env_vars": {STOP_WAIT: "long"}}, "not a number"),
        ({"py_modules": ["./nowhere"]}, "is not here"),
        ({"py_modules": "raygseg"}, "not a list"),
        ({"config": {"setup_timeout_seconds": 0}}, "number of seconds"),
        (["pip"], "not a mapping"),
    ],
)
def test_what_cannot_work_is_refused(document: Any, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as caught:
        check_runtime_environment(document, "env.yaml")
    assert caught.value.hint
    assert str(caught.value).startswith("env.yaml")
    assert "hunter2" not in str(caught.value)


def test_unreadable_files(tmp_path: Path) -> None:
    for text in (None, "a: [", "- pip"):
        file = tmp_path / f"{text}.yaml".replace("/", "")
        if text is not None:
            file.write_text(text)
        with pytest.raises(ConfigError, match="yaml"):
            read_runtime_environment(file)


def test_passwords_in_words() -> None:
    refuse_passwords(["s3://lab/x", "http://host:5000/a@b", "postgresql://user@host/db"], "words")
    for text in ("runtime.tracking_uri=http://ann:pw@host:5000", '{"uri": "postgresql://ann:p@h/db"}'):
        with pytest.raises(ConfigError, match="words: an address with a password"):
            refuse_passwords([text], "words")
