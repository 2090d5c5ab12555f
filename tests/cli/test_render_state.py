"""What a person reads of what is recorded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, timedelta, timezone

from retinue.cli.render_predictions import failed_rows, render_predictions
from retinue.cli.render_state import (
    render_history,
    render_live_at,
    render_model_history,
    render_release,
    render_rollback,
    render_status,
)
from retinue.cli.render_version import (
    render_release_difference,
    render_story,
    render_version,
    render_version_difference,
)
from retinue.control.telling import (
    Change,
    Failing,
    ReleaseDifference,
    Status,
    Story,
    Told,
    VersionDifference,
)
from retinue.core.gates import GateResult
from retinue.core.plan import Why
from retinue.core.state import (
    ApplyRecord,
    Definition,
    Entry,
    Evidence,
    HistoryRow,
    Hold,
    Lease,
    Release,
    Snapshot,
    Version,
)

BERLIN = timezone(timedelta(hours=1), "CET")
T0, T1, T2 = (f"2026-01-31T{hour}:30:00.000000Z" for hour in ("09", "12", "15"))
FAMILY = "late-{origin}-{carrier}"
MODELS = ("congestion", "late-JFK-B6", "late-JFK-DL", "late-global")


def version_id(name: str) -> str:
    return (name.encode().hex() * 16)[:64]


def release(number: int, versions: dict[str, str], created: str, cause: str = "apply", why: str = "") -> Release:
    entries = {m: Entry(version_id(v)) for m, v in versions.items()}
    route = {"select": FAMILY, "fallback": "late-global", "fallback_when": ["unknown"]}
    parent = number - 1 or None
    return Release("flights", "prod", number, entries, {"late": route}, (), parent, cause, why, "ada", None, created)


R1 = release(1, {m: f"1{m}" for m in MODELS}, T0, why="first")
R2 = release(2, {m: f"1{m}" for m in MODELS} | {"congestion": "2c", "late-JFK-B6": "2b"}, T1, why="deeper trees")
R3 = release(3, {m: f"1{m}" for m in MODELS} | {"congestion": "2c"}, T2, "rollback", "complaints")
ROWS = [
    HistoryRow(3, "late-JFK-B6", version_id("2b"), version_id("1late-JFK-B6"), "rollback", "complaints", "ada", T2),
    HistoryRow(2, "congestion", version_id("1congestion"), version_id("2c"), "apply", "deeper trees", "ada", T1),
    HistoryRow(2, "late-JFK-B6", version_id("1late-JFK-B6"), version_id("2b"), "apply", "deeper trees", "ada", T1),
    *(HistoryRow(1, m, None, version_id(f"1{m}"), "apply", "first", "ada", T0) for m in MODELS),
]
DEEPER = (Why("PARAMS", "max_iter 60 → 120"),)
CHANGES = [
    Change(
        row.model,
        FAMILY if row.model in ("late-JFK-B6", "late-JFK-DL") else None,
        row.old,
        row.new,
        DEEPER if row.old and row.model != "congestion" else (),
    )
    for row in ROWS
]
MEMBER_ROWS = [r for r in ROWS if r.model == "late-JFK-B6"]
MEMBER_CHANGES = [c for c in CHANGES if c.model == "late-JFK-B6"]
HOLD = Hold("flights", "prod", "late-JFK-B6", "d", "s", version_id("2b"), "rollback", "complaints", "g", T2, 1, 3)
PASS = GateResult("roc_auc.min", "roc_auc", "pass", 0.61, 0.57, 0.65, 812, 0.52).to_json()
FAIL = GateResult("roc_auc.min", "roc_auc", "fail", 0.49, 0.44, 0.53, 812, 0.52).to_json()
STATUS = Status(
    portfolio="flights",
    stage="prod",
    stages={"prod": 3, "dev": 9},
    release=R3,
    families={"": ("congestion", "late-global"), FAMILY: ("late-JFK-B6", "late-JFK-DL")},
    holds=(HOLD,),
    failing=(),
    leases=(),
    running=(),
    last_apply=None,
    settings=4,
)
SERVER = {
    "url": "http://127.0.0.1:8080",
    "pid": 4711,
    "status": {
        "release": 3,
        "wanted": 3,
        "refused": None,
        "unavailable": {},
        "gateways": [{"requests": 9412, "errors": 3}, {"requests": 12, "errors": 0}],
    },
}


def told(name: str, body: dict[str, object], number: str, live: bool) -> Told:
    """A version of late-JFK-B6 with everything around it."""
    manifest = {
        "family": FAMILY,
        "key": [["origin", "JFK"], ["carrier", "B6"]],
        "needs": [{"model": "congestion", "output": "mean_delay", "column": "congestion", "inputs": {}}],
        "environment": version_id("env"),
        "rows": {"train": 9120, "holdout": 2280, "dropped": {}},
        "compiled": {"reason": "the compiled model is equal and faster", "parity": None},
        "artifact": {
            "format": "onnx",
            "size": 182_344,
            "digest": version_id("a"),
            "signature": {
                "inputs": [{"name": "hour", "dtype": "INT64"}, {"name": "dest", "dtype": "BYTES"}],
                "outputs": [{"name": "label", "dtype": "BOOL"}, {"name": "probability", "dtype": "FP64"}],
            },
        },
    }
    snapshot = {
        "cutoff": "2013-04-07 19:29:00",
        "sources": {"flights": f"2013-04-30 {number}:59:00", "weather": None},
        "tables": [],
        "upstreams": {"congestion": version_id("2c")},
    }
    declared = {"train": "flights.late:train", "code": {"flights/late.py": "x"}, "params": {"max_iter": 60}, **body}
    version = Version(version_id(name), "flights", "late-JFK-B6", version_id(name + "d"), version_id("s"), manifest, T0)
    seconds = {"gate": "build.seconds", "metric": "", "verdict": "pass", "estimate": 2.13}
    evidence = Evidence(version.id, {"congestion": version_id("2c")}, "g", "pass", (PASS, seconds), version_id("0"), T0)
    return Told(
        version,
        live,
        Definition(version.definition, "late-JFK-B6", declared, "b"),
        Snapshot(version.snapshot, snapshot),
        (evidence,),
    )


NOW = told("1late-JFK-B6", {}, "22", True)
NEXT = told("2b", {"params": {"max_iter": 120}}, "23", False)


def test_a_quiet_status(golden: Callable[[str, str], None]) -> None:
    golden("status_quiet", render_status(replace(STATUS, holds=(), stages={"prod": 3}), SERVER, None, UTC))


def test_a_status_with_everything_in_it(golden: Callable[[str, str], None]) -> None:
    failing = Failing("late-JFK-DL", version_id("1late-JFK-DL"), "fail", (FAIL, PASS))
    status = replace(
        STATUS,
        failing=(failing, Failing("late-global", version_id("1late-global"), "no evidence")),
        leases=(Lease("flights", "prod", MODELS, "ada@laptop pid 12", 4, T2),),
        running=(ApplyRecord("a", "flights", "prod", {}, "ada", "running", T2),),
        last_apply=ApplyRecord("b", "flights", "prod", {}, "ada", "interrupted", T1, T2, {"error": "killed"}),
    )
    body = {
        **SERVER["status"],  # type: ignore[dict-item]  # it is a dict
        "release": 2,
        "refused": {"release": 3, "why": "2 models cannot be loaded"},
        "unavailable": {"late-JFK-DL": "its file is damaged"},
    }
    golden("status_everything", render_status(status, {**SERVER, "status": body}, "Plan: 1 add, 0 retrain.", BERLIN))


def test_a_status_before_the_first_release(golden: Callable[[str, str], None]) -> None:
    empty = replace(STATUS, release=None, families={}, holds=(), stages={"dev": 9})
    golden("status_empty", render_status(empty, None, None, UTC))


def test_a_server_that_does_not_answer_is_said() -> None:
    silent = {"url": "http://127.0.0.1:8080", "pid": 1, "silent": "timed out"}
    assert "does not answer: timed out" in render_status(STATUS, silent, None, UTC)


def test_history_and_moments(golden: Callable[[str, str], None]) -> None:
    families = {"": ("congestion", "late-global"), FAMILY: ("late-JFK-B6", "late-JFK-DL")}
    golden(
        "history",
        "\n".join(
            [
                render_history(ROWS, [R3, R2, R1], CHANGES, BERLIN),
                render_model_history("late-JFK-B6", MEMBER_ROWS, MEMBER_CHANGES, BERLIN),
                render_release(R2, families, T2, BERLIN),
                render_live_at(R2, ["congestion"], T2, BERLIN),
                render_rollback(R2, R3, [HOLD]),
            ]
        ),
    )


def test_nothing_recorded_is_said_with_the_next_step() -> None:
    assert "retinue apply" in render_history([], [], [])
    assert "never" in render_model_history("x", [], [])


def test_show_why_and_diff(golden: Callable[[str, str], None]) -> None:
    story = Story(
        NOW, R3, ROWS[0], NEXT.version, (Why("PARAMS", "max_iter 120 → 60"),), NOW.evidence[0],
        {"congestion": version_id("2c")}, ("eta-acme",), (HOLD,),
    )  # fmt: skip
    difference = VersionDifference(
        NOW,
        NEXT,
        (Why("PARAMS", "max_iter 60 → 120"),),
        (("data until flights", "2013-04-30 22:59:00", "2013-04-30 23:59:00"), ("rows train", 9120, 9355)),
    )
    golden(
        "versions",
        "\n".join(
            [
                render_version(NOW, UTC),
                render_story(story, BERLIN),
                render_story(replace(story, landed=ROWS[-3], before=None, evidence=None, holds=()), BERLIN),
                render_version_difference(difference, UTC),
                render_release_difference(ReleaseDifference(R1, R3, (CHANGES[1],), {}), UTC),
                render_release_difference(ReleaseDifference(R1, R1, (), {}), UTC),
            ]
        ),
    )


def test_predictions_say_which_version_answered(golden: Callable[[str, str], None]) -> None:
    answers = {
        "predictions": [{"label": True, "probability": 0.7312345678}, {"error": "unknown origin"}, 12.5],
        "models": [
            {"model": "late-JFK-B6", "version": version_id("2b")},
            None,
            {"model": "late-global", "version": version_id("1"), "fallback": True},
        ],
        "release": 3,
    }
    assert failed_rows(answers) == 1
    golden("predictions", render_predictions(answers))
