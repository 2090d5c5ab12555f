from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retinue.core.contract import Field
from retinue.core.state import ServedCache, ServedModel
from retinue.gateway.answers import ARM, LARGEST, Answers, ask
from retinue.gateway.calls import Part, Question
from retinue.gateway.oip_request import ColumnTable, LineTable
from retinue.gateway.recorder import NodeFacts, Ran
from retinue.gateway.rows import RowTable

SERVED = ServedModel("m", "v1", "0" * 64, "onnx", {}, "none")
FACTS = NodeFacts("m", "v1", (Field("x", "FP64"),), (Field("y", "FP64"),))
MINUTE = ServedCache(60.0, 3)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def asked(*rows: dict[str, Any], release: str = "r1", endpoint: str = "e") -> Question:
    return ask(release, endpoint, RowTable(rows))


def put(answers: Answers, question: Question, y: Any = (1.0,), limits: ServedCache = MINUTE) -> None:
    outputs = {"y": list(y)}
    answers.keep(
        question, limits, [Part((0,), SERVED, outputs, False)], [Ran(FACTS, None, [(1.0,)], outputs, 0.1, 0.2)]
    )


def test_the_same_values_are_the_same_question_whatever_their_order_and_the_clients_id() -> None:
    assert asked({"x": 1.5, "k": "a"}) == asked({"k": "a", "x": 1.5})
    assert ask("r1", "e", LineTable(("x", "k"), (1.5, "a"))) == ask("r1", "e", LineTable(("k", "x"), ("a", 1.5)))


def test_another_endpoint_or_release_never_gets_this_ones_answer() -> None:
    answers = Answers()
    put(answers, asked({"x": 1.0}, endpoint="a"))
    assert answers.find(asked({"x": 1.0}, endpoint="b")) is None
    assert answers.find(asked({"x": 1.0}, endpoint="a", release="r2")) is None
    assert answers.find(asked({"x": 1.0}, endpoint="a")) is not None


VALUES: list[Any] = [
    None, True, False, 0, 1, 0.0, -0.0, 1.0, float("nan"), float("inf"), float("-inf"), "", "0", "1", "None", "nan",
    "inf", 2**53, 2**53 + 1, float(2**53), "'", '"', "é", "\ud800", [1], [1.0], ["1"], {"x": 1},
]  # fmt: skip


def test_values_that_a_model_could_tell_apart_are_different_questions() -> None:
    questions = [asked({"x": value}) for value in VALUES]
    assert len(set(questions)) == len(VALUES)
    columns = [ask("r", "e", ColumnTable({"x": [value]}, 1)) for value in VALUES]
    assert len(set(columns)) == len(VALUES)


def test_names_rows_and_shapes_are_part_of_the_question() -> None:
    several = [
        asked({"a": 1, "b": 2}),
        asked({"a": 2, "b": 1}),
        asked({"a": 1}, {"b": 2}),
        asked({"a": 1}),
        asked({"a": 1}, {"a": 1}),
        asked({"a": 1, "b": None}),
        asked({"a, 1), (b": 2}),
        asked(),
    ]
    assert len(set(several)) == len(several)
    arrays: list[dict[str, Any]] = [
        {"x": np.array([1, 2], dtype=np.int64)},
        {"x": np.array([1, 2], dtype=np.int32)},
        {"x": np.array([1.0, 2.0])},
        {"x": np.array([[1.0, 2.0]])},
        {"x": np.array([1.0]), "y": np.array([2.0])},
        {"x": np.array(["1", "2"], dtype=object)},
        {"x": [1, 2]},
    ]
    assert len({ask("r", "e", ColumnTable(columns, 2)) for columns in arrays}) == len(arrays)


