"""The contract gate: does the model that will serve keep the promises that batching and serving rest on?

Every test runs the real predict function; one that raises has failed with its message, it never stops the gates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retinue.core.contract import NUMERIC, Field, Label, Schema, Task
from retinue.core.errors import RetinueError
from retinue.core.gates import GateResult, failed, passed, undecided
from retinue.core.portfolio import ExampleGate

Array = NDArray[Any]
Columns = Mapping[str, Array]
Predict = Callable[[dict[str, Array]], Columns]

TOLERANCE = 1e-6
"""How far one row's answer may move with its company, relative to the size of the output (at least 1)."""

SUM_TOLERANCE = 1e-5
"""How far a row's probabilities may be from 1 in sum: float32 softmax over many classes."""

BATCH, SINGLES = 256, 8
KINDS = {"FP64": "f", "INT64": "iu", "BOOL": "b", "BYTES": "OU"}


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """The model under test: how it is asked, what it promised. `columns` are holdout rows with all inputs."""

    predict: Predict
    schema: Schema
    task: Task
    classes: tuple[Label, ...] | None
    columns: Columns

    @property
    def rows(self) -> int:
        """Number of holdout rows."""
        return len(next(iter(self.columns.values()))) if self.columns else 0

    def batch(self, rows: Array) -> dict[str, Array]:
        """The inputs of some rows, and nothing but the inputs."""
        return {f.name: np.asarray(self.columns[f.name])[rows] for f in self.schema.inputs}


class _BrokenPromiseError(Exception):
    """A promise does not hold; the text says which."""


def contract_results(subject: Subject, rng: np.random.Generator) -> list[GateResult]:
    """One result per promise, always the same names. Without holdout rows they are inconclusive."""
    lacking = [f.name for f in subject.schema.inputs if f.name not in subject.columns]
    if lacking:
        return [failed("contract.schema", f"the holdout has no column {', '.join(lacking)}")]
    tests = {
        "contract.schema": _schema,
        "contract.deterministic": _deterministic,
        "contract.single": _single,
        "contract.order": _order,
        "contract.missing": _missing,
    }
    if subject.rows == 0:
        return [undecided(name, "not enough data: no holdout rows") for name in tests]
    count = min(BATCH, subject.rows)
    rows = np.sort(rng.choice(subject.rows, size=count, replace=False))
    return [_result(name, lambda test=test: test(subject, rows), count) for name, test in tests.items()]  # type: ignore[misc]


def example_results(subject: Subject, examples: Sequence[ExampleGate]) -> list[GateResult]:
    """One result per example the user wrote, named `examples.1`, `examples.2`, …"""
    return [
        _result(f"examples.{number}", lambda example=example: _example(subject, example), 1)  # type: ignore[misc]
        for number, example in enumerate(examples, start=1)
    ]


def _result(name: str, test: Callable[[], str], n: int) -> GateResult:
    """Run one test: its text is the detail of a pass, a broken promise or any exception of the model a fail."""
    try:
        return passed(name, test(), n=n)
    except _BrokenPromiseError as error:
        return failed(name, str(error), n=n)
    except RetinueError as error:
        return failed(name, f"the model raised: {error}", n=n)
    except Exception as error:  # noqa: BLE001 — whatever the model's code raises is its failed gate
        return failed(name, f"the model raised {type(error).__name__}: {error}", n=n)


def _ask(subject: Subject, batch: dict[str, Array]) -> dict[str, Array]:
    """The answers, checked: names, lengths, shapes, types, numbers, probabilities, known labels."""
    rows = len(next(iter(batch.values()))) if batch else 0
    # the model gets arrays of its own: one that writes into them must not change what later tests see
    found = subject.predict({name: column.copy() for name, column in batch.items()})
    names = [f.name for f in subject.schema.outputs]
    if sorted(found) != sorted(names):
        raise _BrokenPromiseError(f"answers {_words(found)}; the schema says {_words(names)}")
    answers = {name: np.asarray(found[name]) for name in names}
    for field in subject.schema.outputs:
        _check_output(field, answers[field.name], rows)
    if subject.task not in NUMERIC:
        _check_classes(subject, answers)
    for name, answer in answers.items():
        if subject.task == "quantiles" and answer.ndim == 2 and (np.diff(answer, axis=1) < 0).any():
            raise _BrokenPromiseError(f"quantiles of {name} cross: a higher one is below a lower one")
    return answers


