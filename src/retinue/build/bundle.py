"""Bundle: code, declaration and lock of a definition, stored so that it can be trained anywhere later.

The code digest is taken over syntax trees without docstrings, comments and formatting, so an edit of those
changes nothing. Trees are written down by this module, empty optional parts left out, rather than by `ast.dump`,
whose text differs between minor versions of Python.
"""

from __future__ import annotations

import ast
import difflib
import io
import json
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from retinue.core.errors import CorruptArtifactError, Location, PortfolioError
from retinue.core.identity import canonical, digest

_DECLARATION = "declaration.json"
_LOCK = "environment.lock"
_PROJECT = "project"
_TAKES = {"prepare": "table"}  # key → what its function takes
_PASSED_OVER = {"__pycache__", ".git", ".retinue", ".venv"}  # folders that no pattern means; some change by themselves


@dataclass(frozen=True, slots=True)
class Code:
    """A training function's import closure inside the project: files by path relative to its root.

    `trees` has the digest of each file's syntax tree, so that a plan can say which file changed.
    """

    files: Mapping[str, bytes]
    digest: str
    trees: Mapping[str, str]


NO_CODE = Code({}, digest({}), {})
"""Of a model that comes from outside."""


@dataclass(frozen=True, slots=True)
class Unpacked:
    """An unpacked bundle. Training runs with `project` as working directory and only import path."""

    project: Path
    declaration: Mapping[str, Any]
    lock: str


def close_code(entry: str, root: Path, key: str = "train") -> Code:
    """The files that `entry` ("package.module:function") imports, directly or not, below `root`.

    Followed are `import`, `from … import` and `import_module("literal")`; what is not below `root` belongs to
    the environment. `key` names it in the portfolio. Raises PortfolioError with file:line for a missing module or
    function and for syntax errors.
    """
    module, _, function = entry.partition(":")
    if not all(part.isidentifier() for part in [*module.split("."), function]):
        raise PortfolioError(
            f"`{key}: {entry}` names no function",
            hint="Write it as `package.module:function`, for example `code.late:train`.",
        )
    first = _find(module, root)
    if first is None:
        raise PortfolioError(
            f"there is no module {module!r} below {root.name or root}",
            where=Location(module.replace(".", "/") + ".py"),
            hint=f"Create the file, or correct `{key}: {entry}`.",
        )
    trees: dict[str, ast.Module] = {}
    files: dict[str, bytes] = {}
    waiting = [*_packages(module, root), first]
    while waiting:
        path = waiting.pop()
        name = path.relative_to(root).as_posix()
        if name in files:
            continue
        files[name] = path.read_bytes()
        trees[name] = _parse(files[name], name)
        waiting.extend(_imports(trees[name], name, root))
    name = first.relative_to(root).as_posix()
    _check_function(trees[name], name, function, _TAKES.get(key, "job"))
    digests = {name: digest(_plain(tree)) for name, tree in sorted(trees.items())}
    return Code(dict(sorted(files.items())), digest(digests), digests)


def together(one: Code, other: Code) -> Code:
    """Two closures as one."""
    trees = dict(sorted({**one.trees, **other.trees}.items()))
    return Code(dict(sorted({**one.files, **other.files}.items())), digest(trees), trees)


def collect_files(patterns: Iterable[str], root: Path) -> dict[str, bytes]:
    """The files that the globs of `files:` name, by path relative to `root`; folders stand for all they hold.

    Raises PortfolioError for a pattern that leaves the project or matches nothing.
    """
    found: dict[str, bytes] = {}
    for pattern in patterns:
        parts = PurePosixPath(pattern).parts
        if not parts or PurePosixPath(pattern).is_absolute() or ".." in parts:
            raise PortfolioError(
                f"`files: {pattern}` leaves the project, or is all of it",
                hint="Name files or folders relative to the portfolio.",
            )
        matches = [
            p for match in sorted(root.glob(pattern)) for p in ([match] if match.is_file() else match.rglob("*"))
        ]
        matched = [path for path in matches if path.is_file() and not _PASSED_OVER & {*path.relative_to(root).parts}]
        if not matched:
            raise PortfolioError(
                f"`files: {pattern}` matches no file",
                hint="Correct the pattern; it is relative to the portfolio's folder.",
            )
        found.update((path.relative_to(root).as_posix(), path.read_bytes()) for path in matched)
    return dict(sorted(found.items()))


