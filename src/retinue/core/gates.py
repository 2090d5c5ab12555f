"""Gates as values and decisions: which metrics exist, what a result is, when it passes, how it is told.

Nothing here computes a number from rows (that is `core/stats`), so nothing here needs numpy: the loader and
`plan` read metric names and digests from this file and stay light.

Differences are always *losses*: positive means the challenger is worse, whatever the metric's direction.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from retinue.core.contract import Task
from retinue.core.gate_record import gates_body
from retinue.core.gate_specs import FURTHER
from retinue.core.identity import digest
from retinue.core.portfolio import Gates, MetricGate
from retinue.core.state import Verdict

Json = Any
OnInconclusive = Literal["pooled", "keep", "pass"]

MINIMUM_ROWS = 30
"""Below so many rows (or groups of rows, where a key repeats) a metric gate says "not enough data"."""

MINIMUM_OF_CLASS = 5
"""Below so many rows of either class a ranking metric says "not enough data"."""

ALPHA = 0.05
"""One-sided level of both bounds of a comparison; an own interval is two-sided at 95 %."""


@dataclass(frozen=True, slots=True)
class MetricInfo:
    """What the file may say of a metric. `per_row`: it is the mean of one loss per row; `reads`: which output."""

    name: str
    tasks: tuple[Task, ...]
    higher_is_better: bool
    per_row: bool
    reads: Literal["value", "label", "probability"]
    both_classes: bool = False  # undefined when the rows hold one class only


METRICS: Mapping[str, MetricInfo] = {
    info.name: info
    for info in (
        MetricInfo("roc_auc", ("binary",), True, False, "probability", both_classes=True),
        MetricInfo("log_loss", ("binary", "multiclass"), False, True, "probability"),
        MetricInfo("brier", ("binary",), False, True, "probability"),
        MetricInfo("accuracy", ("binary", "multiclass"), True, True, "label"),
        MetricInfo("precision", ("binary",), True, False, "label"),
        MetricInfo("recall", ("binary",), True, False, "label"),
        MetricInfo("f1", ("binary",), True, False, "label"),
        MetricInfo("average_precision", ("binary",), True, False, "probability", both_classes=True),
        MetricInfo("ece", ("binary",), False, False, "probability"),
        MetricInfo("f1_macro", ("multiclass",), True, False, "label"),
        MetricInfo("mae", ("regression", "forecast"), False, True, "value"),
        MetricInfo("rmse", ("regression", "forecast"), False, False, "value"),
        MetricInfo("r2", ("regression",), True, False, "value"),
        MetricInfo("mape", ("regression",), False, False, "value"),
        MetricInfo("pinball", ("quantiles",), False, True, "value"),
        MetricInfo("coverage", ("quantiles",), True, True, "value"),
        MetricInfo("mase", ("forecast",), False, False, "value"),
        MetricInfo("rmsse", ("forecast",), False, False, "value"),
        MetricInfo("wape", ("forecast",), False, False, "value"),
        MetricInfo("median_ae", ("regression",), False, False, "value"),
    )
}


def metric_names(task: Task) -> tuple[str, ...]:
    """The metrics that a gate of this task may name.

    >>> metric_names("multiclass")
    ('log_loss', 'accuracy', 'f1_macro')
    """
    return tuple(name for name, info in METRICS.items() if task in info.tasks)


@dataclass(frozen=True, slots=True)
class Interval:
    """A number with its uncertainty. `estimate` is None when the rows do not define it, then `why` says why.

    `groups` is the number of independent units (rows, or groups of rows with one key), `se` the standard error.
    """

    n: int
    groups: int
    estimate: float | None = None
    low: float | None = None
    high: float | None = None
    se: float | None = None
    method: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class GateResult:
    """What one gate said. `estimate`, `low`, `high`, `threshold` share a unit; None where a gate has no number.

    For a comparison `estimate` is the loss difference (positive: worse), `threshold` the margin in the same unit
    and `champion` the champion's own metric on the same rows. `se` and `groups` are what a pooled test needs.
    """

    gate: str
    metric: str
    verdict: Verdict
    estimate: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0
    threshold: float | None = None
    champion: float | None = None
    method: str = ""
    detail: str = ""
    se: float | None = None
    groups: int = 0
    on_inconclusive: OnInconclusive = "keep"

    def to_json(self) -> dict[str, Json]:
        """All fields as JSON; `from_json` takes it back unchanged."""
        return asdict(self)

    @classmethod
    def from_json(cls, body: Mapping[str, Json]) -> GateResult:
        """The result that `to_json` wrote. Raises TypeError for unknown or missing fields."""
        return cls(**body)


def passed(gate: str, detail: str = "", *, n: int = 0, metric: str = "") -> GateResult:
    """A pass of a gate without an interval."""
    return GateResult(gate, metric, "pass", n=n, detail=detail)


def failed(gate: str, detail: str, *, n: int = 0, metric: str = "") -> GateResult:
    """A fail of a gate without an interval; `detail` says what was wrong."""
    return GateResult(gate, metric, "fail", n=n, detail=detail)


def undecided(gate: str, detail: str, *, n: int = 0, metric: str = "") -> GateResult:
    """Not enough data for a gate without an interval."""
    return GateResult(gate, metric, "inconclusive", n=n, detail=detail)


def decide_absolute(gate: MetricGate, side: Literal["min", "max"], found: Interval) -> GateResult:
    """An absolute threshold: fails only when the point estimate violates it; the interval is told beside it.

    Too few rows, or a metric the rows do not define, is inconclusive (a pass under `on_inconclusive: pass`).
    """
    threshold = gate.minimum if side == "min" else gate.maximum
    assert threshold is not None, "the caller asks only for a side that the gate has"
    result = _from_interval(f"{gate.metric}.{side}", gate, found, threshold)
    if found.estimate is None or found.why:
        return _settled(replace(result, detail=found.why or "the metric is not defined on these rows"))
    ok = found.estimate >= threshold if side == "min" else found.estimate <= threshold
    return replace(result, verdict="pass" if ok else "fail")


def decide_comparison(gate: MetricGate, found: Interval, champion: float | None) -> GateResult:
    """Non-inferiority of the challenger on the champion's rows: see `non_inferior` for the rule.

    The margin is a share of the size of `champion` (its own metric on these rows) or absolute. Inconclusive
    results pass at once under `on_inconclusive: pass`; under `pooled` and `keep` they stay inconclusive.
    """
    threshold = margin_of(gate, champion)
    result = replace(_from_interval(f"{gate.metric}.vs_champion", gate, found, threshold), champion=champion)
    if found.estimate is None or found.why:
        return _settled(replace(result, detail=found.why or "the metric is not defined on these rows"))
    verdict = non_inferior(found.low, found.high, threshold)
    detail = "the interval holds the margin" if verdict == "inconclusive" else ""
    return _settled(replace(result, verdict=verdict, detail=detail))


def margin_of(gate: MetricGate, champion: float | None) -> float:
    """The margin in the metric's own unit, never negative: relative ones against the size of `champion`."""
    return gate.margin * (abs(champion or 0.0) if gate.margin_relative else 1.0)