def _check_output(field: Field, answer: Array, rows: int) -> None:
    shape = (rows,) if field.width == 1 else (rows, field.width)
    if answer.shape != shape:
        raise _BrokenPromiseError(f"{field.name} has shape {list(answer.shape)}, not {list(shape)}")
    if answer.dtype.kind not in KINDS[field.dtype]:
        raise _BrokenPromiseError(f"{field.name} is {answer.dtype}, not {field.dtype}")
    if answer.dtype.kind == "f" and not np.isfinite(answer).all():
        bad = int((~np.isfinite(answer)).reshape(rows, -1).any(axis=1).sum())
        raise _BrokenPromiseError(f"{field.name} is NaN or infinite in {bad:,} of {rows:,} rows")
    if answer.dtype.kind == "O" and not all(isinstance(v, str) for v in answer.tolist()):
        raise _BrokenPromiseError(f"{field.name} holds values that are not text")


def _check_classes(subject: Subject, answers: Mapping[str, Array]) -> None:
    probability = answers["probability"]
    if probability.size and (probability.min() < -TOLERANCE or probability.max() > 1 + TOLERANCE):
        raise _BrokenPromiseError(f"probability leaves [0, 1]: [{probability.min():.6g}, {probability.max():.6g}]")
    if probability.ndim == 2:
        off = float(np.abs(probability.sum(axis=1) - 1.0).max(initial=0.0))
        if off > SUM_TOLERANCE:
            raise _BrokenPromiseError(f"the probabilities of a row do not sum to 1 (off by {off:.2g})")
    unknown = [v for v in set(answers["label"].tolist()) if v not in (subject.classes or ())]
    if unknown:
        raise _BrokenPromiseError(f"label {unknown[0]!r} is none of the classes {_words(subject.classes or ())}")


def _schema(subject: Subject, rows: Array) -> str:
    answers = _ask(subject, subject.batch(rows))
    return f"{_words(answers)} as declared"


def _deterministic(subject: Subject, rows: Array) -> str:
    batch = subject.batch(rows)
    first, second = _ask(subject, batch), _ask(subject, batch)
    for name, answer in first.items():
        if not np.array_equal(answer, second[name]):
            raise _BrokenPromiseError(f"{name} differs between two runs of the same batch")
    return "the same batch twice: equal"


def _single(subject: Subject, rows: Array) -> str:
    whole = _ask(subject, subject.batch(rows))
    picked = np.unique(np.linspace(0, len(rows) - 1, SINGLES).astype(np.int64))
    alone = [_ask(subject, subject.batch(rows[i : i + 1])) for i in picked]
    joined = {name: np.concatenate([answers[name] for answers in alone]) for name in whole}
    _same({name: answer[picked] for name, answer in whole.items()}, joined, "alone than in a batch")
    return f"{len(picked)} rows alone as in a batch of {len(rows)}"


def _order(subject: Subject, rows: Array) -> str:
    straight, back = _ask(subject, subject.batch(rows)), _ask(subject, subject.batch(rows[::-1]))
    _same(straight, {name: answer[::-1] for name, answer in back.items()}, "when the rows are reversed")
    return "reversed rows: the same answers"


def _missing(subject: Subject, rows: Array) -> str:
    nullable = [f for f in subject.schema.inputs if f.nullable]
    for field in nullable:
        batch = subject.batch(rows[:2])
        batch[field.name] = _without(batch[field.name])
        try:
            _ask(subject, batch)
        except Exception as error:
            text = str(error) if isinstance(error, _BrokenPromiseError) else f"{type(error).__name__}: {error}"
            raise _BrokenPromiseError(f"with {field.name} missing: {text}") from error
    return f"each of {len(nullable)} nullable inputs missing: answered"


def _without(column: Array) -> Array:
    """The column with all values missing, in the form its type has then."""
    if column.dtype.kind in "OUS":
        return np.full(column.shape, None, dtype=object)
    return np.full(column.shape, np.nan)


