"""The pages say what is: links lead somewhere, commands and options exist, files load, the first guides run."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer
from tools import errors_page, settings_page

from retinue.cli.main import app
from retinue.cli.render_plan import render_plan
from retinue.core.errors import RetinueError
from retinue.loader import load, scaffold
from retinue.project import Project
from retinue.settings import load_settings

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("examples/*/*.md")])
GUIDES = ("first-portfolio.md", "change-and-rollback.md")
SCRIPTS = ("console", "sh")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(page, text[: m.start()].count("\n") + 1, m[1], m[2])
        for m in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    ]


BLOCKS = [block for page in PAGES for block in blocks(page)]


def of(*languages: str) -> list[Block]:
    return [block for block in BLOCKS if block.language in languages]


def page_id(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


# ── commands ────────────────────────────────────────────────────────────────────────────────────────────────

Command = Any  # typer brings a click of its own, whose types are private
TOP: Command = typer.main.get_command(app)


def commands_in(text: str) -> Iterator[list[str]]:
    """Words of each `retinue …` in inline code, and of each line of a script block that runs retinue."""
    for found in re.findall(r"`retinue ([^`\n]+)`", text):
        yield shlex.split(found.replace("…", ""), comments=True)
    for line in text.splitlines():
        if match := re.match(r"(?:\$ )?retinue (.+?)(?: &)?$", line):
            yield shlex.split(match[1], comments=True)


def options_of(command: Command) -> set[str]:
    return {o for p in command.params for o in (*p.opts, *p.secondary_opts)} | {"--help", "-h"}


def wrong(words: list[str]) -> str | None:
    """What is not so about a command line, or None."""
    command: Command = TOP
    allowed = options_of(TOP)
    skip = False
    for word in words:
        if skip or not word:
            skip = False
        elif word.startswith("-") and not re.fullmatch(r"-\d+", word):
            name = word.partition("=")[0].split("/")[0]
            if name not in allowed:
                return f"no option {word} in {command.name}"
            skip = name in ("-f", "--file") and command is TOP
        elif hasattr(command, "commands"):
            if word not in command.commands:
                return f"no command {word}"
            command = command.commands[word]
            allowed = options_of(command)
    return None


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_command_of_a_page_exists_with_its_options(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert [(words, found) for words in commands_in(text) if (found := wrong(words))] == []


def test_every_command_that_an_error_recommends_exists() -> None:
    lost = []
    for file in sorted((ROOT / "src" / "retinue").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                for found in re.findall(r"`retinue ([a-z][^`\n{]*)`", node.value):
                    if problem := wrong(found.replace("…", "").split()):
                        lost.append(f"{file.relative_to(ROOT)}:{node.lineno}: `retinue {found}`: {problem}")
    assert lost == []


def test_every_make_target_of_a_page_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        named = set(re.findall(r"(?:`|^\$ )make ([a-z]+)", text, re.MULTILINE))
        assert named <= targets, page_id(page)


# ── links, files, code ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_link_between_pages_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    local = [link.partition("#")[0] for link in links if not re.match(r"[a-z]+:", link)]
    assert [link for link in local if link and not (page.parent / link).exists()] == []


def test_the_decisions_are_numbered_and_all_are_listed() -> None:
    folder = ROOT / "docs" / "decisions"
    names = sorted(f.name for f in folder.glob("[0-9]*.md"))
    assert [name[:3] for name in names] == [f"{n:03d}" for n in range(1, len(names) + 1)]
    index = (folder / "README.md").read_text(encoding="utf-8")
    for name in names:
        text = (folder / name).read_text(encoding="utf-8")
        title = text.splitlines()[0].removeprefix(f"# {name[:3]}: ")
        assert f"| {name[:3]} | [{title}]({name}) |" in index
        assert all(part in text for part in ("**Context.**", "**Choice.**", "**Given up.**")), name
        assert len(text.split()) < 450, f"{name} is longer than a page"


@pytest.mark.parametrize("block", of("yaml"), ids=str)
def test_a_portfolio_in_a_page_loads(block: Block, tmp_path: Path) -> None:
    (tmp_path / "portfolio.yaml").write_text(block.text, encoding="utf-8")
    assert load(tmp_path / "portfolio.yaml").name


@pytest.mark.parametrize("block", of("toml"), ids=str)
def test_settings_in_a_page_load(block: Block, tmp_path: Path) -> None:
    (tmp_path / "retinue.toml").write_text(block.text, encoding="utf-8")
    load_settings(tmp_path, {})


@pytest.mark.parametrize("block", of("json"), ids=str)
def test_json_in_a_page_is_json(block: Block) -> None:
    json.loads(block.text)


@pytest.mark.parametrize("block", of("python"), ids=str)
def test_python_in_a_page_compiles_and_its_imports_exist(block: Block) -> None:
    tree = ast.parse(block.text)
    imports: list[ast.stmt] = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    exec(compile(ast.Module(imports, []), str(block), "exec"), {})


@pytest.mark.parametrize("name", ["portfolio.yaml", "train.py"])
def test_the_readme_shows_what_init_writes(name: str, tmp_path: Path) -> None:
    scaffold(tmp_path)
    readme = blocks(ROOT / "README.md")
    assert (tmp_path / name).read_text(encoding="utf-8") in [b.text for b in readme]


@pytest.mark.e2e
def test_the_readme_shows_the_plan_that_the_flights_example_makes(tmp_path: Path) -> None:
    example = tmp_path / "flights"
    shutil.copytree(ROOT / "examples" / "flights", example, ignore=shutil.ignore_patterns("data", "run", ".retinue"))
    subprocess.run([sys.executable, "prepare.py", "data"], cwd=example, check=True)
    project = Project(example)
    try:
        shown = render_plan(project.plan())
    finally:
        project.close()
    assert shown in [block.text for block in blocks(ROOT / "README.md")]


# ── errors ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_page_of_errors_is_what_the_classes_say() -> None:
    assert errors_page.PAGE.read_text(encoding="utf-8") == errors_page.page()


def test_the_page_of_settings_is_what_the_settings_say() -> None:
    assert settings_page.PAGE.read_text(encoding="utf-8") == settings_page.page()


@pytest.mark.parametrize("kind", [kind for _, kind in errors_page.errors()], ids=lambda kind: kind.__name__)
def test_every_error_has_a_remedy_and_somebody_at_fault(kind: type[RetinueError]) -> None:
    assert kind.remedy.endswith("."), "a whole sentence"
    assert kind.fault
    assert kind("x").hint == kind.remedy
    if kind.__bases__[0] is RetinueError:
        assert "fault" in vars(kind), "each branch says whose fault it is"


# ── guides ──────────────────────────────────────────────────────────────────────────────────────────────────


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def same(text: str) -> str:
    """A line without what differs from run to run: digests, numbers, spacing."""
    text = re.sub(r"\b[0-9a-f]{12}\b", "DIGEST", text)
    return " ".join(re.sub(r"\d+(\.\d+)?", "N", text).split())


def steps(block: Block) -> Iterator[tuple[str, list[str]]]:
    """(command, lines that the page shows of its output) for each `$` line."""
    for part in block.text.split("$ ")[1:] if block.text.startswith("$ ") else []:
        command, *shown = part.rstrip("\n").split("\n")
        yield command, [line for line in shown if line.strip() and line.strip() != "…"]


@dataclass(slots=True)
class Shell:
    """Runs a guide's commands in one folder, servers in the background."""

    folder: Path
    port: int
    environment: dict[str, str]
    server: subprocess.Popen[bytes] | None = None

    def run(self, command: str) -> str:
        command = command.replace("localhost:8080", f"127.0.0.1:{self.port}")
        if command.endswith(" &"):
            self.server = subprocess.Popen(shlex.split(command[:-2]), cwd=self.folder, env=self.environment)
            self._until_ready()
            return ""
        done = subprocess.run(
            ["bash", "-c", command], cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def ask(self, command: str, shown: list[str]) -> str:
        """Run, again for a moment if the server has not yet followed; the last output."""
        for _ in range(50):
            output = self.run(command)
            lines = {same(line) for line in output.splitlines()}
            exact = [line for line in shown if line.startswith("release ")]
            if {same(line) for line in shown} <= lines and all(line in output for line in exact):
                break
            if "predict" not in command:
                break
            time.sleep(0.2)
        return output

    def _until_ready(self) -> None:
        for _ in range(300):
            assert self.server is not None
            assert self.server.poll() is None, "the server ended"
            try:
                if httpx.get(f"http://127.0.0.1:{self.port}/v2/health/ready").status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        raise AssertionError("the server was not ready within 30 s")


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    port = free_port()
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "RETINUE_PORT": str(port),
        "RETINUE_ADMIN_PORT": str(free_port()),
        "NO_COLOR": "1",
        "COLUMNS": "200",
    }
    made = Shell(tmp_path, port, environment)
    yield made
    if made.server is not None:
        made.server.send_signal(signal.SIGTERM)
        assert made.server.wait(20) == 0


@pytest.mark.e2e
def test_the_first_two_guides_run_as_they_stand(shell: Shell) -> None:
    told = 0
    for guide in GUIDES:
        for block in blocks(ROOT / "docs" / "guides" / guide):
            if block.language == "console":
                for command, shown in steps(block):
                    output = shell.ask(command, shown)
                    lines = {same(line) for line in output.splitlines()}
                    missing = [line for line in shown if same(line) not in lines]
                    assert missing == [], f"{block}: {command}\n{output}"
                    told += 1
    assert told > 15
