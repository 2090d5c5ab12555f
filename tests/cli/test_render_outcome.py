"""What a person reads after an apply."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from retinue.cli.facts import outcome_json
from retinue.cli.progress import Progress
from retinue.cli.render_outcome import key_gate, render_outcome
from retinue.control.events import Event, ModelResult, Outcome
from retinue.core.errors import TrainingError
from retinue.core.gates import GateResult
from retinue.core.plan import Plan, Route
from retinue.core.state import Verdict

FIRST = Plan("flights", "prod", None, (Route("late", "add", "late-{origin}-{carrier}"),))
LATER = Plan("flights", "staging", 811, ())


def version(name: str) -> str:
    return (name.encode().hex() * 16)[:64]


def gate(verdict: Verdict, name: str = "roc_auc.min", **more: Any) -> Mapping[str, Any]:
    values = {"estimate": 0.61, "low": 0.57, "high": 0.65, "n": 812, "threshold": 0.6, **more}
    return GateResult(name, name.partition(".")[0], verdict, **values).to_json()


SECONDS = {"gate": "build.seconds", "metric": "", "verdict": "pass", "estimate": 2.1}
FAILED = TrainingError(
    "flights/late.py:14: in train\n    model.fit(rows[\"hour\"])\nKeyError: 'hour'",
    where="late-EWR-UA",
    hint="Correct the training function, then run `retinue apply` again; nothing else was stopped.",
)
WORSE = gate("fail", "log_loss.vs_champion", estimate=0.031, low=0.018, high=0.044, threshold=0.01, champion=0.42)

OUTCOMES: dict[str, tuple[Outcome, Plan]] = {
    "first_release": (
        Outcome(
            "p",
            1,
            None,
            tuple(ModelResult(m, "built", "", version(m), 2.0, None, (gate("pass"), SECONDS)) for m in ("a", "b")),
            1,
            38.2,
        ),
        FIRST,
    ),
    "partly_failed": (
        Outcome(
            "p",
            812,
            811,
            (
                *(ModelResult(f"late-{n}", "built", "", version(n), 2.0) for n in ("JFK-B6", "JFK-DL")),
                ModelResult("late-EWR-UA", "failed", str(FAILED), None, 0.4, FAILED),
                ModelResult("eta-a", "skipped", "because of late-EWR-UA"),
                ModelResult("eta-b", "skipped", "because of late-EWR-UA"),
                ModelResult("late-LGA-AA", "regated", "", version("x"), 1.0),
            ),
            None,
            61.0,
        ),
        LATER,
    ),
    "held_by_gates": (
        Outcome(
            "p",
            None,
            811,
            (
                ModelResult("late-JFK-B6", "gate failed", "", version("b6"), 2.0, None, (WORSE, gate("pass"))),
                ModelResult(
                    "late-JFK-VX",
                    "inconclusive",
                    "",
                    version("vx"),
                    2.0,
                    None,
                    (gate("inconclusive", n=21, detail="not enough data: 21 of 30 rows"),),
                ),
                ModelResult("congestion", "gate failed", "late-global does not pass its gates with it", version("c")),
            ),
            None,
            12.4,
        ),
        LATER,
    ),
    "settings_only": (Outcome("p", None, 811, (), 7, 0.1), LATER),
    "removal_only": (Outcome("p", 812, 811, (), None, 0.2), LATER),
    "all_failed_first": (
        Outcome("p", None, None, (ModelResult("late-EWR-UA", "failed", str(FAILED), None, 0.4, FAILED),), None, 0.6),
        FIRST,
    ),
}


@pytest.mark.parametrize("name", sorted(OUTCOMES))
def test_an_outcome_is_told_in_words(name: str, golden: Callable[[str, str], None]) -> None:
    outcome, plan = OUTCOMES[name]
    golden(f"outcome_{name}", render_outcome(outcome, plan, plan.stage))


@pytest.mark.parametrize("name", sorted(OUTCOMES))
def test_the_json_twin_names_the_same_models_release_and_hints(name: str) -> None:
    outcome, plan = OUTCOMES[name]
    body, text = outcome_json(outcome), render_outcome(outcome, plan, plan.stage)
    assert body["release"] == outcome.release
    assert [m["model"] for m in body["models"]] == [m.model for m in outcome.models]
    for model in body["models"]:
        if model["error"] is not None:
            assert model["error"]["hint"] in text


def test_measurements_of_the_build_are_no_gates() -> None:
    assert key_gate([SECONDS, gate("pass")]).startswith("roc_auc 0.610 [0.570, 0.650] n=812")
    assert key_gate([SECONDS]) == ""


def test_the_gate_that_did_not_pass_is_the_one_worth_a_line() -> None:
    assert "fail" in key_gate([gate("pass"), WORSE])


def test_off_a_terminal_each_finished_model_is_one_line_and_phases_are_none(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Progress(2) as progress:
        progress(Event("line", text="locking environment base"))
        progress(Event("start", "a"))
        progress(Event("phase", "a", "training on 400 rows"))
        progress(Event("end", "a", "", "built", 2.04))
        progress(Event("end", "b", "KeyError: 'hour'\nmore", "failed", 0.4))
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "locking environment base",
        "[1/2] a   built   2.0 s",
        "[2/2] b   failed   0.4 s   KeyError: 'hour'",
    ]
