"""Reads YAML 1.2 (core schema) into a tree whose every key and value knows its file, line and column."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentEndEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
    StreamStartEvent,
)
from ruamel.yaml.reader import ReaderError

from retinue.core.errors import Location, PortfolioError

MAX_BYTES = 8 * 1024**2
MAX_NODES = 200_000  # after aliases are expanded: a "billion laughs" file stops here
MAX_DEPTH = 64

_NULL = re.compile(r"~|null|Null|NULL|")
_TRUE = re.compile(r"true|True|TRUE")
_FALSE = re.compile(r"false|False|FALSE")
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_NO_TEXT = re.compile("[\0\ud800-\udfff]")  # only an escape can make them; no file, digest or database takes them
_TAGS = {f"tag:yaml.org,2002:{name}": name for name in ("str", "int", "float", "bool", "null", "map", "seq")}


@dataclass(frozen=True, slots=True)
class Entry:
    """One key of a mapping with its value."""

    key: str
    at: Location
    node: Node


@dataclass(frozen=True, slots=True)
class Node:
    """A value in the file: a scalar, a list of nodes, or a mapping of entries in file order."""

    at: Location
    value: Any = None  # scalars only
    text: str | None = None  # the scalar as written, without quotes
    items: tuple[Node, ...] | None = None
    entries: dict[str, Entry] | None = None
    size: int = field(default=1, compare=False)

    def plain(self) -> Any:
        """The value as plain Python: dict, list or scalar."""
        if self.entries is not None:
            return {key: entry.node.plain() for key, entry in self.entries.items()}
        if self.items is not None:
            return [item.plain() for item in self.items]
        return self.value

    def get(self, key: str) -> Node | None:
        """The value under `key` if this is a mapping that has it."""
        entry = (self.entries or {}).get(key)
        return entry.node if entry else None

    def without(self, *keys: str) -> Node:
        """This mapping without some keys."""
        kept = {k: e for k, e in (self.entries or {}).items() if k not in keys}
        return Node(self.at, entries=kept, size=self.size)


def read(file: Path, shown: str) -> Node:
    """The root mapping of a YAML file. `shown` is the file's name in positions. Raises PortfolioError."""
    return parse(_text(file, shown), shown)


def parse(text: str, shown: str) -> Node:
    """The root mapping of YAML text. Raises PortfolioError with the position."""
    try:
        node = _Builder(text, shown).document()
    except RecursionError as error:  # the parser's own depth, before ours is reached
        raise PortfolioError("nested too deeply", where=Location(shown), hint="Flatten the file.") from error
    except MarkedYAMLError as error:
        raise _syntax(error, shown) from error
    except ReaderError as error:
        line, column = _line_column(text, error.position)
        raise PortfolioError(
            f"character U+{ord(text[error.position]):04X} is not allowed in YAML",
            where=Location(shown, line, column),
            hint="Remove the control character.",
        ) from error
    except (YAMLError, ValueError, OverflowError) as error:
        raise PortfolioError(f"not valid YAML: {error}", where=Location(shown)) from error
    if node.entries is None:
        raise PortfolioError(
            f"expected a mapping of keys, found {kind(node)}", where=node.at, hint="Begin with `portfolio: NAME`."
        )
    return node


def kind(node: Node) -> str:
    """What a node is, in words."""
    if node.entries is not None:
        return "a mapping"
    if node.items is not None:
        return "a list"
    if node.value is None:
        return "nothing"
    return {bool: "the truth value", int: "the number", float: "the number"}.get(
        type(node.value), "the text"
    ) + f" {node.text!r}".replace("'", "`")


