"""Every command of the README parses, and every configuration it names resolves with its overrides."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer.main

from raygseg.cli import run_verbs
from raygseg.cli.app import app

ROOT = Path(__file__).resolve().parents[3]


def commands() -> list[str]:
    """`raygseg …` and `python jobs/….py …` lines of the README's shell blocks, continuation lines joined."""
    readme = ROOT / "README.md"
    text = readme.read_text() if readme.is_file() else ""
    blocks = re.findall(r"```(?:bash|sh|console)\n(.*?)```", text, flags=re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    found = []
    for line in lines:
        for part in re.split(r"&&|;|\|", re.sub(r"(^|\s)#.*", "", line)):
            if match := re.search(
                r"(?:^|\s)(?:raygseg|python3? jobs/(\w+)\.py)(?:\s+(.*))?$", part.strip().lstrip("$ ")
            ):
                found.append(" ".join(filter(None, [match.group(1), match.group(2)])))
    return found


def scripts() -> list[str]:
    """Files that the README tells a reader to run or read."""
    readme = ROOT / "README.md"
    text = readme.read_text() if readme.is_file() else ""
    return sorted(set(re.findall(r"\b(?:jobs|configs|cluster|tests)/[\w./-]+\.(?:py|sh|yaml|txt)\b", text)))


@pytest.mark.parametrize("command", commands())
def test_command_parses(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    verb, *words = shlex.split(command)
    group = typer.main.get_command(app)
    assert verb in group.commands, f"no verb '{verb}'"  # type: ignore[attr-defined]
    context = group.commands[verb].make_context(verb, list(words))  # type: ignore[attr-defined]
    if verb in ("train", "generate", "evaluate"):
        run_verbs.load(context.params["words"], None if verb == "train" else verb)


@pytest.mark.parametrize("script", scripts())
def test_named_file_is_there(script: str) -> None:
    assert (ROOT / script).is_file()
