"""What this file format knows and this Retinue does not carry out: refused with the reason, never skipped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from retinue.loader.problems import LATER, Problems
from retinue.loader.read import Entry, Node

_MODEL_KEYS: Mapping[str, str] = {
    "remote": "models served elsewhere are not carried out yet; give `train: module:function`",
    "trust": "pickled artifacts are not taken; save as ONNX or skops and name it under `artifact`",
}
_POLICY_APPROVAL = "say it of the model, or of all under `defaults`: `approval: required by GROUP`"
_GATES: Mapping[str, str] = {
    "parity": "parity of the compiled model is always proved; say `compile: require` to insist on it",
}
_DATA: Mapping[str, str] = {
    "url": "name it in [connections.NAME] of retinue.toml and say `connection: NAME` with a `query`",
}
LATER_KEYS: Mapping[str, Mapping[str, str]] = {
    "models.NAME": _MODEL_KEYS,
    "models.NAME.gates": _GATES,
    "data.NAME": _DATA,
    "policies.rollout.NAME": {"approval": _POLICY_APPROVAL},
}
"""Known keys that are refused, by the place where they stand, with what to do instead."""

_MODELS = (("models", "*"), ("defaults",), ("models", "*", "override", "*"))


def refuse(root: Node, problems: Problems) -> tuple[Node, frozenset[tuple[str, ...]]]:
    """The file without what is known but not carried out, each noted as a problem, and the entries it stood in.

    For an entry (`("models", "late")`) in which something was refused, what is missing is not worth telling.
    """
    touched: set[tuple[str, ...]] = set()
    for path, entry, reason in list(_find(root)):
        dotted = ".".join(path)
        problems.add(f"{dotted}: known, but not carried out by this Retinue", entry.at, _sentence(reason), LATER)
        root = _drop(root, path)
        touched.add(path[:2])
    return root, frozenset(touched)


def _find(root: Node) -> Iterator[tuple[tuple[str, ...], Entry, str]]:
    for model in _MODELS:
        yield from _keys(root, model, _MODEL_KEYS)
        yield from _keys(root, (*model, "gates"), _GATES)
        yield from _keys(
            root,
            (*model, "train"),
            {"submit": "give `train: module:function`, or save the result and name it: `artifact: PATH`"},
            whole=True,
        )
    yield from _keys(root, ("data", "*"), _DATA)
    yield from _keys(root, ("policies", "rollout", "*"), {"approval": _POLICY_APPROVAL})


def _keys(
    root: Node, pattern: tuple[str, ...], reasons: Mapping[str, str], *, whole: bool = False
) -> Iterator[tuple[tuple[str, ...], Entry, str]]:
    for path, owner in _at(root, pattern):
        for name, entry in (owner.node.entries or {}).items():
            if name in reasons:
                yield (path if whole else (*path, name)), entry, reasons[name]


def _at(node: Node, pattern: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Entry]]:
    first, *rest = pattern
    for name, entry in (node.entries or {}).items():
        if first in ("*", name):
            if not rest:
                yield (name,), entry
            else:
                for path, inner in _at(entry.node, tuple(rest)):
                    yield (name, *path), inner


def _drop(node: Node, path: tuple[str, ...]) -> Node:
    name, *rest = path
    entries = dict(node.entries or {})
    if name not in entries:  # dropped already, with what stood around it
        return node
    if rest:
        entry = entries[name]
        entries[name] = Entry(name, entry.at, _drop(entry.node, tuple(rest)))
    else:
        del entries[name]
    return Node(node.at, entries=entries, size=node.size)


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + ("" if text.endswith(".") else ".")
