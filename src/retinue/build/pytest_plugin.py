"""The pytest plug-in of gates: fixtures `model`, `champion`, `holdout` and `predict` for the user's test files.

Tests run in a process of the platform's own Python (pytest must be installed there), with the model's code importable.
Answers come over a local socket from the apply that runs the gate: they are those that would be served.

    def test_longer_flights_are_not_more_often_late(predict, holdout):
        rows = {**holdout.columns, "distance": holdout.columns["distance"] * 2}
        assert predict(rows)["probability"].mean() <= predict(holdout.columns)["probability"].mean() + 0.01
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Client, Connection
from typing import Any

import numpy as np
import pytest

ADDRESS, KEY = "RETINUE_GATE_SOCKET", "RETINUE_GATE_KEY"
Columns = dict[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Holdout:
    """Rows that training never saw: `columns` by feature name [n], `truth` [n]."""

    columns: Columns
    truth: Any
    target: str

    def __len__(self) -> int:
        return len(self.truth)


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """A version under test: its answers on the holdout, and how to ask it for others."""

    name: str
    version: str
    task: str
    classes: tuple[Any, ...] | None
    answers: Columns
    predict: Callable[[Any], Columns]


class _Line:
    """The socket to the apply; one question at a time."""

    def __init__(self) -> None:
        if ADDRESS not in os.environ:
            raise pytest.UsageError("these fixtures belong to a gate: run the tests with `retinue apply`")
        address = os.environ[ADDRESS]  # one without a file begins with a null byte, which no variable may hold
        address = f"\0{address[1:]}" if address.startswith("@") else address
        self.connection: Connection = Client(address, authkey=bytes.fromhex(os.environ[KEY]))
        self.facts: dict[str, Any] = self.ask(("facts",))

    def ask(self, question: tuple[Any, ...]) -> Any:
        """The answer. Raises RuntimeError with what the model raised."""
        self.connection.send(question)
        ok, answer = self.connection.recv()
        if not ok:
            raise RuntimeError(answer)
        return answer

    def model(self, who: str) -> Model:
        """The new version or the champion."""
        return Model(**self.facts[who], predict=lambda rows: self.ask(("predict", who, columns_of(rows))))


def columns_of(rows: Any) -> Columns:
    """Rows of any usual form as one array per column: a mapping, an Arrow table, a pandas or polars frame."""
    if not isinstance(rows, Mapping) and hasattr(rows, "to_pydict"):
        rows = rows.to_pydict()
    elif not isinstance(rows, Mapping) and hasattr(rows, "columns"):
        rows = {name: rows[name].to_numpy() for name in rows.columns}
    return {str(name): _array(values) for name, values in rows.items()}


def _array(values: Any) -> Any:
    found = np.asarray(values)
    return found.astype(object) if found.dtype.kind in "US" else found


@pytest.fixture(scope="session")
def _line() -> _Line:
    return _Line()


@pytest.fixture(scope="session")
def model(_line: _Line) -> Model:
    """The version that is judged."""
    return _line.model("model")


@pytest.fixture(scope="session")
def champion(_line: _Line) -> Model:
    """The live version on the same rows; a test that asks for it is skipped where there is none."""
    if _line.facts["champion"] is None:
        pytest.skip("there is no champion to compare with")
    return _line.model("champion")


@pytest.fixture
def holdout(_line: _Line) -> Holdout:
    """The holdout rows, a copy for each test."""
    found = _line.facts["holdout"]
    return Holdout({k: v.copy() for k, v in found["columns"].items()}, found["truth"].copy(), found["target"])


@pytest.fixture
def predict(model: Model) -> Callable[[Any], Columns]:
    """The judged version's answers by contract name, for rows of any usual form."""
    return model.predict
