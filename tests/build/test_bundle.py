"""Bundles: what belongs to a model's code, what identifies it, and that it can be unpacked anywhere."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from retinue.build.bundle import close_code, collect_files, make_bundle, unpack
from retinue.core.errors import CorruptArtifactError, PortfolioError

LATE = '''"""Trains."""
import json
import numpy as np
from . import helpers
from pack.deep.more import number

# a comment
def train(job):
    """Doc."""
    return helpers.help(number)
'''


@pytest.fixture
def root(tmp_path: Path) -> Path:
    files = {
        "pack/__init__.py": "",
        "pack/late.py": LATE,
        "pack/helpers.py": "def help(x):\n    return x + 1\n",
        "pack/deep/__init__.py": "DEEP = 1\n",
        "pack/deep/more.py": "import importlib\nimportlib.import_module('lone')\nnumber = 3\n",
        "pack/unused.py": "syntax error here",
        "lone.py": "import pack.late  # a circle\n",
        "maps/a.csv": "1",
        "maps/sub/b.csv": "2",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_the_closure_holds_what_is_imported_below_the_root_and_nothing_else(root: Path) -> None:
    assert list(close_code("pack.late:train", root).files) == [
        "lone.py",
        "pack/__init__.py",
        "pack/deep/__init__.py",
        "pack/deep/more.py",
        "pack/helpers.py",
        "pack/late.py",
    ]


def test_comments_docstrings_and_formatting_do_not_count_but_code_of_a_helper_does(root: Path) -> None:
    before = close_code("pack.late:train", root)
    edited = LATE.replace('"""Trains."""', "").replace("# a comment", "\n\n# other").replace('    """Doc."""\n', "")
    (root / "pack/late.py").write_text(edited.replace("(number)", "(\n        number\n    )"))
    assert close_code("pack.late:train", root).digest == before.digest
    (root / "pack/helpers.py").write_text("def help(x):\n    return x + 2\n")
    assert close_code("pack.late:train", root).digest != before.digest


@pytest.mark.parametrize(("old", "new"), [("1", "1.0"), ("1", "True"), ("1", "'1'"), ("None", "...")])
def test_constants_of_another_type_are_another_code(root: Path, old: str, new: str) -> None:
    digests = []
    for value in (old, new):
        (root / "pack/helpers.py").write_text(f"def help(x):\n    return {value}\n")
        digests.append(close_code("pack.late:train", root).digest)
    assert digests[0] != digests[1]


def test_the_digest_does_not_depend_on_the_process(root: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from retinue.build.bundle import close_code;"
        "print(close_code('pack.late:train', Path(sys.argv[1])).digest)"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", program, str(root)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert found == {close_code("pack.late:train", root).digest}


def test_a_missing_module_a_missing_function_and_a_syntax_error_say_where(root: Path) -> None:
    with pytest.raises(PortfolioError, match=r"no module 'pack\.lost'") as missing:
        close_code("pack.lost:train", root)
    assert missing.value.where == "pack/lost.py"
    with pytest.raises(PortfolioError, match="no function 'trian'") as wrong:
        close_code("pack.late:trian", root)
    assert wrong.value.where == "pack/late.py"
    assert "'train' in line 8" in wrong.value.hint
    with pytest.raises(PortfolioError, match="not valid Python") as syntax:
        close_code("pack.unused:train", root)
    assert (syntax.value.where or "").startswith("pack/unused.py:1:")
    (root / "pack/late.py").write_text("x = 1\nimport pack.gone\ndef train(job): ...\n")
    with pytest.raises(PortfolioError, match=r"imports 'pack\.gone'") as gone:
        close_code("pack.late:train", root)
    assert gone.value.where == "pack/late.py:2"
    with pytest.raises(PortfolioError, match="names no function"):
        close_code("pack.late", root)


def test_a_guarded_import_may_be_missing(root: Path) -> None:
    (root / "pack/late.py").write_text(
        "try:\n    import pack.gone\nexcept ImportError:\n    pass\ndef train(job): ...\n"
    )
    assert "pack/late.py" in close_code("pack.late:train", root).files


def test_globs_take_files_and_folders_and_must_match(root: Path) -> None:
    assert collect_files(["maps"], root) == {"maps/a.csv": b"1", "maps/sub/b.csv": b"2"}
    assert collect_files(["maps/*.csv"], root) == {"maps/a.csv": b"1"}
    with pytest.raises(PortfolioError, match="matches no file"):
        collect_files(["maps/*.tsv"], root)
    for pattern in ("../secret", ".", "./"):
        with pytest.raises(PortfolioError, match="leaves the project"):
            collect_files([pattern], root)


def test_globs_pass_over_what_changes_by_itself(root: Path) -> None:
    before = collect_files(["**"], root)
    for name in (".retinue/state.db", ".git/index", "maps/__pycache__/a.pyc"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("changes")
    assert collect_files(["**"], root) == before != {}


def test_a_bundle_is_the_same_bytes_for_the_same_parts_and_unpacks_to_them(root: Path, tmp_path: Path) -> None:
    code = close_code("pack.late:train", root)
    files = collect_files(["maps"], root)
    data = make_bundle({"b": 1, "a": 2}, code, files, "numpy==2\n")
    assert data == make_bundle({"a": 2, "b": 1}, code, dict(reversed(files.items())), "numpy==2\n")
    unpacked = unpack(data, tmp_path / "out")
    assert unpacked.declaration == {"a": 2, "b": 1}
    assert unpacked.lock == "numpy==2\n"
    assert (unpacked.project / "maps/sub/b.csv").read_text() == "2"
    assert (unpacked.project / "pack/late.py").read_text() == LATE


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "project/../../evil"])
def test_a_bundle_that_would_write_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        member = tarfile.TarInfo(name)
        archive.addfile(member, io.BytesIO(b""))
    with pytest.raises(CorruptArtifactError):
        unpack(buffer.getvalue(), tmp_path / "out")
    assert not (tmp_path / "evil").exists()


def test_bytes_that_are_no_bundle_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CorruptArtifactError):
        unpack(b"not a tar", tmp_path / "out")
