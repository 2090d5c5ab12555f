"""What the further gates of a portfolio file ask: slices, latency, calibration, fairness, robustness, the user's tests.

`gates_body` is how gates are recorded and digested: what is left at its default leaves no trace, so that portfolios
without these gates keep the digests they always had.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    from retinue.core.portfolio import Gates

Json = Any
Undecided = Literal["keep", "pass"]

Rate = Literal["selection_rate", "tpr", "fpr", "tnr", "fnr", "precision", "accuracy"]
RATES: tuple[str, ...] = get_args(Rate)
"""The rates a fairness gate may compare: of yes answers, of yes among the true, among the false, and so on."""

NOT_IN_SLICES = frozenset({"average_precision", "median_ae", "ece"})
"""Metrics without a linear form, which a test of every slice at once needs."""


@dataclass(frozen=True, slots=True)
class SliceGate:
    """No group of rows (`by`: the combination of these columns' values) may be much worse than all rows together.

    `worst` is a factor on the loss when `relative` (1.5: at most half as bad again), else a margin in the metric's
    unit. Groups below `min_rows` are told as not enough data.
    """

    by: tuple[str, ...]
    metric: str
    worst: float
    relative: bool = True
    min_rows: int = 100
    on_inconclusive: Undecided = "keep"


@dataclass(frozen=True, slots=True)
class LatencyGate:
    """Seconds of a call with one row; `vs_champion` is how many times the champion's median it may take."""

    p50: float | None = None
    p99: float | None = None
    vs_champion: float | None = None
    on_inconclusive: Undecided = "keep"


@dataclass(frozen=True, slots=True)
class CalibrationGate:
    """Largest expected calibration error."""

    ece: float
    on_inconclusive: Undecided = "keep"


@dataclass(frozen=True, slots=True)
class FairnessGate:
    """Largest difference of a rate between any two groups of rows."""

    by: tuple[str, ...]
    metric: Rate
    gap: float
    min_rows: int = 30
    on_inconclusive: Undecided = "keep"


@dataclass(frozen=True, slots=True)
class RobustnessGate:
    """How far little noise (a share of each input's spread) and inputs beyond the seen range may move the answer.

    `bound` is in the output's unit, or a share of the spread of its answers when `relative`.
    """

    bound: float
    relative: bool = False
    noise: float | None = None
    extremes: bool = False
    on_inconclusive: Undecided = "keep"


@dataclass(frozen=True, slots=True)
class TestFile:
    """A pytest file of the user: where it stands beside the portfolio, and the digest of what it says."""

    __test__ = False  # not one of pytest's own classes

    path: str
    digest: str


FURTHER = ("slices", "latency", "memory", "calibration", "fairness", "robustness", "pytest")
"""Fields of `Gates` that leave no trace at their defaults."""


def gates_body(gates: Gates) -> dict[str, Json]:
    """The gates as JSON-like values (tuples stay): metrics, examples and size always, the others where asked for."""
    body = asdict(gates)
    return {name: value for name, value in body.items() if name not in FURTHER or value not in (None, ())}


def asked_columns(gates: Gates) -> tuple[str, ...]:
    """The columns that slices and fairness group by, each once, sorted."""
    return tuple(sorted({c for gate in (*gates.slices, *gates.fairness) for c in gate.by}))


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
