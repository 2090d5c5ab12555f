"""Checks a node against a shape and tells pydantic's findings in the file's own words and places."""

from __future__ import annotations

import re
import types
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, Tag, ValidationError
from pydantic.fields import FieldInfo

from retinue.core.errors import Location
from retinue.core.suggest import did_you_mean, nearest
from retinue.loader.problems import SHAPE, Problems
from retinue.loader.read import Node, kind

ModelT = TypeVar("ModelT", bound=BaseModel)

_WANTED = {
    "string_type": "text",
    "bool_type": "true or false",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "list_type": "a list",
}
_HINTS = {
    "list_type": "Write [a, b], or one `- item` per line.",
    "bool_type": "YAML 1.2 knows true and false; yes, no, on and off are text.",
}


def validate(
    cls: type[ModelT], node: Node, label: str, at: Location, problems: Problems, *, whole: bool = True
) -> ModelT | None:
    """The value of shape `cls`, or None with problems noted. `at` is where the node's key stands.

    Of a node that is not `whole` (something in it was refused before) what is missing is not told.
    """
    try:
        return cls.model_validate(node.plain())
    except ValidationError as error:
        for found in error.errors(include_url=False):
            if whole or not (found["type"] == "missing" or found["loc"] == ()):
                _tell(found, cls, node, label, at, problems)
        return None


def _tell(found: Any, cls: type[BaseModel], node: Node, label: str, at: Location, problems: Problems) -> None:
    loc: tuple[str | int, ...] = found["loc"]
    path = [part for part in loc if not _is_tag(part) and part != "[key]"]
    value, value_at, key_at = _walk(node, at, path)
    name = ".".join([label, *map(str, path)] if label else map(str, path))
    prefix = f"{name}: " if name else ""
    sort, context = found["type"], found.get("ctx", {})
    if sort == "missing":
        owner = ".".join([label, *map(str, path[:-1])]) if label else ".".join(map(str, path[:-1]))
        field = _shape_at(cls, loc[:-1])
        about = _field(field, str(path[-1])).description if field else None
        _, _, owner_at = _walk(node, at, path[:-1])
        problems.add(f"{owner + ': ' if owner else ''}`{path[-1]}` is missing", owner_at, about, SHAPE)
    elif sort == "extra_forbidden":
        shape = _shape_at(cls, loc[:-1])
        owner = ".".join([label, *map(str, path[:-1])]).strip(".")
        known = shape.model_fields if shape else {}
        problems.add(
            f"{owner + ': ' if owner else ''}unknown key {path[-1]!r}",
            key_at,
            did_you_mean(str(path[-1]), [field.alias or name for name, field in known.items()]),
            SHAPE,
        )
    else:
        message, hint = _words(sort, found["msg"], context, value)
        problems.add(prefix + message, key_at if "[key]" in loc else value_at, hint, SHAPE)


def _words(sort: str, text: str, context: dict[str, Any], value: Node) -> tuple[str, str | None]:
    """Message and hint of one finding."""
    if sort == "retinue":
        return text, context.get("hint")
    if sort == "literal_error":
        allowed = re.findall(r"'([^']*)'", context["expected"]) or [context["expected"]]
        near = nearest(value.text or "", allowed)
        hint = f"Did you mean {near!r}?" if near else None
        return f"expected {_or(allowed)}, found {kind(value)}", hint
    if sort in _WANTED:
        quoted = sort == "string_type" and value.text is not None and value.value is not None
        hint = f'Put it in quotes: "{value.text}".' if quoted else _HINTS.get(sort)
        return f"expected {_WANTED[sort]}, found {kind(value)}", hint
    if sort == "string_pattern_mismatch":
        return f"expected text of the form {context['pattern']}, found {kind(value)}", None
    if sort == "greater_than_equal":
        return f"expected at least {context['ge']}, found {kind(value)}", None
    return f"{text[0].lower()}{text[1:]}", None


def _field(shape: type[BaseModel], key: str) -> FieldInfo:
    """The field of a key; a key that is a word of Python is its field's alias."""
    return shape.model_fields.get(key) or shape.model_fields[f"{key}_"]


def _or(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def _is_tag(part: str | int) -> bool:
    return isinstance(part, str) and part.startswith("<")


def _walk(node: Node, at: Location, path: list[Any]) -> tuple[Node, Location, Location]:
    """The node at a path (or the last one on it that exists), its place and the place of its key."""
    key_at = at
    for part in path:
        if node.entries is not None and str(part) in node.entries:
            key_at, node = node.entries[str(part)].at, node.entries[str(part)].node
        elif node.items is not None and isinstance(part, int) and part < len(node.items):
            node = node.items[part]
            key_at = node.at
        else:
            break
    return node, node.at if path else at, key_at


def _shape_at(cls: type[BaseModel], loc: tuple[str | int, ...]) -> type[BaseModel] | None:
    """The shape that stands at a location of a finding: tags in it tell which branch of a union was taken."""
    kinds: list[Any] = [cls]
    for part in loc:
        kinds = [inner for one in kinds for inner in _step(one, part)]
    for one in kinds:
        for base in _branches(one):
            if isinstance(base, type) and issubclass(base, BaseModel):
                return base
    return None


def _step(annotation: Any, part: str | int) -> list[Any]:
    found: list[Any] = []
    for base in _branches(annotation, part if _is_tag(part) else None):
        if _is_tag(part):
            found.append(base)
        elif isinstance(base, type) and issubclass(base, BaseModel):
            if {str(part), f"{part}_"} & base.model_fields.keys():
                found.append(_field(base, str(part)).annotation)
            elif base.model_config.get("extra") == "allow":
                found.append(get_args(get_type_hints(base, include_extras=True)["__pydantic_extra__"])[1])
        elif get_origin(base) is dict:
            found.append(get_args(base)[1])
        elif get_origin(base) is list:
            found.append(get_args(base)[0])
    return found


def _branches(annotation: Any, tag: str | int | None = None) -> list[Any]:
    """The plain types in an annotation; with a tag only the branch that carries it."""
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *extras = get_args(annotation)
        tags = [extra.tag for extra in extras if isinstance(extra, Tag)]
        if tag is not None and tags:
            return _branches(inner) if tag in tags else []
        return _branches(inner, tag)
    if origin in (Union, types.UnionType):
        return [base for arm in get_args(annotation) for base in _branches(arm, tag)]
    return [annotation]
