"""The small types of the file's values: text with units, names, module paths; each error says what was expected."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from retinue.core.suggest import nearest
from retinue.loader import units

NAME = r"^[A-Za-z0-9][A-Za-z0-9._~-]*$"
TEMPLATE = r"^([A-Za-z0-9]|\{[A-Za-z_][A-Za-z0-9_]*\})([A-Za-z0-9._~-]|\{[A-Za-z_][A-Za-z0-9_]*\})*$"
TRAIN = r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$"


def wrong(message: str, hint: str) -> PydanticCustomError:
    """An error of this file format with its own words and next step."""
    safe = {"message": message, "hint": hint}
    return PydanticCustomError("retinue", "{message}", safe)


def shown(value: object) -> str:
    """A wrong value in words, cut to a readable length."""
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    text = {True: "true", False: "false"}[value] if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


def _unit(parse: Callable[[str], Any], what: str, example: str) -> BeforeValidator:
    def check(value: object) -> Any:
        try:
            if isinstance(value, str):
                return parse(value)
        except ValueError:
            pass
        raise wrong(f"expected {what}, found {shown(value)}", f"Write it like {example}.")

    return BeforeValidator(check)


def _pattern(pattern: str, what: str, hint: str) -> AfterValidator:
    compiled = re.compile(pattern)

    def check(value: str) -> str:
        if not compiled.fullmatch(value):
            raise wrong(f"expected {what}, found {shown(value)}", hint)
        return value

    return AfterValidator(check)


def above_nothing(value: float) -> float:
    """Refuse a bound of zero, which would be no bound or stop everything."""
    if not value > 0:
        raise wrong("expected more than nothing, found 0", "Write a bound above zero, or leave the key out.")
    return value


Duration = Annotated[
    float,
    _unit(units.duration, "a duration", '"3h", "10m" or "6d"'),
    WithJsonSchema({"type": "string", "pattern": units.DURATION, "title": "duration"}),
]


def _approval(value: object) -> str:
    found = re.fullmatch(r"required by @?([A-Za-z0-9][A-Za-z0-9._-]*)", value) if isinstance(value, str) else None
    if found is None:
        raise wrong(
            f"expected who must approve, found {shown(value)}",
            'Write "required by GROUP"; the group stands in [approvers] of retinue.toml.',
        )
    return found[1]


Approval = Annotated[
    str,
    BeforeValidator(_approval),
    WithJsonSchema({"type": "string", "pattern": r"^required by @?[A-Za-z0-9][A-Za-z0-9._-]*$", "title": "approval"}),
]
Size = Annotated[
    int,
    _unit(units.size, "a size", '"64MB" or "2GiB"'),
    WithJsonSchema({"type": "string", "pattern": units.SIZE, "title": "size"}),
]


def _share(text: str) -> float:
    value = units.percent(text)
    if not 0 < value < 1:
        raise ValueError(text)
    return value


def _percent(text: str) -> float:
    value = units.percent(text)
    if value > 1:
        raise ValueError(text)
    return value


Percent = Annotated[
    float,
    _unit(_percent, "a percentage of at most 100%", '"20%"'),
    WithJsonSchema({"type": "string", "pattern": units.PERCENT, "title": "percent"}),
]
Share = Annotated[
    float,
    _unit(_share, "a percentage between 0% and 100%", '"20%"'),
    WithJsonSchema({"type": "string", "pattern": units.PERCENT, "title": "share"}),
]


def _tensors(value: object) -> float:
    words = {"always": 1.0, "never": 0.0}
    if isinstance(value, str) and value in words:
        return words[value]
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1:
        return float(value)
    if isinstance(value, str) and re.fullmatch(units.PERCENT, value) and units.percent(value) <= 1:
        return units.percent(value)
    near = nearest(value, words) if isinstance(value, str) else None
    hint = f"Did you mean {near!r}?" if near else 'Write always, never, "10%" or 0.1.'
    raise wrong(f"expected always, never or a share, found {shown(value)}", hint)


Tensors = Annotated[
    Any,  # the share as a float
    BeforeValidator(_tensors),
    WithJsonSchema(
        {
            "anyOf": [
                {"enum": ["always", "never"]},
                {"type": "string", "pattern": units.PERCENT, "title": "share"},
                {"type": "number", "minimum": 0, "maximum": 1},
            ]
        }
    ),
]
Name = Annotated[
    str,
    _pattern(NAME, "a name of letters, digits and . _ ~ -", "Begin with a letter or digit."),
    WithJsonSchema({"type": "string", "pattern": NAME}),
]
Train = Annotated[
    str,
    _pattern(TRAIN, "module:function", "Write it like flights.late:train."),
    WithJsonSchema({"type": "string", "pattern": TRAIN}),
]


def _text(value: str) -> str:
    if not value.strip():
        raise wrong("expected text, found empty text", "Write a value, or remove the key.")
    return value


Text = Annotated[str, AfterValidator(_text), WithJsonSchema({"type": "string", "minLength": 1})]


def _unique(values: list[str]) -> list[str]:
    twice = sorted(value for value, count in Counter(values).items() if count > 1)
    if twice:
        raise wrong(f"{', '.join(map(repr, twice))} stands more than once", "Name each one once.")
    return values


Texts = Annotated[list[Text], AfterValidator(_unique)]


def _some(values: list[str]) -> list[str]:
    if not values:
        raise wrong("expected at least one, found an empty list", "Name at least one.")
    return values


SomeTexts = Annotated[Texts, AfterValidator(_some)]


def one_or_many(value: object) -> str | None:
    """Which branch of a name | list | mapping union a value takes."""
    for kind, tag in ((str, "<name>"), (list, "<list>"), (dict, "<mapping>")):
        if isinstance(value, kind):
            return tag
    return None


def _margin(value: object) -> tuple[float, bool]:
    if isinstance(value, str) and re.fullmatch(units.PERCENT, value):
        return units.percent(value), True
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < float("inf"):
        return float(value), False
    raise wrong(f"expected a percentage or a number of at least 0, found {shown(value)}", 'Write it like "2%" or 0.01.')


Margin = Annotated[
    Any,  # (value, whether relative)
    BeforeValidator(_margin),
    WithJsonSchema({"anyOf": [{"type": "string", "pattern": units.PERCENT}, {"type": "number", "minimum": 0}]}),
]


def _scalar(value: object) -> object:
    if isinstance(value, (dict, list)):
        raise wrong(f"expected one value, found {shown(value)}", "Write text, a number, true, false or null.")
    return value


_SCALARS = ["string", "number", "boolean", "null"]
Scalar = Annotated[Any, BeforeValidator(_scalar), WithJsonSchema({"type": _SCALARS})]


def _expected(value: object) -> object:
    if isinstance(value, list):
        numbers = [v for v in value if isinstance(v, (int, float)) and not isinstance(v, bool)]
        if len(value) != 2 or len(numbers) != 2 or numbers[0] > numbers[1]:
            raise wrong("expected [low, high]", "Write two numbers, the smaller first.")
        return (float(numbers[0]), float(numbers[1]))
    return _scalar(value)


_PAIR = {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2}
Expected = Annotated[
    Any, BeforeValidator(_expected), WithJsonSchema({"anyOf": [{"type": ["string", "number", "boolean"]}, _PAIR]})
]