def _same(one: Mapping[str, Array], two: Mapping[str, Array], when: str) -> None:
    """Raise if answers differ by more than the tolerance; a label may flip only where its probability is a tie."""
    for name, answer in one.items():
        if answer.dtype.kind == "f" and name != "label":
            far = float(np.abs(answer - two[name]).max(initial=0.0))
            if far > TOLERANCE * max(1.0, float(np.abs(answer).max(initial=0.0))):
                raise _BrokenPromiseError(f"{name} differs by {far:.3g} {when}")
        elif bool(((answer != two[name]) & ~_ties(one, answer)).any()):
            raise _BrokenPromiseError(f"{name} differs {when}")


def _ties(answers: Mapping[str, Array], label: Array) -> Array:
    probability = answers.get("probability")
    if probability is None:
        return np.zeros(len(label), dtype=bool)
    if probability.ndim == 1:
        return np.asarray(np.abs(probability - 0.5) <= TOLERANCE)
    top = np.sort(probability, axis=1)[:, -2:]
    return np.asarray(top[:, 1] - top[:, 0] <= 2 * TOLERANCE)


def _example(subject: Subject, example: ExampleGate) -> str:
    given, expected = dict(example.inputs), dict(example.expect)
    known = [f.name for f in subject.schema.inputs]
    unknown = [name for name in given if name not in known]
    if unknown:
        raise _BrokenPromiseError(f"{unknown[0]} is not an input of the model; inputs: {_words(known)}")
    answers = _ask(subject, {f.name: _one(f, given.get(f.name)) for f in subject.schema.inputs})
    told = []
    for name, wanted in expected.items():
        if name not in answers:
            raise _BrokenPromiseError(f"{name} is not an output of the model; outputs: {_words(answers)}")
        _check_expected(subject, name, answers[name][0], wanted)
        told.append(f"{name} {_word(answers[name][0])}")
    return ", ".join(told)


def _one(field: Field, value: Any) -> Array:
    """A column of one row from a JSON value; a value that is not given is missing."""
    if value is None:
        if not field.nullable:
            raise _BrokenPromiseError(f"{field.name} may not be missing: give it a value")
        return _without(np.empty(1, dtype=object if field.dtype == "BYTES" else np.float64))
    if field.dtype == "BYTES":
        return np.array([str(value)], dtype=object)
    try:
        return np.array([value], dtype={"FP64": np.float64, "INT64": np.int64, "BOOL": np.bool_}[field.dtype])
    except (TypeError, ValueError) as error:
        raise _BrokenPromiseError(f"{field.name} is {field.dtype}; {value!r} is not") from error


def _check_expected(subject: Subject, name: str, found: Any, wanted: Any) -> None:
    """`wanted` is a value, a pair (low, high), or for probabilities of many classes a mapping class → either."""
    if isinstance(wanted, Mapping):
        classes = [str(c) for c in subject.classes or ()]
        for key, each in wanted.items():
            if str(key) not in classes:
                raise _BrokenPromiseError(f"{key!r} is none of the classes {_words(classes)}")
            _check_expected(subject, f"{name}[{key}]", np.atleast_1d(found)[classes.index(str(key))], each)
        return
    if np.ndim(found):
        raise _BrokenPromiseError(f"{name} has one value per class: expect a mapping class → value or [low, high]")
    value = found.item() if isinstance(found, np.generic) else found
    if isinstance(wanted, list | tuple):
        low, high = wanted
        if not low <= value <= high:
            raise _BrokenPromiseError(f"{name} is {_word(value)}, not in [{_word(low)}, {_word(high)}]")
    elif isinstance(value, float) and isinstance(wanted, int | float):
        if abs(value - wanted) > TOLERANCE * max(1.0, abs(wanted)):
            raise _BrokenPromiseError(f"{name} is {value!r}, not {wanted!r}")
    elif value != wanted:
        raise _BrokenPromiseError(f"{name} is {value!r}, not {wanted!r}")


def _word(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _words(values: Any) -> str:
    return ", ".join(map(str, values)) or "nothing"
