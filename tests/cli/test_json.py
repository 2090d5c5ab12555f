"""Every command speaks JSON, or says here why it has nothing to say in it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import typer

from retinue.cli.main import app

WITHOUT = {
    "schema": "what it prints is JSON already",
    "serve": "it runs until it is stopped; its admin port answers JSON",
    "logs": "it prints a training's own output, byte for byte",
}


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    inner = getattr(command, "commands", None)
    if inner is not None:
        for name, one in inner.items():
            yield from commands(one, (*path, name))
    else:
        yield " ".join(path), command


ALL = dict(commands(typer.main.get_command(app)))


@pytest.mark.parametrize("name", sorted(ALL))
def test_a_command_takes_o_json_or_says_why_not(name: str) -> None:
    options = {option for parameter in ALL[name].params for option in parameter.opts}
    if name in WITHOUT:
        assert "--output" not in options or name == "logs", f"{name} speaks JSON: take it out of the list"
    else:
        assert {"-o", "--output"} <= options, f"{name} takes no -o json: give it one, or say here why it has none"


def test_the_list_of_exceptions_names_only_commands_that_there_are() -> None:
    assert set(WITHOUT) <= set(ALL)