@given(
    st.lists(st.dictionaries(st.text(max_size=3), st.one_of(st.integers(), st.floats(), st.text(max_size=4)))),
    st.lists(st.dictionaries(st.text(max_size=3), st.one_of(st.integers(), st.floats(), st.text(max_size=4)))),
)
def test_two_requests_are_one_question_only_if_their_rows_are_equal(one: list[Any], two: list[Any]) -> None:
    same = asked(*one) == asked(*two)
    assert same == (repr([sorted(r.items()) for r in one]) == repr([sorted(r.items()) for r in two]))


def test_an_answer_ends_with_its_time() -> None:
    clock = Clock()
    answers = Answers(clock=clock)
    put(answers, asked({"x": 1}))
    clock.now += 59.9
    assert answers.find(asked({"x": 1})) is not None
    clock.now += 0.1
    assert answers.find(asked({"x": 1})) is None
    assert (len(answers), answers.bytes, answers.hits, answers.misses) == (0, 0, 1, 1)


def test_an_endpoint_keeps_so_many_and_what_was_used_longest_ago_leaves() -> None:
    answers = Answers()
    for x in range(3):
        put(answers, asked({"x": x}))
    put(answers, asked({"x": 0}, endpoint="other"))
    assert answers.find(asked({"x": 0})) is not None
    put(answers, asked({"x": 3}))
    assert answers.find(asked({"x": 1})) is None
    assert answers.find(asked({"x": 0})) is not None
    assert answers.find(asked({"x": 0}, endpoint="other")) is not None
    assert len(answers) == 4


def test_all_together_are_bounded_by_bytes_and_a_huge_answer_is_not_kept() -> None:
    answers = Answers(max_bytes=20_000)
    many = ServedCache(60.0, 1_000_000)
    for x in range(1000):
        put(answers, asked({"x": x}), limits=many)
        assert answers.bytes <= 20_000
    assert 5 < len(answers) < 40
    put(answers, asked({"x": -1}), y=[0.0] * 1000, limits=many)
    assert answers.find(asked({"x": -1})) is None
    whole = Answers()
    put(whole, asked({"x": 1}), y=np.zeros(LARGEST // 8 + 1))
    assert len(whole) == 0


def test_a_slice_of_a_batch_does_not_keep_the_whole_batch_in_memory() -> None:
    answers, batch = Answers(), np.zeros((4096, 3))
    outputs = {"probability": batch[7:8]}
    run = Ran(FACTS, None, batch[7:8], outputs, 0.1, 0.2)
    answers.keep(asked({"x": 1}), MINUTE, [Part((0,), SERVED, outputs, False)], [run])
    kept = answers.find(asked({"x": 1}))
    assert kept is not None
    assert kept.parts[0].outputs["probability"].base is None
    assert kept.runs[0].inputs.base is None
    assert kept.runs[0].outputs is kept.parts[0].outputs


def test_keeping_the_same_question_again_counts_it_once() -> None:
    answers = Answers()
    for _ in range(5):
        put(answers, asked({"x": 1}))
    size = answers.bytes
    put(answers, asked({"x": 1}))
    assert (len(answers), answers.bytes) == (1, size)


def test_a_retired_release_leaves_nothing_behind() -> None:
    answers = Answers()
    for release, x in itertools.product(("r1", "r2"), range(3)):
        put(answers, asked({"x": x}, release=release))
    answers.retire({"r2"})
    assert len(answers) == 3
    answers.retire(())
    assert (len(answers), answers.bytes, answers._counts, answers._marked) == (0, 0, {}, {})


def test_the_journal_tells_a_repeated_answer_by_its_arm_and_one_object_per_node() -> None:
    answers = Answers()
    put(answers, asked({"x": 1}))
    put(answers, asked({"x": 2}))
    runs = [run for x in (1, 2) for run in (answers.find(asked({"x": x})) or pytest.fail("lost")).runs]
    assert runs[0].facts is runs[1].facts
    assert (runs[0].facts.arm, runs[0].facts.model, runs[0].facts.version) == (ARM, "m", "v1")
    assert (runs[0].queued, runs[0].ran) == (0.0, 0.0)
    assert FACTS.arm == ""
