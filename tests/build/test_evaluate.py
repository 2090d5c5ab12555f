"""Gates end to end on real predict functions: metrics, contract, examples, size, families."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from retinue.build.contract import Columns, Predict
from retinue.build.evaluate import Case, Evaluation, evaluate, pool
from retinue.core.contract import Field, Schema, outputs_of
from retinue.core.errors import DataError
from retinue.core.gates import GateResult
from retinue.core.portfolio import ExampleGate, Gates, MetricGate

Array = NDArray[Any]
SCHEMA = Schema(
    (Field("x", "FP64"), Field("kind", "BYTES"), Field("count", "INT64", nullable=False)),
    outputs_of("binary", "late", "BOOL", 2),
)
CONTRACT = ["contract.schema", "contract.deterministic", "contract.single", "contract.order", "contract.missing"]


def predict(columns: dict[str, Array]) -> Columns:
    """A small honest model: missing x counts as 0, unknown kinds as neutral."""
    lift = np.array([0.5 if k == "a" else 0.0 for k in columns["kind"].tolist()])
    probability = 1 / (1 + np.exp(-(np.nan_to_num(columns["x"]) + lift - 1)))
    return {"label": probability > 0.5, "probability": probability}


def holdout(n: int, seed: int = 0) -> tuple[dict[str, Array], Array]:
    rng = np.random.default_rng(seed)
    columns: dict[str, Array] = {
        "x": np.where(rng.random(n) < 0.1, np.nan, rng.normal(size=n)),
        "kind": rng.choice(np.array(["a", "b", None], dtype=object), n),
        "count": rng.integers(0, 9, n),
    }
    truth = rng.random(n) < np.asarray(predict(columns)["probability"])
    return columns, truth


def case(n: int = 600, *, gates: Gates | None = None, ask: Predict = predict, seed: int = 0, **changes: Any) -> Case:
    columns, truth = holdout(n, seed)
    made = Case(
        gates=gates or Gates(), task="binary", target="late", classes=(False, True), schema=SCHEMA, columns=columns,
        truth=truth, outputs=predict(columns), predict=ask, size=1000, seed=7,
    )  # fmt: skip
    return replace(made, **changes)


def noisy(columns: Columns, noise: float, seed: int) -> Columns:
    """Answers of another training of the same model."""
    probability = np.asarray(predict(dict(columns))["probability"])
    logit = np.log(probability / (1 - probability)) + np.random.default_rng(seed).normal(0, noise, len(probability))
    moved = 1 / (1 + np.exp(-logit))
    return {"label": moved > 0.5, "probability": moved}


def by_gate(evaluation: Evaluation) -> dict[str, GateResult]:
    return {r.gate: r for r in evaluation.results}


def versus(metric: str = "log_loss", **settings: Any) -> Gates:
    return Gates((MetricGate(metric, vs_champion=True, **settings),))


def test_an_honest_model_passes_its_contract_and_reports_every_metric() -> None:
    found = evaluate(case())
    assert found.verdict == "pass"
    assert [r.gate for r in found.results] == CONTRACT
    assert set(found.metrics) == {
        "roc_auc", "log_loss", "brier", "accuracy", "precision", "recall", "f1", "average_precision", "ece",
    }  # fmt: skip


def test_an_evaluation_is_the_same_each_time_and_for_shuffled_rows() -> None:
    gates = Gates((MetricGate("f1", minimum=0.1, vs_champion=True), MetricGate("roc_auc", minimum=0.6)))
    one = case(gates=gates)
    one = replace(one, champion=noisy(one.columns, 0.3, 1))
    order = np.random.default_rng(5).permutation(600)
    assert one.champion is not None
    shuffled = replace(
        one,
        columns={k: v[order] for k, v in one.columns.items()},
        truth=one.truth[order],
        outputs={k: v[order] for k, v in one.outputs.items()},
        champion={k: v[order] for k, v in one.champion.items()},
    )
    assert evaluate(one).results == evaluate(one).results == evaluate(shuffled).results


def test_absolute_gates_fail_only_by_their_point_estimate() -> None:
    gates = Gates((MetricGate("roc_auc", minimum=0.6), MetricGate("log_loss", maximum=0.1)))
    found = by_gate(evaluate(case(gates=gates)))
    assert found["roc_auc.min"].verdict == "pass"
    assert found["log_loss.max"].verdict == "fail"
    assert found["roc_auc.min"].low is not None


def test_the_first_version_has_no_champion_to_be_compared_with() -> None:
    found = by_gate(evaluate(case(gates=versus())))["log_loss.vs_champion"]
    assert (found.verdict, found.detail) == ("pass", "no champion to compare with")


def test_an_equal_model_passes_a_worse_one_fails_and_few_rows_decide_nothing() -> None:
    def verdict(n: int, challenger: float) -> str:
        made = case(n, gates=versus())
        found = evaluate(
            replace(made, outputs=noisy(made.columns, challenger, 3), champion=noisy(made.columns, 0.1, 4))
        )
        return by_gate(found)["log_loss.vs_champion"].verdict

    assert verdict(8000, 0.1) == "pass"
    assert verdict(8000, 1.5) == "fail"
    assert verdict(20, 0.1) == "inconclusive"


def test_identical_answers_pass_without_doubt() -> None:
    made = case(100, gates=versus("roc_auc", margin=0.0))
    assert evaluate(replace(made, champion=made.outputs)).verdict == "pass"


def test_rows_without_a_known_target_are_left_out() -> None:
    made = case(gates=Gates((MetricGate("accuracy", minimum=0.1),)))
    truth = made.truth.astype(object)
    truth[:100] = None
    assert by_gate(evaluate(replace(made, truth=truth)))["accuracy.min"].n == 500


def test_repeated_keys_count_as_one_group() -> None:
    made = case(gates=Gates((MetricGate("accuracy", minimum=0.1),)), keys=np.arange(600) // 30)
    found = by_gate(evaluate(made))["accuracy.min"]
    assert found.verdict == "inconclusive"
    assert "20 of 30" in found.detail


def test_nan_answers_fail_metric_gates_and_the_contract() -> None:
    def ask(columns: dict[str, Array]) -> Columns:
        given = predict(columns)
        return {**given, "probability": np.where(columns["count"] > 6, np.nan, given["probability"])}

    made = case(gates=Gates((MetricGate("roc_auc", minimum=0.1),)), ask=ask)
    found = evaluate(replace(made, outputs=ask(dict(made.columns))))
    assert found.metrics == {}
    assert "NaN or infinite" in by_gate(found)["roc_auc.min"].detail
    assert "NaN or infinite" in by_gate(found)["contract.schema"].detail


def test_a_champion_is_compared_on_the_rows_it_could_answer() -> None:
    made = case(gates=versus())
    champion = dict(noisy(made.columns, 0.0, 1))
    champion["probability"] = np.where(np.arange(600) < 200, np.nan, champion["probability"])
    assert by_gate(evaluate(replace(made, champion=champion)))["log_loss.vs_champion"].n == 400


def _raises(columns: dict[str, Array]) -> Columns:
    raise RuntimeError("no such tree")


def _wrong_name(columns: dict[str, Array]) -> Columns:
    return {"label": predict(columns)["label"], "score": predict(columns)["probability"]}


def _wrong_type(columns: dict[str, Array]) -> Columns:
    return {**predict(columns), "label": predict(columns)["probability"]}


def _wrong_shape(columns: dict[str, Array]) -> Columns:
    return {**predict(columns), "probability": np.asarray(predict(columns)["probability"])[:, None]}


def _outside(columns: dict[str, Array]) -> Columns:
    return {**predict(columns), "probability": np.asarray(predict(columns)["probability"]) * 3}


def _looks_around(columns: dict[str, Array]) -> Columns:
    given = predict(columns)
    probability = np.asarray(given["probability"])
    return {**given, "probability": probability / 2 + probability.mean() / 3}


def _by_place(columns: dict[str, Array]) -> Columns:
    given = predict(columns)
    probability = np.asarray(given["probability"])
    return {**given, "probability": probability * np.linspace(0.9, 1, len(probability))}


def _hates_missing(columns: dict[str, Array]) -> Columns:
    if all(k is None for k in columns["kind"].tolist()) and len(columns["kind"]) > 1:
        raise ValueError("cannot encode None")
    return predict(columns)


def _dice() -> Callable[[dict[str, Array]], Columns]:
    rng = np.random.default_rng(0)

    def ask(columns: dict[str, Array]) -> Columns:
        probability = rng.random(len(columns["x"]))
        return {"label": probability > 0.5, "probability": probability}

    return ask


@pytest.mark.parametrize(
    ("ask", "gate", "words"),
    [
        (_raises, "contract.schema", "the model raised RuntimeError: no such tree"),
        (_wrong_name, "contract.schema", "answers label, score; the schema says label, probability"),
        (_wrong_type, "contract.schema", "label is float64, not BOOL"),
        (_wrong_shape, "contract.schema", "probability has shape [256, 1], not [256]"),
        (_outside, "contract.schema", "probability leaves [0, 1]"),
        (_dice(), "contract.deterministic", "differs between two runs"),
        (_looks_around, "contract.single", "alone than in a batch"),
        (_by_place, "contract.order", "when the rows are reversed"),
        (_hates_missing, "contract.missing", "with kind missing: ValueError: cannot encode None"),
    ],
)
def test_a_broken_promise_fails_its_contract_gate_and_says_how(ask: Predict, gate: str, words: str) -> None:
    found = evaluate(case(ask=ask))
    assert found.verdict == "fail"
    assert words in by_gate(found)[gate].detail


def test_a_model_that_writes_into_its_inputs_spoils_no_other_test() -> None:
    def ask(columns: dict[str, Array]) -> Columns:
        given = predict(columns)
        columns["x"][:] = 99.0
        return given

    made = case(ask=ask)
    before = made.columns["x"].copy()
    assert evaluate(made).verdict == "pass"
    assert np.array_equal(made.columns["x"], before, equal_nan=True)


def test_no_holdout_rows_are_not_enough_data_for_anything() -> None:
    found = evaluate(case(0, gates=Gates((MetricGate("roc_auc", minimum=0.6),))))
    assert found.verdict == "inconclusive"
    assert {r.verdict for r in found.results} == {"inconclusive"}


def test_a_holdout_without_an_input_column_fails_the_contract() -> None:
    made = case()
    found = evaluate(replace(made, columns={k: v for k, v in made.columns.items() if k != "kind"}))
    assert "no column kind" in by_gate(found)["contract.schema"].detail


def test_unequal_lengths_are_the_datas_fault() -> None:
    with pytest.raises(DataError, match="x has 600 rows, late has 599"):
        evaluate(replace(case(), truth=case().truth[:-1]))


@pytest.mark.parametrize(
    ("inputs", "expect", "verdict", "words"),
    [
        ({"x": 3.0, "kind": "a", "count": 1}, {"label": True, "probability": [0.9, 1.0]}, "pass", "probability 0.92"),
        ({"x": 3.0, "count": 1}, {"label": True}, "pass", "label True"),
        ({"x": -3.0, "count": 1}, {"label": True}, "fail", "label is False, not True"),
        ({"x": 3.0, "count": 1}, {"probability": [0.0, 0.5]}, "fail", "not in [0, 0.5]"),
        ({"x": 3.0, "count": 1}, {"probability": 0.5}, "fail", "not 0.5"),
        ({"x": 3.0}, {"label": True}, "fail", "count may not be missing"),
        ({"y": 3.0, "count": 1}, {"label": True}, "fail", "y is not an input"),
        ({"x": "much", "count": 1}, {"label": True}, "fail", "x is FP64; 'much' is not"),
        ({"x": 3.0, "count": 1}, {"score": 1}, "fail", "score is not an output"),
    ],
)
def test_examples_hold_the_model_to_what_the_user_wrote(
    inputs: dict[str, Any], expect: dict[str, Any], verdict: str, words: str
) -> None:
    example = ExampleGate(tuple(inputs.items()), tuple(expect.items()))
    found = by_gate(evaluate(case(gates=Gates(examples=(example,)))))["examples.1"]
    assert found.verdict == verdict
    assert words in found.detail


def test_size_is_what_would_serve() -> None:
    assert evaluate(case(gates=Gates(size=1000))).verdict == "pass"
    assert by_gate(evaluate(case(gates=Gates(size=999))))["size"].detail == "1,000 of 999 bytes"


def test_regression_and_multiclass_go_the_same_way() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=400)
    line = case(
        400, task="regression", target="y", classes=None, columns={"x": x}, truth=2 * x + rng.normal(size=400),
        schema=Schema((Field("x", "FP64"),), outputs_of("regression", "y", "FP64", 0)),
        outputs={"y": 2 * x}, champion={"y": 2 * x + rng.normal(0, 1, 400)},
        ask=lambda c: {"y": 2 * np.nan_to_num(c["x"])}, gates=versus("rmse"),
    )  # fmt: skip
    assert evaluate(line).verdict == "pass"

    classes = ("p", "q", "r")

    def ask(c: dict[str, Array]) -> Columns:
        raw = np.exp(np.nan_to_num(c["x"])[:, None] * np.array([-1.0, 0.0, 1.0]))
        score = raw / raw.sum(axis=1, keepdims=True)
        return {"label": np.array(classes, dtype=object)[score.argmax(axis=1)], "probability": score}

    def draw(row: Array) -> str:
        return str(rng.choice(classes, p=row))

    probability = np.asarray(ask({"x": x})["probability"])
    truth = np.array([draw(row) for row in probability], dtype=object)
    example = ExampleGate((("x", 2.0),), (("label", "r"), ("probability", {"r": [0.5, 1.0], "p": [0.0, 0.1]})))
    three = replace(
        line, task="multiclass", target="t", classes=classes, truth=truth, predict=ask, outputs=ask({"x": x}),
        schema=Schema((Field("x", "FP64"),), outputs_of("multiclass", "t", "BYTES", 3)),
        gates=Gates((MetricGate("log_loss", vs_champion=True),), (example,)),
        # the champion knew its classes in another order
        champion={"label": ask({"x": x})["label"], "probability": probability[:, ::-1]}, champion_classes=classes[::-1],
    )  # fmt: skip
    found = evaluate(three)
    assert found.verdict == "pass"
    assert by_gate(found)["log_loss.vs_champion"].estimate == 0.0


def family(challenger: float, members: int = 16) -> dict[str, Evaluation]:
    found = {}
    for seed in range(members):
        made = case(250, seed=seed, gates=versus(on_inconclusive="pooled"))
        both = {
            "outputs": noisy(made.columns, challenger, seed + 100),
            "champion": noisy(made.columns, 0.25, seed + 500),
        }
        found[f"m{seed:02}"] = evaluate(replace(made, **both))  # type: ignore[arg-type]
    return found


def test_a_family_settles_what_its_members_could_not() -> None:
    members = family(0.25)
    waiting = [name for name, e in members.items() if e.waits_for_family]
    assert len(waiting) > 4
    settled = pool(members, np.random.default_rng(0))
    assert {settled[name].verdict for name in waiting} == {"pass"}
    assert "family of 16" in by_gate_of(settled[waiting[0]].results).detail
    assert settled == pool(dict(reversed(members.items())), np.random.default_rng(0))


def test_a_worse_family_stays_with_its_champions() -> None:
    settled = pool(family(0.8), np.random.default_rng(0))
    assert "pass" not in {p.verdict for p in settled.values()}


def test_one_broken_member_does_not_ride_on_its_family() -> None:
    members = family(0.25)
    made = case(250, seed=99, gates=versus(on_inconclusive="pooled"))
    members["broken"] = evaluate(
        replace(made, outputs=noisy(made.columns, 4.0, 1), champion=noisy(made.columns, 0.25, 2))
    )
    assert pool(members, np.random.default_rng(0))["broken"].verdict == "fail"


def test_members_can_be_pooled_from_their_recorded_results() -> None:
    members = family(0.25)
    recorded = {
        name: Evaluation(tuple(GateResult.from_json(r.to_json()) for r in e.results), e.verdict, {})
        for name, e in members.items()
    }
    assert pool(recorded, np.random.default_rng(0)) == pool(members, np.random.default_rng(0))


def test_a_gate_that_keeps_its_champion_is_never_pooled() -> None:
    made = case(250, gates=versus(on_inconclusive="keep"))
    found = evaluate(replace(made, outputs=noisy(made.columns, 0.3, 1), champion=noisy(made.columns, 0.3, 2)))
    assert found.verdict == "inconclusive"
    assert not found.waits_for_family
    assert pool({"a": found, "b": found}, np.random.default_rng(0))["a"].verdict == "inconclusive"


def by_gate_of(results: tuple[GateResult, ...]) -> GateResult:
    return next(r for r in results if r.gate == "log_loss.vs_champion")
