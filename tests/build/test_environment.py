"""Environments: resolved once, installed once, never half."""

from __future__ import annotations

import os
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from retinue.build import environment as env
from retinue.core.errors import EnvironmentFailure, Location
from retinue.core.portfolio import EnvironmentSpec

SPEC = EnvironmentSpec("base", Location("portfolio.yaml", 5), "envs/base.txt")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "envs").mkdir()
    (tmp_path / "envs/base.txt").write_text("packaging==25.0\n")
    return tmp_path


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Environments without the implied lines: small enough to install in every test."""
    monkeypatch.setattr(env, "IMPLIED", ())


def test_the_digest_knows_packages_and_hashes_but_not_comments_or_order() -> None:
    one = env.read_lock("# python: 3.11\na==1 \\\n    --hash=sha256:1 \\\n    --hash=sha256:2\nb==2 --hash=sha256:3\n")
    two = env.read_lock(
        "# x\n# python: 3.11\nb==2 \\\n    --hash=sha256:3\n# why\na==1 --hash=sha256:2 --hash=sha256:1\n"
    )
    assert one.digest == two.digest
    assert one.digest != env.read_lock(one.text.replace("a==1", "a==1.1")).digest
    assert one.digest != env.read_lock(one.text.replace("3.11", "3.12")).digest


def test_a_file_that_is_no_lock_is_refused() -> None:
    with pytest.raises(EnvironmentFailure, match="not a lock"):
        env.read_lock("numpy==2\n")


def test_what_is_set_for_pip_is_handed_to_uv_unless_uv_is_set(tmp_path: Path) -> None:
    config = tmp_path / "pip.conf"
    config.write_text("[global]\nindex-url = https://a/simple\nfind-links =\n    /w1\n    /w2\n")
    base = {"HOME": str(tmp_path), "PIP_CONFIG_FILE": str(config), "VIRTUAL_ENV": "/x"}
    found = env._uv_environment({**base, "PIP_INDEX_URL": "https://b/simple"})
    assert found["UV_DEFAULT_INDEX"] == "https://b/simple"
    assert found["UV_FIND_LINKS"] == "/w1,/w2"
    assert "VIRTUAL_ENV" not in found
    assert "UV_DEFAULT_INDEX" not in env._uv_environment({**base, "UV_INDEX_URL": "https://c/simple"})


@pytest.mark.e2e
def test_an_unchanged_requirements_file_is_never_locked_again_and_an_edited_one_keeps_its_pins(
    root: Path, bare: None
) -> None:
    first = env.lock(SPEC, root)
    assert first.path == root / "envs/base.lock"
    assert "packaging==25.0" in first.text
    assert "--hash=sha256:" in first.text
    assert str(root) not in first.text
    before = first.path.stat().st_mtime_ns
    (root / "envs/base.txt").write_text("# a comment\n\npackaging==25.0   # another\n")
    assert env.lock(SPEC, root) == first
    assert first.path.stat().st_mtime_ns == before
    (root / "envs/base.txt").write_text("packaging\nwcwidth==0.2.13\n")
    second = env.lock(SPEC, root)
    assert "packaging==25.0" in second.text, "the existing pin is preferred"
    assert second.digest != first.digest
    assert "packaging==25.0" not in env.lock(SPEC, root, refresh=True).text


@pytest.mark.e2e
def test_an_edit_that_is_taken_back_gets_its_old_lock_back(root: Path, bare: None, tmp_path: Path) -> None:
    wished = (root / "envs/base.txt").read_text()
    first = env.lock(SPEC, root, memory=tmp_path / "locks")
    (root / "envs/base.txt").write_text("packaging==24.2\n")
    assert "packaging==24.2" in env.lock(SPEC, root, memory=tmp_path / "locks").text
    (root / "envs/base.txt").write_text(wished)
    assert env.lock(SPEC, root, memory=tmp_path / "locks") == first


@pytest.mark.e2e
def test_implied_packages_are_visible_lines_of_the_lock(root: Path) -> None:
    text = env.lock(SPEC, root).text
    assert all(f"\n{name}==" in text for name in ("numpy", "pyarrow", "skops"))


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("requirements", "reason"),
    [
        ("packaging==0.0.1.dev99\n", r"packaging==0\.0\.1\.dev99"),
        ("packaging==25.0\npackaging==24.0\n", "packaging==24.0"),
        ("two words\n", "two words"),
    ],
)
def test_what_does_not_resolve_says_why_and_names_the_file(root: Path, requirements: str, reason: str) -> None:
    (root / "envs/base.txt").write_text(requirements)
    with pytest.raises(EnvironmentFailure, match=reason) as failure:
        env.lock(SPEC, root)
    assert "envs/base.txt" in failure.value.message
    assert failure.value.where == "portfolio.yaml:5"
    assert not (root / "envs/base.lock").exists()


def test_a_missing_requirements_file_and_a_missing_interpreter_say_so(root: Path) -> None:
    (root / "envs/base.txt").unlink()
    with pytest.raises(EnvironmentFailure, match="cannot be read"):
        env.lock(SPEC, root)
    (root / "envs/base.txt").write_text("packaging\n")
    with pytest.raises(EnvironmentFailure, match=r"no Python 3\.99 on this machine"):
        env.lock(EnvironmentSpec("old", SPEC.where, "envs/base.txt", python="3.99"), root)


@pytest.mark.e2e
def test_an_environment_is_made_once_by_concurrent_makers_and_holds_only_its_lock(root: Path, bare: None) -> None:
    locked = env.lock(SPEC, root)
    folder = root / "environments"
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: env.materialise(locked, folder), range(4)))
    assert len(set(made)) == 1
    program = (
        "import packaging, importlib.util as u; print(packaging.__file__, u.find_spec('retinue'), u.find_spec('numpy'))"
    )
    printed = subprocess.run(
        [made[0].python, "-I", "-c", program], capture_output=True, text=True, check=True
    ).stdout.split()
    assert printed[0].startswith(str(folder / locked.digest))
    assert printed[1:] == ["None", "None"]
    assert list(made[0].folder.rglob("packaging/__pycache__/*.pyc")), "bytecode is compiled at installation"
    assert [stored.digest for stored in env.list_environments(folder)] == [locked.digest]


@pytest.mark.e2e
def test_a_killed_installation_is_not_mistaken_for_a_ready_one(root: Path, bare: None) -> None:
    locked = env.lock(SPEC, root)
    folder = root / "environments"
    for leftover in (folder / locked.digest / "bin", folder / f".making-{locked.digest}" / "bin"):
        leftover.mkdir(parents=True)
        (leftover / "python").write_text("half")
    made = env.materialise(locked, folder)
    subprocess.run([made.python, "-I", "-c", "import packaging"], check=True)


@pytest.mark.e2e
def test_an_environment_whose_interpreter_is_gone_is_made_anew(root: Path, bare: None) -> None:
    locked = env.lock(SPEC, root)
    made = env.materialise(locked, root / "environments")
    made.python.unlink()
    made.python.symlink_to(root / "gone")
    assert env.materialise(locked, root / "environments") == made
    subprocess.run([made.python, "-I", "-c", "import packaging"], check=True)


@pytest.mark.e2e
def test_an_installation_that_fails_leaves_nothing_behind(root: Path, bare: None) -> None:
    locked = env.lock(SPEC, root)
    wrong = env.read_lock(locked.text.replace("--hash=sha256:", "--hash=sha256:0000")[:-1])
    with pytest.raises(EnvironmentFailure):
        env.materialise(wrong, root / "environments")
    assert env.list_environments(root / "environments") == []
    assert not (root / "environments" / wrong.digest).exists()


@pytest.mark.e2e
def test_orphans_are_pruned_after_their_grace(root: Path, bare: None) -> None:
    locked = env.lock(SPEC, root)
    folder = root / "environments"
    made = env.materialise(locked, folder)
    assert env.prune(folder, keep=(), grace=3600) == []
    old = time.time() - 7200
    os.utime(made.folder / ".ready", (old, old))
    assert env.prune(folder, keep=(locked.digest,), grace=3600) == []
    assert env.prune(folder, keep=(), grace=3600) == [locked.digest]
    assert not made.folder.exists()


def test_an_environment_without_scikit_learn_has_no_converters(tmp_path: Path) -> None:
    overlay, reason = env.converters(env.read_lock("# python: 3.11\nnumpy==2.4.6\n"), tmp_path)
    assert overlay is None
    assert "scikit-learn" in (reason or "")


@pytest.mark.e2e
def test_converters_that_cannot_be_had_beside_the_locked_packages_are_a_reason_and_no_error(root: Path) -> None:
    (root / "envs/base.txt").write_text("scikit-learn==1.9.1\nprotobuf>=7\n")
    overlay, reason = env.converters(env.lock(SPEC, root), root / "environments")
    assert overlay is None
    assert "protobuf" in (reason or "")
    assert not list((root / "environments").glob("*.converters"))
