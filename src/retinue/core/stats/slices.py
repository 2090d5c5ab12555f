"""Is any group of rows much worse than all rows together? One test per group, corrected for their number (Holm)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit

from retinue.core.gate_specs import SliceGate
from retinue.core.gates import ALPHA, METRICS, holm
from retinue.core.stats.influence import influence, spread
from retinue.core.stats.metrics import Scored

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class SliceTest:
    """One group against the bound. `value` is its metric, `bound` the worst that passes; `excess` how far its loss is
    beyond (negative: within), with a one-sided lower bound at the corrected level in `low`. `why`: not enough data."""

    name: str
    n: int
    value: float | None = None
    bound: float | None = None
    excess: float | None = None
    low: float | None = None
    high: float | None = None
    se: float = 0.0
    carried: int = 0  # independent groups of rows in it
    p: float = 1.0
    failed: bool = False
    why: str = ""


def names_of(columns: Sequence[Array]) -> Array:
    """The group of each row as text [n]: the columns' values joined by `, `; a missing value reads `(missing)`."""
    texts = [[_text(v) for v in np.asarray(column).tolist()] for column in columns]
    return np.array([", ".join(row) for row in zip(*texts, strict=True)], dtype=object)


def slice_tests(gate: SliceGate, scored: Scored, groups: Array, codes: Array | None) -> list[SliceTest]:
    """One test per group of rows, groups in the order of their names. `codes` [n] ties rows that are not independent.

    The loss of a group is compared with `worst` times the loss of all rows (for a metric that is better when higher:
    its distance from 1), or with that loss plus a margin; both carry their own error, rows in common too.
    """
    whole = influence(gate.metric, scored)
    found, known = [], sorted(set(groups.tolist()))
    for name in known:
        mask = groups == name
        found.append(_one(gate, scored, (name, mask), whole, codes))
    tested = [i for i, test in enumerate(found) if not test.why]
    rejected = holm([found[i].p for i in tested])
    level = ALPHA / max(len(tested), 1)
    for place, rejection in zip(tested, rejected, strict=True):
        test = found[place]
        assert test.excess is not None, "only groups that were measured are tested"
        reach = float(stdtrit(max(test.carried - 1, 1), 1 - level)) * test.se
        found[place] = replace(test, low=test.excess - reach, high=test.excess + reach, failed=rejection)
    return found


def _one(
    gate: SliceGate, scored: Scored, named: tuple[str, Array], whole: tuple[float, Array] | None, codes: Array | None
) -> SliceTest:
    name, mask = named
    n = int(mask.sum())
    if n < gate.min_rows:
        return SliceTest(name, n, why=f"{n} of {gate.min_rows} rows")
    measured = _measure(gate, scored, mask, codes, whole)
    if measured is None:
        return SliceTest(name, n, why=f"{gate.metric} is not defined on its rows")
    value, bound, excess, se, carried = measured
    certain = 0.0 if excess > 1e-12 else 1.0  # rounding is no excess
    p = float(stdtr(max(carried - 1, 1), -excess / se)) if se > 0.0 else certain
    return SliceTest(name, n, value, bound, excess, se=se, carried=carried, p=p)


def _measure(
    gate: SliceGate, scored: Scored, mask: Array, codes: Array | None, whole: tuple[float, Array] | None
) -> tuple[float, float, float, float, int] | None:
    """(the group's metric, the worst that passes, excess loss, its standard error, independent groups of rows)."""
    own = influence(gate.metric, scored.take(mask))
    if own is None or whole is None:
        return None
    sign = -1.0 if METRICS[gate.metric].higher_is_better else 1.0
    factor = gate.worst if gate.relative else 1.0
    offset = (1.0 - gate.worst if sign < 0 else 0.0) if gate.relative else sign * gate.worst
    bound = factor * whole[0] + offset
    excess = sign * (own[0] - bound)
    shares = -factor * whole[1]
    shares[mask] += own[1]
    se, _ = spread(shares, codes)
    inside = int(mask.sum()) if codes is None else len(np.unique(codes[mask]))
    return own[0], bound, excess, se, inside


def _text(value: Any) -> str:
    if value is None or (isinstance(value, float) and value != value):  # noqa: PLR0124 — NaN
        return "(missing)"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)