def non_inferior(low: float | None, high: float | None, margin: float) -> Verdict:
    """`high` < margin passes, `low` > margin fails, else inconclusive. Exactly no difference always passes.

    >>> non_inferior(-0.01, 0.004, 0.005), non_inferior(0.006, 0.02, 0.005), non_inferior(0.0, 0.02, 0.005)
    ('pass', 'fail', 'inconclusive')
    """
    if low is None or high is None:
        return "inconclusive"
    if high < margin or low == high == 0.0:
        return "pass"
    return "fail" if low > margin else "inconclusive"


def decide_pooled(own: GateResult, family: Interval, margin: float, guard_failed: bool) -> GateResult:
    """One member's result after the family was tested as one.

    Only an inconclusive result moves. It passes when the family passes and the member's own guard rail holds; a
    member whose guard rail broke fails; otherwise it stays inconclusive (held with its champion).
    """
    if own.verdict != "inconclusive":
        return own
    if guard_failed:
        return replace(own, verdict="fail", detail="worse than its champion beyond the margin (guard rail, Holm)")
    verdict = non_inferior(family.low, family.high, margin) if not family.why else "inconclusive"
    told = family.why or (
        f"family of {family.groups}: {_signed(family.estimate)} [{_signed(family.low)}, {_signed(family.high)}]"
        f" n={family.n:,}, margin {_number(margin)}: {verdict}"
    )
    method = f"{own.method}; pooled: {family.method}" if family.method else own.method
    return replace(own, verdict="pass" if verdict == "pass" else "inconclusive", method=method, detail=told)


