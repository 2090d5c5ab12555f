"""The further gates on real predict functions, and what the recorded body of gates is."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from retinue.build.contract import Columns
from retinue.build.evaluate import Case
from retinue.build.further import Around, further_results
from retinue.build.timing import Quiet, Timed
from retinue.core.contract import Field, Schema, outputs_of
from retinue.core.gate_record import gates_body, weaker
from retinue.core.gate_specs import (
    CalibrationGate,
    FairnessGate,
    LatencyGate,
    RobustnessGate,
    SliceGate,
)
from retinue.core.gates import GateResult, describe, gates_digest
from retinue.core.portfolio import Gates, MetricGate

Array = NDArray[Any]
SCHEMA = Schema((Field("x", "FP64"), Field("count", "INT64", nullable=False)), outputs_of("binary", "late", "BOOL", 2))


def predict(columns: dict[str, Array]) -> Columns:
    probability = 1 / (1 + np.exp(-np.nan_to_num(np.clip(columns["x"], -3, 3))))
    return {"label": probability > 0.5, "probability": probability}


def judged(gates: Gates, n: int = 2000, timed: Timed | None = None, weight: int | None = 1000) -> dict[str, GateResult]:
    rng = np.random.default_rng(0)
    columns: dict[str, Array] = {"x": rng.normal(size=n), "count": rng.integers(0, 9, n)}
    found = predict(columns)
    truth = rng.random(n) < found["probability"]
    group = np.where(columns["x"] > 0, "high", "low").astype(object)
    case = Case(gates, "binary", "late", (False, True), SCHEMA, columns, truth, found, predict, 1, 0)
    nothing = Timed(np.empty(0), np.empty(0), why="not measured: no runtime")
    where = Around({"group": group, "kind": np.array(["a", "b"] * (n // 2), dtype=object)},
                   lambda: timed or nothing, lambda: weight, lambda tests: [])  # fmt: skip
    return {r.gate: r for r in further_results(case, where)}


def test_no_further_gate_gives_no_result() -> None:
    assert judged(Gates(size=1)) == {}


def test_an_honest_model_passes_what_it_should_and_each_verdict_tells_its_numbers() -> None:
    found = judged(
        Gates(
            slices=(SliceGate(("kind",), "log_loss", 1.5),),
            calibration=CalibrationGate(0.1),
            fairness=(FairnessGate(("kind",), "tpr", 0.2),),
            robustness=RobustnessGate(0.05, noise=0.01, extremes=True),
            memory=2000,
        )
    )
    assert {name: r.verdict for name, r in found.items()} == {
        "memory": "pass",
        "slices.kind": "pass",
        "fairness.kind": "pass",
        "calibration.ece": "pass",
        "robustness.noise": "pass",
        "robustness.extremes": "pass",
    }
    for name in ("slices.kind", "fairness.kind", "calibration.ece", "robustness.noise"):
        result = found[name]
        assert None not in (result.estimate, result.low, result.high, result.threshold)
        assert result.n
        assert result.method
        assert GateResult.from_json(result.to_json()) == result
    assert "≤ 0.10" in describe(found["calibration.ece"])


def test_groups_that_are_selected_apart_fail_and_are_named() -> None:
    found = judged(Gates(fairness=(FairnessGate(("group",), "selection_rate", 0.1),)))["fairness.group"]
    assert found.verdict == "fail"
    assert "0.000 (low) to 1.000 (high)" in found.detail


def test_too_little_is_told_as_not_enough_data_and_passes_where_the_file_says_so() -> None:
    gates = Gates(
        slices=(SliceGate(("kind",), "log_loss", 1.5, min_rows=100),),
        calibration=CalibrationGate(0.1),
        fairness=(FairnessGate(("kind",), "tpr", 0.2),),
        robustness=RobustnessGate(0.05, noise=0.01),
        latency=LatencyGate(p99=0.005),
        memory=2000,
    )
    found = judged(gates, n=40, weight=None)
    assert {r.verdict for r in found.values()} == {"inconclusive"}
    assert all("not enough data" in r.detail or "not measured" in r.detail for r in found.values())
    lenient = replace(gates, calibration=CalibrationGate(0.1, "pass"))
    assert judged(lenient, n=40)["calibration.ece"].verdict == "pass"


def test_noise_that_moves_answers_beyond_the_bound_fails() -> None:
    found = judged(Gates(robustness=RobustnessGate(0.001, noise=0.5)))["robustness.noise"]
    assert found.verdict == "fail"
    assert found.low is not None
    assert found.low > 0.001


@pytest.mark.parametrize(("factor", "verdict"), [(1.0, "pass"), (2.0, "fail"), (1.2, "inconclusive")])
def test_latency_is_judged_against_the_champion_by_paired_blocks(factor: float, verdict: str) -> None:
    rng = np.random.default_rng(1)
    noise = rng.lognormal(0, 0.5, 40)  # the machine, the same for both in one block
    own = noise * factor * rng.lognormal(0, 0.02 if factor != 1.2 else 0.5, 40) * 1e-4
    timed = Timed(rng.exponential(1e-4, 2000), own, noise * 1e-4)
    found = judged(Gates(latency=LatencyGate(p50=0.001, vs_champion=1.2)), timed=timed)
    assert found["latency.vs_champion"].verdict == verdict
    assert found["latency.p50"].verdict == "pass"


def test_who_measures_is_alone() -> None:
    quiet, seen, at_work = Quiet(), list[int](), list[int]()

    def work(number: int) -> None:
        with quiet.busy():
            at_work.append(number)
            time.sleep(0.01)
            at_work.remove(number)
            with quiet.alone():
                seen.append(len(at_work))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [0] * 6


# ── records ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_gates_of_before_keep_the_digest_they_had() -> None:
    gates = Gates((MetricGate("roc_auc", minimum=0.6),), size=20_000_000)
    assert set(gates_body(gates)) == {"metrics", "examples", "size"}
    assert gates_digest(gates, "binary") == "958419b11a9d1865fc590cecda1dc80dbaccd8f434d887c57ad3e08e4d5a4368"
    assert gates_digest(replace(gates, memory=1), "binary") != gates_digest(gates, "binary")


def test_deleting_or_loosening_a_further_gate_is_told() -> None:
    full = gates_body(
        Gates(
            slices=(SliceGate(("dest",), "log_loss", 1.5),),
            latency=LatencyGate(p99=0.005),
            memory=100,
            calibration=CalibrationGate(0.05),
            robustness=RobustnessGate(0.1, noise=0.01),
        )
    )
    nothing = gates_body(Gates())
    assert len(weaker(full, nothing)) == 5
    assert weaker(nothing, full) == []
    assert weaker(full, full) == []
    looser = {**full, "latency": {**full["latency"], "p99": 0.01}}
    assert weaker(full, looser) == ["gate latency p99 0.005 → 0.01"]
    assert weaker(looser, full) == []


def test_a_stopwatch_times_what_is_served(tmp_path: Path) -> None:
    from onnx import TensorProto, helper

    from retinue.build.timing import Clocked, measure

    ends = [helper.make_tensor_value_info(name, TensorProto.DOUBLE, [None, 1]) for name in ("X", "Y")]
    graph = helper.make_graph([helper.make_node("Identity", ["X"], ["Y"])], "same", ends[:1], ends[1:])
    body = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = tmp_path / "m.onnx"
    path.write_bytes(body.SerializeToString())
    signature = {
        "task": "regression", "target": "y", "classes": None, "container": "array", "trusted": [],
        "inputs": [{"name": "x", "dtype": "FP64", "nullable": False, "width": 1}],
        "outputs": [{"name": "y", "dtype": "FP64", "nullable": False, "width": 1}],
        "onnx": {"inputs": [{"name": "X", "features": ["x"], "dtype": "FP64"}], "outputs": {"y": "Y"}},
    }  # fmt: skip
    clocked = Clocked(path, "onnx", signature, Path("unused"), {"x": np.arange(4.0)})
    found = measure(clocked, clocked, tmp_path)
    assert found.why == ""
    assert len(found.seconds) == 2000
    assert found.rival is not None
    assert len(found.rival) == len(found.blocks) == 40
    broken = measure(replace(clocked, path=tmp_path / "none.onnx"), None, tmp_path)
    assert "not measured" in broken.why
