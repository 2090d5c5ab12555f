"""Facts about the rows that models read, asked once: by question and by the pin they are asked under."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from retinue.core.identity import canonical, digest
from retinue.sources.base import Facts, Pin, Question, Tables

Json = Any


class FactsBook:
    """Facts by question and pin, asked in one go per pin so that a family is scanned once."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables
        self.known: dict[tuple[Question, str], Facts] = {}
        self._pins: dict[int, tuple[Pin, str]] = {}

    def ask(self, wanted: Iterable[tuple[Question, Pin]]) -> None:
        """Have these answered, those that are not yet."""
        by_pin: dict[str, tuple[Pin, list[Question]]] = {}
        for question, pin in wanted:
            key = self._key(pin)
            if (question, key) not in self.known:
                by_pin.setdefault(key, (pin, []))[1].append(question)
        for key, (pin, questions) in by_pin.items():
            unique = list(dict.fromkeys(questions))
            for question, facts in zip(unique, self.tables.facts(unique, pin), strict=True):
                self.known[(question, key)] = facts

    def _key(self, pin: Pin) -> str:
        """What a pin is found by; told once per value, which is kept so that no other takes its place."""
        found = self._pins.get(id(pin))
        if found is None:
            found = self._pins[id(pin)] = (pin, digest(pin.to_json()))
        return found[1]

    def get(self, question: Question, pin: Pin) -> Facts:
        """An answer that was asked for."""
        return self.known[(question, self._key(pin))]


def table_json(question: Question, facts: Facts) -> dict[str, Json]:
    """A snapshot's entry for one table: the question and its answer."""
    return {
        "table": question.table,
        "filters": [list(f) for f in question.filters],
        "columns": list(question.columns),
        **facts.to_json(),
    }


def question_of(body: Mapping[str, Json]) -> Question:
    """The question that a snapshot's entry answers."""
    return Question(body["table"], tuple((c, v) for c, v in body["filters"]), tuple(body["columns"]))


def same_text(body: Mapping[str, Json], parts: Iterable[Mapping[str, Json]], recorded: Mapping[str, Json]) -> bool:
    """Whether a settings body is what is recorded, told from the text alone where the registry hands that on.

    `parts` are the values of `body["models"]`, each once: every text is written once and not once a model.
    """
    text = getattr(recorded, "text", None)
    if text is None:
        return False
    texts = {id(part): canonical(part).decode() for part in parts}
    models = body["models"]
    inside = ",".join(f"{canonical(name).decode()}:{texts[id(models[name])]}" for name in sorted(models))
    pieces = {key: canonical(value).decode() for key, value in body.items() if key != "models"}
    pieces["models"] = "{" + inside + "}"
    return bool(text == "{" + ",".join(f'"{key}":{pieces[key]}' for key in sorted(pieces)) + "}")