def make_bundle(declaration: Mapping[str, Any], code: Code, files: Mapping[str, bytes], lock_text: str) -> bytes:
    """A tar archive of everything a training needs; the same parts always give the same bytes."""
    parts = {_DECLARATION: canonical(declaration), _LOCK: lock_text.encode()}
    parts.update((f"{_PROJECT}/{name}", data) for name, data in {**files, **code.files}.items())
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in sorted(parts.items()):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            member.mode = 0o644
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def unpack(data: bytes, folder: Path) -> Unpacked:
    """Unpack a bundle into `folder`. Raises CorruptArtifactError for bytes that `make_bundle` did not make."""
    project = folder / _PROJECT
    project.mkdir(parents=True, exist_ok=True)
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
            for member in archive:
                path = PurePosixPath(member.name)
                if not member.isfile() or path.is_absolute() or ".." in path.parts:
                    raise CorruptArtifactError(f"the bundle holds {member.name!r}, which no bundle does")
                target = folder / path
                target.parent.mkdir(parents=True, exist_ok=True)
                content = archive.extractfile(member)
                assert content is not None
                target.write_bytes(content.read())
        declaration = json.loads((folder / _DECLARATION).read_bytes())
        return Unpacked(project, declaration, (folder / _LOCK).read_text(encoding="utf-8"))
    except (tarfile.TarError, OSError, ValueError) as error:
        raise CorruptArtifactError(f"the bundle cannot be unpacked: {error}") from error


def _find(module: str, root: Path) -> Path | None:
    """The file of a dotted module below `root`: a package's `__init__.py` goes before a module, as in Python."""
    base = root.joinpath(*module.split("."))
    for candidate in (base / "__init__.py", base.with_name(base.name + ".py")):
        if candidate.is_file():
            return candidate
    return None


def _packages(module: str, root: Path) -> Iterator[Path]:
    """The `__init__.py` files of the packages above a module, where there are some."""
    parts = module.split(".")
    for depth in range(1, len(parts)):
        initial = root.joinpath(*parts[:depth]) / "__init__.py"
        if initial.is_file():
            yield initial


def _parse(source: bytes, name: str) -> ast.Module:
    try:
        return ast.parse(source, filename=name)
    except (SyntaxError, ValueError) as error:
        where = Location(name, getattr(error, "lineno", None) or 0, getattr(error, "offset", None) or 0)
        text = getattr(error, "msg", None) or str(error)
        raise PortfolioError(f"not valid Python: {text}", where=where, hint="Correct the training code.") from error


def _imports(tree: ast.Module, name: str, root: Path) -> Iterator[Path]:
    """Project files that one module imports."""
    guarded = {id(node) for block in ast.walk(tree) if isinstance(block, ast.Try) for node in ast.walk(block)}
    for node in ast.walk(tree):
        for module, optional in _imported_modules(node, name):
            found = _find(module, root)
            if found is not None:
                yield from _packages(module, root)
                yield found
            elif not optional and id(node) not in guarded and _belongs(module, root):
                raise PortfolioError(
                    f"imports {module!r}, which is not in the project",
                    where=Location(name, getattr(node, "lineno", 0)),
                    hint="Create the module or correct the import.",
                )


def _belongs(module: str, root: Path) -> bool:
    """Whether a missing module can only have been meant to be in the project: its parent is a package there."""
    parent = module.rpartition(".")[0]
    return bool(parent) and (root.joinpath(*parent.split(".")) / "__init__.py").is_file()


def _imported_modules(node: ast.AST, name: str) -> Iterator[tuple[str, bool]]:
    """(dotted module, whether it may be an attribute rather than a module) for each import a node makes."""
    if isinstance(node, ast.Import):
        yield from ((alias.name, False) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            folders = PurePosixPath(name).parts[: -node.level]
            base = ".".join([*folders, *([base] if base else [])])
        if base:
            # a folder without __init__.py is a package too, and has no file of its own
            yield base, node.module is None
        yield from ((f"{base}.{alias.name}" if base else alias.name, True) for alias in node.names if alias.name != "*")
    elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        value = node.args[0].value
        if called in ("import_module", "__import__") and isinstance(value, str) and not value.startswith("."):
            yield value, True


def _check_function(tree: ast.Module, name: str, function: str, takes: str) -> None:
    defined: dict[str, int] = {}
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            defined[node.name] = node.lineno
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            defined.update((alias.asname or alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            defined[node.id] = node.lineno
    if function in defined:
        return
    near = difflib.get_close_matches(function, defined, n=1)
    hint = (
        f"Did you mean {near[0]!r} in line {defined[near[0]]}?"
        if near
        else f"Define `def {function}({takes}): …` there."
    )
    raise PortfolioError(f"there is no function {function!r} in this module", where=Location(name), hint=hint)


def _plain(node: Any) -> Any:
    """A syntax tree as JSON: no positions, no docstrings, empty parts left out."""
    if isinstance(node, ast.AST):
        parts: dict[str, Any] = {"": type(node).__name__}
        for key, value in ast.iter_fields(node):
            documented = isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
            if key == "body" and documented:
                parts[key] = _plain(_without_docstring(value) or [ast.Pass()])
            elif value is None and isinstance(node, ast.Constant) and key == "value":
                parts[key] = "None"
            elif value not in (None, []) and key not in ("kind", "type_comment", "type_ignores"):
                parts[key] = _plain(value)
        return parts
    if isinstance(node, list):
        return [_plain(item) for item in node]
    return f"{type(node).__name__} {node!r}"


def _without_docstring(body: list[ast.stmt]) -> list[ast.stmt]:
    first = body[0] if body else None
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        return body[1:]
    return body
