"""What `retinue test` found, in words and as JSON. No I/O."""

from __future__ import annotations

from collections import Counter
from typing import Any

from retinue.cli.words import count, table, took
from retinue.control.live_tests import LiveReport, ModelVerdict
from retinue.core.gates import GateResult, describe
from retinue.core.identity import short

Json = Any
SHOWN = 50  # models in the table; those with trouble are always listed


def render_test(report: LiveReport) -> str:
    """A table of verdicts, what did not pass in full, and the sum."""
    if not report.models:
        return "No model is chosen: nothing was tested.\n"
    blocks = [_table(report), *[_trouble(m) for m in report.models if m.status != "passed"], [_sum(report)]]
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


def report_json(report: LiveReport) -> dict[str, Json]:
    """The report as plain values."""
    return {
        "portfolio": report.portfolio,
        "stage": report.stage,
        "release": report.release,
        "failed": report.failed,
        "started": report.started,
        "seconds": report.seconds,
        "models": [
            {
                "model": m.model,
                "status": m.status,
                "version": m.version,
                "text": m.text,
                "seconds": m.seconds,
                "error": {"message": m.error.message, "where": m.error.where, "hint": m.error.hint}
                if m.error
                else None,
                "gates": [r.to_json() for r in m.results],
            }
            for m in report.models
        ],
    }


def _table(report: LiveReport) -> list[str]:
    shown = list(report.models)
    if len(shown) > SHOWN:
        shown = [m for m in shown if m.status != "passed"]
    rows = [
        (m.model, short(m.version) if m.version else "", m.status, _numbers(m), took(m.seconds) if m.version else "")
        for m in shown
    ]
    head = f"{report.portfolio} → stage {report.stage}, release {report.release}:"
    left = len(report.models) - len(shown)
    return [head, *table(rows), *([f"  and {count(left, 'model')} that passed"] if left else [])]


def _numbers(verdict: ModelVerdict) -> str:
    """16 passed, 1 failed."""
    words = {"pass": "passed", "fail": "failed", "inconclusive": "not enough data"}
    numbers = Counter[str](r.verdict for r in verdict.results)
    parts = [f"{numbers[v]} {word}" for v, word in words.items() if numbers[v]]
    return ", ".join(parts) or verdict.text


def _trouble(verdict: ModelVerdict) -> list[str]:
    if verdict.status == "not live":
        return []
    lines = [f"{verdict.model}: {verdict.status}"]
    if verdict.error is not None:
        place = f"{verdict.error.where}: " if verdict.error.where else ""
        lines.append(f"  {place}{verdict.error.message}")
        lines += [f"  hint: {verdict.error.hint}"] if verdict.error.hint else []
    return lines + [f"  {_line(r)}" for r in verdict.results if r.verdict != "pass"]


def _line(result: GateResult) -> str:
    return describe(result)


def _sum(report: LiveReport) -> str:
    numbers = Counter(m.status for m in report.models)
    order = ("passed", "failed", "error", "not enough data", "not live")
    parts = ", ".join(f"{numbers[s]} {s}" for s in order if numbers[s])
    return f"{count(len(report.models), 'model')}: {parts} in {took(report.seconds)}. Nothing was recorded."
