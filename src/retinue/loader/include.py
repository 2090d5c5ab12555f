"""One portfolio from several files: `include:` only splits a file, it adds no meaning."""

from __future__ import annotations

from pathlib import Path

from retinue.core.errors import Location, PortfolioError
from retinue.core.suggest import did_you_mean
from retinue.loader.problems import SHAPE, Problems
from retinue.loader.read import Entry, Node, read

SECTIONS = ("data", "environments", "policies", "models", "endpoints")


def read_all(file: Path, problems: Problems, included: set[Path] | None = None) -> Node:
    """The file with its included files merged in, which are noted in `included`.

    Raises PortfolioError if the file itself cannot be read.
    """
    return _merge(file, Path(file.name), (), included if included is not None else set(), problems)


def _merge(file: Path, shown: Path, within: tuple[Path, ...], seen: set[Path], problems: Problems) -> Node:
    root = read(file, shown.as_posix())
    here = file.resolve()
    include = root.get("include")
    for item in (include.items or ()) if include else ():
        if not isinstance(item.value, str):
            continue  # its shape is told with the others
        target = file.parent / item.value
        if target.resolve() in (*within, here):
            problems.add(f"include: {item.value} includes itself", item.at, "Remove this line.")
            continue
        if target.resolve() in seen:
            problems.add(f"include: {item.value} is included already", item.at, "Remove this line.")
            continue
        seen.add(target.resolve())
        try:
            inner = _merge(target, shown.parent / item.value, (*within, here), seen, problems)
        except PortfolioError as error:
            if error.where is None:  # the file is not there
                problems.add(f"include: {error.message}", item.at, "Paths are relative to the file that includes.")
            else:
                problems.extend(error)
            continue
        for key, entry in (inner.entries or {}).items():
            if key == "include":
                continue
            if key not in SECTIONS:
                hint = "Only the main file says it." if key in _MAIN else did_you_mean(key, SECTIONS)
                problems.add(f"{key!r} cannot stand in an included file", entry.at, hint, SHAPE)
            else:
                root = _add(root, entry, 2 if key == "policies" else 1, problems)
    return root


_MAIN = ("portfolio", "format", "cutoff", "defaults")


def _add(owner: Node, entry: Entry, depth: int, problems: Problems) -> Node:
    """`owner` with an included entry; mappings down to `depth` are united, a key that both have is a problem."""
    entries = dict(owner.entries or {})
    mine = entries.get(entry.key)
    if mine is None or (depth > 0 and mine.node.value is None and mine.node.items is None and not mine.node.entries):
        entries[entry.key] = entry
    elif depth > 0 and mine.node.entries is not None and entry.node.entries is not None:
        node = mine.node
        for inner in entry.node.entries.values():
            node = _add(node, inner, depth - 1, problems)
        entries[entry.key] = Entry(entry.key, mine.at, node)
    else:
        problems.add(
            f"{entry.key!r} is declared twice: first at {_place(mine.at)}, again here",
            entry.at,
            "Remove one of the two.",
            SHAPE,
        )
    return Node(owner.at, entries=entries, size=owner.size)


def _place(at: Location) -> str:
    return f"{at.file}:{at.line}"