def _text(file: Path, shown: str) -> str:
    try:
        data = file.read_bytes()
    except FileNotFoundError as error:
        raise PortfolioError(
            f"no such file: {shown}", hint="Run `retinue init`, or name the file with --file."
        ) from error
    except OSError as error:
        raise PortfolioError(f"cannot be read: {error.strerror}", where=Location(shown)) from error
    if len(data) > MAX_BYTES:
        raise PortfolioError(
            f"{len(data):,} bytes is more than the {MAX_BYTES:,} a portfolio file may have",
            where=Location(shown),
            hint="Split it with `include:`, or describe members with `for_each: {distinct: …}`.",
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line, column = _line_column(data[: error.start].decode("utf-8", "replace"), -1)
        raise PortfolioError(
            f"byte 0x{data[error.start]:02X} is not UTF-8",
            where=Location(shown, line, column),
            hint="Save the file as UTF-8.",
        ) from error
    if not text.strip():
        raise PortfolioError("the file is empty", where=Location(shown), hint="Run `retinue init` for a first one.")
    return text


def _line_column(text: str, position: int) -> tuple[int, int]:
    before = text[:position] if position >= 0 else text
    return before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1


def _syntax(error: MarkedYAMLError, shown: str) -> PortfolioError:
    mark = error.problem_mark or error.context_mark
    where = Location(shown, mark.line + 1, mark.column + 1) if mark else Location(shown)
    problem = (str(error.problem) if error.problem else str(error)).splitlines()[0].split('  in "')[0].strip()
    if "'\\t'" in problem:
        return PortfolioError("a tab stands where YAML allows only spaces", where=where, hint="Indent with spaces.")
    if "mapping values are not allowed" in problem:
        hint = "Check the indentation of this line, or quote the text if it contains `: `."
    elif "cannot start any token" in problem:
        hint = "Put the text in double quotes."
    else:
        hint = "Check brackets, quotes and indentation around this place."
    context = f" {error.context}" if error.context else ""
    return PortfolioError(f"not valid YAML{context}: {problem}", where=where, hint=hint)


class _Builder:
    """Builds nodes from parser events; aliases share nodes, and their expanded size is bounded."""

    def __init__(self, text: str, shown: str) -> None:
        self.shown = shown
        self.events: Iterator[Any] = iter(YAML(typ="safe", pure=True).parse(text))
        self.anchors: dict[str, Node] = {}

    def document(self) -> Node:
        """The one document of the stream."""
        root: Node | None = None
        for event in self.events:
            if isinstance(event, (StreamStartEvent, DocumentEndEvent, StreamEndEvent)):
                continue
            if isinstance(event, DocumentStartEvent):
                if root is not None:
                    raise PortfolioError(
                        "a second document begins here", where=self.at(event), hint="Use `include:` to split a file."
                    )
                continue
            root = self.node(event, 0)
        if root is None:
            raise PortfolioError("the file is empty", where=Location(self.shown), hint="Run `retinue init`.")
        return root

    def at(self, event: Any) -> Location:
        return Location(self.shown, event.start_mark.line + 1, event.start_mark.column + 1)

    def node(self, event: Any, depth: int) -> Node:
        if depth > MAX_DEPTH:
            raise PortfolioError("nested too deeply", where=self.at(event), hint="Flatten this part of the file.")
        if isinstance(event, AliasEvent):
            if event.anchor not in self.anchors:
                raise PortfolioError(
                    f"alias *{event.anchor} has no anchor before it",
                    where=self.at(event),
                    hint=f"Write &{event.anchor} at the value it repeats, or quote the text.",
                )
            return self.anchors[event.anchor]
        if isinstance(event, ScalarEvent):
            node = self.scalar(event)
        elif isinstance(event, SequenceStartEvent):
            node = self.sequence(event, depth)
        else:
            node = self.mapping(event, depth)
        if event.anchor is not None:
            self.anchors[event.anchor] = node
        return node

    def tag(self, event: Any) -> str | None:
        if event.tag is None or event.tag == "!":
            return None if event.tag is None else "str"
        name = _TAGS.get(str(event.tag))
        if name is None:
            raise PortfolioError(
                f"tag {event.tag} is not known", where=self.at(event), hint="Remove it: values are plain YAML."
            )
        return name

    def scalar(self, event: Any) -> Node:
        text, tag = self.text(event), self.tag(event)
        if tag == "str" or (tag is None and event.style is not None):
            return Node(self.at(event), text, text)
        value = resolve(text)
        if tag is not None and tag != _name(value) and not (tag == "float" and type(value) is int):
            raise PortfolioError(f"{text!r} is not a !!{tag}", where=self.at(event), hint="Remove the tag.")
        return Node(self.at(event), float(value) if tag == "float" else value, text)

    def sequence(self, event: Any, depth: int) -> Node:
        items: list[Node] = []
        size = 1
        self.tag(event)
        while not isinstance(inner := next(self.events), SequenceEndEvent):
            items.append(self.node(inner, depth + 1))
            size = self.grow(size, items[-1], inner)
        return Node(self.at(event), items=tuple(items), size=size)

    def mapping(self, event: MappingStartEvent, depth: int) -> Node:
        entries: dict[str, Entry] = {}
        size = 1
        self.tag(event)
        while not isinstance(inner := next(self.events), MappingEndEvent):
            key, at = self.key(inner), self.at(inner)
            following = next(self.events)
            node = self.node(following, depth + 1)
            size = self.grow(size, node, following)
            if key in entries:
                raise PortfolioError(
                    f"key {key!r} stands twice: first in line {entries[key].at.line}, again in line {at.line}",
                    where=at,
                    hint="Remove one of the two.",
                )
            entries[key] = Entry(key, at, node)
        return Node(self.at(event), entries=entries, size=size)

    def key(self, event: Any) -> str:
        if isinstance(event, AliasEvent) or not isinstance(event, ScalarEvent):
            raise PortfolioError(
                "a key must be text",
                where=self.at(event),
                hint='Quote keys that begin with a bracket, a brace or an asterisk: "{origin}-late".',
            )
        if event.value == "<<" and event.style is None:
            raise PortfolioError(
                "merge keys (<<) are not part of YAML 1.2", where=self.at(event), hint="Use `defaults:` instead."
            )
        return self.text(event)

    def text(self, event: ScalarEvent) -> str:
        found = _NO_TEXT.search(event.value)
        if found:
            raise PortfolioError(
                f"character U+{ord(found[0]):04X} is not allowed in text", where=self.at(event), hint="Remove it."
            )
        return str(event.value)

    def grow(self, size: int, node: Node, event: Any) -> int:
        size += node.size
        if size > MAX_NODES:
            raise PortfolioError(
                f"more than {MAX_NODES:,} values, counting what aliases repeat",
                where=self.at(event),
                hint="Describe many models as a family: `for_each:`.",
            )
        return size


def resolve(text: str) -> Any:
    """A plain scalar's value under the YAML 1.2 core schema; what is no null, bool or number is text.

    >>> [resolve(t) for t in ("on", "no", "12:30", "0o17", "1e3", "true", "~")]
    ['on', 'no', '12:30', 15, 1000.0, True, None]
    """
    if _NULL.fullmatch(text):
        return None
    if _TRUE.fullmatch(text):
        return True
    if _FALSE.fullmatch(text):
        return False
    if _INT.fullmatch(text):
        if len(text) > 3000:  # beyond what int() takes and str() gives, in every base
            raise ValueError("a number of more than 3,000 digits")
        return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
    if _FLOAT.fullmatch(text):
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    return text


def _name(value: Any) -> str:
    return {type(None): "null", bool: "bool", int: "int", float: "float"}.get(type(value), "str")
