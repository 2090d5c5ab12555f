"""Makes a model's node ready for its shape: defaults merged under it, key values and filters taken as written."""

from __future__ import annotations

import math

from retinue.loader.problems import SHAPE, Problems
from retinue.loader.read import Entry, Node

MERGED = ("params", "gates", "limits", "holdout", "monitor", "resources", "serve")
"""Keys whose mappings are merged key by key; all others are replaced whole."""


def prepare_model(node: Node, defaults: Node | None) -> Node:
    """The model over the defaults; `null` takes a default away. Key values and filters become text."""
    if node.entries is None:
        return node
    if defaults is not None and defaults.entries is not None:
        node = _over(defaults, node)
    node = _without_nulls(node)
    entries = {key: Entry(key, entry.at, _texts_of(key, entry.node)) for key, entry in (node.entries or {}).items()}
    return Node(node.at, entries=entries)


def _texts_of(key: str, node: Node) -> Node:
    if key == "for_each":
        return _for_each(node)
    if key == "data":
        return _where(node)
    if key == "override" and node.entries is not None:
        return Node(node.at, entries={k: Entry(k, e.at, prepare_override(e.node)) for k, e in node.entries.items()})
    return node


def prepare_override(node: Node) -> Node:
    """An override's values with filters as text."""
    if node.entries is None:
        return node
    entries = {k: Entry(k, e.at, _where(e.node) if k == "data" else e.node) for k, e in node.entries.items()}
    return Node(node.at, entries=entries)


def _over(under: Node, over: Node) -> Node:
    entries = {key: entry for key, entry in (under.entries or {}).items()}
    for key, entry in (over.entries or {}).items():
        below = entries.get(key)
        if key in MERGED and below is not None and below.node.entries is not None and entry.node.entries is not None:
            merged = {**below.node.entries, **entry.node.entries}
            entries[key] = Entry(key, entry.at, Node(entry.node.at, entries=merged))
        else:
            entries[key] = entry
    return Node(over.at, entries=entries)


def _without_nulls(node: Node) -> Node:
    kept: dict[str, Entry] = {}
    for key, entry in (node.entries or {}).items():
        inner = entry.node
        if _is_null(inner):
            continue
        if key in MERGED and key != "params" and inner.entries is not None:
            some = {k: e for k, e in inner.entries.items() if not _is_null(e.node)}
            inner = Node(inner.at, entries=some)
        kept[key] = Entry(key, entry.at, inner)
    return Node(node.at, entries=kept)


def _is_null(node: Node) -> bool:
    return node.entries is None and node.items is None and node.value is None


def _for_each(node: Node) -> Node:
    if node.entries is None or not (
        {"distinct", "of"} & set(node.entries)
        or any(isinstance(e.node.value, str) for k, e in node.entries.items() if k in ("csv", "python"))
    ):
        return _as_text(node)
    entries = {
        key: Entry(key, entry.at, _as_text(entry.node) if key in ("exclude", "only") else entry.node)
        for key, entry in node.entries.items()
    }
    return Node(node.at, entries=entries)


def _where(node: Node) -> Node:
    """A `data:` value in which every filter's value is the text as written."""
    if node.items is not None:
        return Node(node.at, items=tuple(_where(item) for item in node.items))
    if node.entries is None:
        return node
    entries: dict[str, Entry] = {}
    for table, entry in node.entries.items():
        use = entry.node
        filters = use.get("where")
        if use.entries is not None and filters is not None:
            changed = {**use.entries, "where": Entry("where", use.entries["where"].at, _as_text(filters))}
            use = Node(use.at, entries=changed)
        entries[table] = Entry(table, entry.at, use)
    return Node(node.at, entries=entries)


def _as_text(node: Node) -> Node:
    if node.entries is not None:
        return Node(node.at, entries={k: Entry(k, e.at, _as_text(e.node)) for k, e in node.entries.items()})
    if node.items is not None:
        return Node(node.at, items=tuple(_as_text(item) for item in node.items))
    return node if node.value is None else Node(node.at, node.text, node.text)


def nulls_in_overrides(node: Node) -> list[Entry]:
    """The keys of a model's overrides (and of mappings in them, save free parameters) that have no value."""
    override = node.get("override")
    found: list[Entry] = []
    for member in (override.entries or {}).values() if override is not None else ():
        for key, entry in (member.node.entries or {}).items():
            inner = [] if key == "params" else list((entry.node.entries or {}).values())
            found += [one for one in (entry, *inner) if _is_null(one.node)]
    return found


def finite(node: Node, problems: Problems) -> None:
    """Notes every number that is infinite or not a number: nothing in this file may be."""
    seen: set[int] = set()
    todo = [node]
    while todo:
        current = todo.pop()
        if id(current) in seen:  # an alias: once is enough
            continue
        seen.add(id(current))
        if isinstance(current.value, float) and not math.isfinite(current.value):
            problems.add(f"{current.text} is not a finite number", current.at, "Write a number.", SHAPE)
        todo.extend(current.items or ())
        todo.extend(entry.node for entry in (current.entries or {}).values())
