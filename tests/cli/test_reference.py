"""`docs/reference/cli.md` is what `--help` says; `RETINUE_GOLDEN=write pytest tests/cli` writes it anew."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import typer

from retinue.cli.main import app, run

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "cli.md"
HEAD = """\
# Command line

Every command that prints for people takes `-o json` and then prints the same facts for programs. What was asked for
goes to standard output, what is said about it to standard error. Colour is used on a terminal only, and not with
`NO_COLOR`. With `-o json` an error is a document on standard output too: `{"error": {"message", "hint", "where",
"problems": […]}}`, with the same exit code.

| exit code | meaning |
| --- | --- |
| 0 | done |
| 1 | failed; also an apply of which a part failed, and a plan that is blocked |
| 2 | `plan --detailed-exitcode`: there are changes |
| 64 | wrong usage: unknown options, names or files |
| 130 | interrupted with Ctrl-C; what was kept is said |
"""


def commands() -> list[list[str]]:
    """Every command's words, in the order of the help."""
    found: list[list[str]] = [[]]
    group = typer.main.get_command(app)
    for name, command in group.commands.items():  # type: ignore[attr-defined]  # it is a group
        inner = getattr(command, "commands", {})
        found += [[name, below] for below in inner] or [[name]]
    return found


def test_the_reference_is_what_help_says(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "110")
    monkeypatch.setenv("TERMINAL_WIDTH", "110")
    blocks = [HEAD]
    for words in commands():
        assert run([*words, "--help"]) == 0
        blocks.append(f"## {' '.join(['retinue', *words])}\n\n```\n{capsys.readouterr().out.rstrip()}\n```\n")
    text = "\n".join(blocks)
    if os.environ.get("RETINUE_GOLDEN") == "write":
        PAGE.parent.mkdir(parents=True, exist_ok=True)
        PAGE.write_text(text, encoding="utf-8")
    assert text == PAGE.read_text(encoding="utf-8")


def test_every_command_and_option_says_what_it_does() -> None:
    group = typer.main.get_command(app)
    todo = list(group.commands.values())  # type: ignore[attr-defined]  # it is a group
    while todo:
        command = todo.pop()
        todo += getattr(command, "commands", {}).values()
        assert command.help, command.name
        for parameter in command.params:
            assert getattr(parameter, "help", None), f"{command.name} {parameter.name}"