def holm(p_values: Sequence[float], alpha: float = ALPHA) -> tuple[bool, ...]:
    """Which hypotheses Holm's step-down rejects with family-wise error at most `alpha`, in the order given.

    >>> holm([0.01, 0.04, 0.03, 0.005])
    (True, False, False, True)
    """
    rejected = [False] * len(p_values)
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        if p_values[index] > alpha / (len(p_values) - rank):
            break
        rejected[index] = True
    return tuple(rejected)


def total(results: Iterable[GateResult]) -> Verdict:
    """The verdict of a version: fail beats inconclusive beats pass; no gates at all pass."""
    found = {result.verdict for result in results}
    if "fail" in found:
        return "fail"
    return "inconclusive" if "inconclusive" in found else "pass"


def describe(result: GateResult) -> str:
    """One line for people: metric, estimate, interval, n, threshold, verdict, and the detail if there is one."""
    sides = {"min": "≥", "max": "≤"}
    tells = result.gate.partition(".")[0] in ("backtest", "holdout")  # evidence for people, no gate
    further = tells or result.gate.partition(".")[0] in FURTHER
    side = "≤" if further else sides.get(result.gate.rpartition(".")[2])
    parts = [f"{result.gate} {result.metric}".rstrip() if further else result.metric or result.gate]
    if result.estimate is not None:
        number = _number if side else _signed
        parts.append(number(result.estimate) if side or not result.metric else f"worse by {number(result.estimate)}")
        if result.low is not None and result.high is not None:
            parts.append(f"[{number(result.low)}, {number(result.high)}]")
    if result.champion is not None:
        parts.append(f"than champion {_number(result.champion)}")
    if result.n:
        parts.append(f"n={result.n:,}")
    if result.threshold is not None and (result.metric or further):
        parts.append(f"{side} {_threshold(result.threshold)}" if side else f"< {result.threshold:.4g}")
    if not tells:
        parts.append(result.verdict)
    return " ".join(parts) + (f": {result.detail}" if result.detail else "")


def gates_digest(gates: Gates, task: Task) -> str:
    """Digest of the gate settings, 64 hex digits; the order in which metrics and examples stand does not count."""
    body = gates_body(gates)
    for name in ("metrics", "examples", "slices", "fairness", "pytest"):
        if name in body:
            body[name] = sorted(body[name], key=digest)
    return digest({"task": task, "gates": body})


def _from_interval(name: str, gate: MetricGate, found: Interval, threshold: float) -> GateResult:
    return GateResult(
        gate=name,
        metric=gate.metric,
        verdict="inconclusive",
        estimate=found.estimate,
        low=found.low,
        high=found.high,
        n=found.n,
        threshold=threshold,
        method=found.method,
        se=found.se,
        groups=found.groups,
        on_inconclusive=gate.on_inconclusive,
    )


def _settled(result: GateResult) -> GateResult:
    if result.verdict != "inconclusive" or result.on_inconclusive != "pass":
        return result
    return replace(result, verdict="pass", detail=f"{result.detail}; passes by on_inconclusive: pass")


def _number(value: float | None) -> str:
    """Three decimals where that shows something, more for small numbers, none for large ones."""
    if value is None:
        return "–"
    size = abs(value)
    if size >= 1000:
        return f"{value:,.0f}"
    if size >= 100:
        return f"{value:.1f}"
    if size >= 0.1 or value == 0:
        return f"{value:.3f}"
    return f"{value:.4f}" if size >= 0.0005 else f"{value:.1e}"


def _signed(value: float | None) -> str:
    text = _number(value)
    return f"+{text}" if value is not None and value > 0 else text


def _threshold(value: float) -> str:
    """A threshold as a person wrote it, never rounded to another: at least two decimals."""
    short = f"{value:.12g}"
    return f"{value:.2f}" if float(short) == round(value, 2) and abs(value) < 100 else short
