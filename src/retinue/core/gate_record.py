"""How gates are recorded and digested, and which of a newer record are easier to pass.

What is left at its default leaves no trace, so that portfolios without further gates keep the digests they always had.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from retinue.core.gate_specs import FURTHER
from retinue.core.portfolio import Gates

Json = Any


def gates_body(gates: Gates) -> dict[str, Json]:
    """The gates as JSON-like values (tuples stay): metrics, examples and size always, the others where asked for."""
    body = asdict(gates)
    return {name: value for name, value in body.items() if name not in FURTHER or value not in (None, ())}


def asked_columns(gates: Gates) -> tuple[str, ...]:
    """The columns that slices and fairness group by, each once, sorted."""
    return tuple(sorted({c for s in gates.slices for c in s.by} | {c for f in gates.fairness for c in f.by}))


# ── weaker than before ──────────────────────────────────────────────────────────────────────────────────────


def weaker(old: Mapping[str, Json], new: Mapping[str, Json]) -> list[str]:
    """A text per further gate that was deleted or made easier to pass; both are recorded bodies."""
    texts = []
    for name in ("slices", "fairness"):
        after = [_named(gate) for gate in new.get(name, ())]
        for gate in old.get(name, ()):
            key, label = _named(gate), f"{name} of {gate['metric']} by {', '.join(gate['by'])}"
            if key not in after:
                texts.append(f"gate {label} deleted")
                continue
            texts += _looser(label, gate, new[name][after.index(key)], ("worst", "gap", "min_rows"))
    for name, bounds in (
        ("latency", ("p50", "p99", "vs_champion")),
        ("calibration", ("ece",)),
        ("robustness", ("bound",)),
    ):
        before, now = old.get(name), new.get(name)
        if before is not None:
            texts += [f"gate {name} deleted"] if now is None else _looser(name, before, now, bounds)
    before, now = old.get("robustness"), new.get("robustness")
    if before is not None and now is not None:
        less_noise = before["noise"] is not None and (now["noise"] is None or now["noise"] < before["noise"])
        if less_noise or (before["extremes"] and not now["extremes"]):
            texts.append("gate robustness probes less")
    if old.get("memory") is not None and (new.get("memory") is None or new["memory"] > old["memory"]):
        texts.append("gate memory weakened")
    paths = {test["path"] for test in new.get("pytest", ())}
    texts += [f"tests {test['path']} deleted" for test in old.get("pytest", ()) if test["path"] not in paths]
    return texts


def _named(gate: Mapping[str, Json]) -> tuple[tuple[str, ...], str]:
    return tuple(gate["by"]), gate["metric"]


def _looser(label: str, old: Mapping[str, Json], new: Mapping[str, Json], bounds: tuple[str, ...]) -> list[str]:
    """What of one gate is looser: larger bounds, dropped ones, and an undecided outcome that passes now."""
    texts = []
    if old.get("relative") != new.get("relative"):
        return [f"gate {label} is measured otherwise"]
    for bound in bounds:
        before, now = old.get(bound), new.get(bound)
        if before is not None and (now is None or now > before):
            texts.append(f"gate {label} {bound} {before} → {now}")
    if old["on_inconclusive"] == "keep" and new["on_inconclusive"] == "pass":
        texts.append(f"gate {label} passes when undecided")
    return texts
