"""Every command of the README parses, and every configuration it names resolves with its overrides."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer.main

from raygseg.benchmarks.gpu_queue.command import parser as gpu_queue_parser
from raygseg.cli.app import app, main

ROOT = Path(__file__).resolve().parents[3]


def commands() -> list[str]:
    """`raygseg …` and `python jobs/….py …` of the README's shell blocks (lines joined) and of its running text."""
    readme = ROOT / "README.md"
    text = readme.read_text() if readme.is_file() else ""
    lines: list[str] = []
    for block in re.findall(r"```(?:bash|sh|console)\n(.*?)```", text, flags=re.DOTALL):
        lines += re.sub(r"(^|\s)#.*", "", block.replace("\\\n", " "), flags=re.MULTILINE).splitlines()
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    lines += [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]
    found = []
    for part in (part for line in lines for part in re.split(r"&&|;|\|", line)):
        match = re.search(r"(?:^|\s)(?:raygseg|python3? jobs/(\w+)\.py)(?:\s+(\S.*))?$", part.strip().lstrip("$ "))
        words = " ".join(filter(None, match.groups())) if match else ""
        if " " in words and "..." not in words:  # a verb alone is a mention
            found.append(words)
    return found


def scripts() -> list[str]:
    """Files that the README tells a reader to run or read."""
    readme = ROOT / "README.md"
    text = readme.read_text() if readme.is_file() else ""
    return sorted(set(re.findall(r"\b(?:jobs|configs|cluster|tests)/[\w./-]+\.(?:py|sh|yaml|txt)\b", text)))


@pytest.mark.parametrize("command", commands())
def test_command_parses_and_dry_runs(command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    verb, *words = shlex.split(re.sub(r"\$\w+", "1", command))
    if verb == "gpu_queue":  # a script of its own
        assert gpu_queue_parser().parse_args(words)
        return
    group = typer.main.get_command(app)
    assert verb in group.commands, f"no verb '{verb}'"  # type: ignore[attr-defined]
    group.commands[verb].make_context(verb, list(words))  # type: ignore[attr-defined]
    if words and words[0].startswith("runs/") and words[0].endswith(".yaml"):  # what a command above it leaves
        (tmp_path / words[0]).parent.mkdir(parents=True)
        stand_in = (ROOT / "configs/toy/segmenter-full.yaml").read_text()
        (tmp_path / words[0]).write_text(stand_in.replace("base: ", f"base: {ROOT}/configs/toy/"))
    if verb in ("train", "generate", "evaluate", "episodes", "compare"):
        assert main([verb, *words, *(["--dry-run"] if "--dry-run" not in words else [])]) == 0


@pytest.mark.parametrize("script", scripts())
def test_named_file_is_there(script: str) -> None:
    assert (ROOT / script).is_file()
