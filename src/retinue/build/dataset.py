"""The rows of one build: what it may train on, and the holdout that no user code sees.

With time, training sees the data as of the cutoff: rows before it, cells known by then, views evaluated on
nothing later. Without time, rows are held out by hash of a key, in every table that carries that key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from retinue.build.columns import Table, to_columns
from retinue.build.folds import Fold, HashFold, Mask, held_out, in_fold
from retinue.build.forecast import Scales, irregular, naive_scales, scale_of, with_steps
from retinue.core.contract import NUMERIC
from retinue.core.errors import DataError
from retinue.core.portfolio import DataUse, ModelSpec, TableSpec
from retinue.sources.base import ColumnType, Pin, Tables

ECHO_ROWS = 100
"""From how many rows on a feature that tells the target exactly is no coincidence."""


@dataclass(frozen=True, slots=True, eq=False)
class DataSet:
    """Tables of one build. `train` by table name (the first of the model's data is `primary`), `holdout` rows of
    the primary table; both hold features (without columns of `needs`), target, time, key and the extra columns.
    `dropped` counts the primary's rows that were left out, by reason. Of a forecast both hold the targets of its
    steps, and `scale` [holdout, 2] is what its errors are scaled by."""

    primary: str
    time: str | None
    key: str | None
    train: Mapping[str, Table]
    holdout: Table
    dropped: Mapping[str, int]
    scale: Mask | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Job:
    """What every step below needs to know. `by` names the column of the hash holdout; None when time divides."""

    catalog: Tables
    spec: ModelSpec
    pin: Pin
    cutoff: str | None
    table: TableSpec
    columns: tuple[str, ...]
    by: str | None

    @property
    def use(self) -> DataUse:
        return self.spec.data[0]


def split(catalog: Tables, spec: ModelSpec, pin: Pin, cutoff: str | None, extra_columns: Sequence[str] = ()) -> DataSet:
    """Training tables and holdout of a model. `extra_columns` are the mapped inputs of its upstreams.

    Rows whose target is missing, or was not yet known at the cutoff, are dropped. Raises DataError for a
    feature that a request could not carry, for a feature that repeats the target, and for too few rows.
    """
    job = _job(catalog, spec, pin, cutoff, extra_columns)
    rows, dropped = _training_rows(job)
    holdout = _holdout_rows(job)
    if spec.task == "forecast":
        holdout = with_steps(holdout, spec, str(job.table.time), dropped, "holdout: ")
    else:
        holdout, dropped["holdout: target missing"] = _labelled(holdout, spec.target)
    _enough(job, rows, holdout, dropped)
    _refuse_echo(job, rows)
    train = {job.table.name: rows, **_further(job)}
    data = DataSet(job.table.name, job.table.time, job.table.key, train, holdout, dropped)
    return _scaled(job, data) if spec.task == "forecast" else data


def training(
    catalog: Tables,
    spec: ModelSpec,
    pin: Pin,
    cutoff: str | None,
    fold: Fold | HashFold,
    extra_columns: Sequence[str] = (),
) -> dict[str, Table]:
    """The training tables of an upstream that answers for `fold` only: nothing of the holdout, nothing of the fold.

    A Fold is answered by what was known at its `train_before`. Raises DataError where no such tables can be made.
    """
    job = _job(catalog, spec, pin, cutoff, extra_columns)
    if isinstance(fold, Fold):
        if job.table.time is None:
            raise DataError(
                f"{spec.name} is needed by a model with time, but its table {job.table.name} has none",
                where=spec.where,
                hint=f"Declare `time` for {job.table.name}, so that {spec.name} can be trained before each fold.",
            )
        job = replace(job, cutoff=fold.train_before)
        rows, _ = _training_rows(job)
        _enough(job, rows, None, {})
        return {job.table.name: rows, **_further(job)}
    if fold.by not in catalog.columns(job.table.name):
        raise DataError(
            f"{spec.name} cannot be cross-fitted: its table {job.table.name} has no column {fold.by}",
            where=spec.where,
            hint=f"Add the key {fold.by} to {job.table.name}, or give both tables `time`.",
        )
    job = replace(job, columns=tuple(dict.fromkeys([*job.columns, fold.by])))
    rows, _ = _training_rows(job)
    tables = {job.table.name: rows, **_further(job)}
    tables = {n: _keep(t, ~in_fold(t, fold)) if fold.by in t.column_names else t for n, t in tables.items()}
    _enough(job, tables[job.table.name], None, {})
    return tables


def scales(catalog: Tables, spec: ModelSpec, pin: Pin, cutoff: str) -> Scales:
    """The errors of the seasonal naive forecast on what is known of each series at `cutoff`."""
    return naive_scales(_known_rows(_series_job(_job(catalog, spec, pin, cutoff, ())))[0], spec, _time(catalog, spec))


def _time(catalog: Tables, spec: ModelSpec) -> str:
    return str(catalog.spec(spec.data[0].table).time)


def _series_job(job: _Job) -> _Job:
    """The same, of the columns only that make up series."""
    return replace(job, columns=tuple(dict.fromkeys([*job.spec.forecast.series, job.spec.target, str(job.table.time)])))


def _scaled(job: _Job, data: DataSet) -> DataSet:
    """The data of a forecast with the scale of its errors, and what people should know of its rows."""
    rows, time = _known_rows(_series_job(job))[0], str(job.table.time)
    odd = irregular(rows, job.spec, time) if job.spec.forecast.every is None else 0
    text = f"{odd:,} rows follow the one before by another time than most do; a step is a row: say `every` if not"
    scale = scale_of(data.holdout, job.spec, naive_scales(rows, job.spec, time))
    return replace(data, scale=scale, notes=(text,) if odd else ())


def primary_columns(spec: ModelSpec, table: TableSpec, extra_columns: Sequence[str] = ()) -> tuple[str, ...]:
    """The columns that a build reads of its primary table: own features, target, time, key, extra columns."""
    needed = {need.column for need in spec.needs}
    own = [f for f in spec.features if f not in needed]
    series = spec.forecast.series
    named = [*own, *extra_columns, *series, spec.target, table.time, table.key]
    return tuple(dict.fromkeys(c for c in named if c is not None))


def _job(catalog: Tables, spec: ModelSpec, pin: Pin, cutoff: str | None, extra: Sequence[str]) -> _Job:
    table = catalog.spec(spec.data[0].table)
    columns = primary_columns(spec, table, extra)
    types = catalog.columns(table.name)
    series = set(spec.forecast.series) - set(spec.features)
    _check_features(spec, table, [c for c in columns if c not in (spec.target, table.time, table.key, *series)], types)
    _check_target(spec, table, types)
    if spec.task == "forecast" and table.time is None:
        raise DataError(
            f"{spec.name} is a forecast, but {table.name} has no time",
            where=spec.where,
            hint=f"Declare `time` of {table.name}: the next rows are those that follow in time.",
        )
    if table.time is not None:
        if spec.holdout.by is not None:
            raise DataError(
                f"{spec.name} asks for a holdout by {spec.holdout.by}, but {table.name} has time",
                where=spec.where,
                hint="Remove `holdout.by`: rows with time are held out by time, or the past would be judged by "
                "its own future.",
            )
        if cutoff is None:
            raise ValueError(f"{table.name} has time: a cutoff is needed")
        return _Job(catalog, spec, pin, cutoff, table, columns, None)
    by = spec.holdout.by or table.key
    if by is None:
        raise DataError(
            f"the rows of {table.name} cannot be held out: it has neither time nor a key",
            where=table.where,
            hint="Declare `time` or `key` of the table, or `holdout: {by: COLUMN}` of the model.",
        )
    return _Job(catalog, spec, pin, cutoff, table, tuple(dict.fromkeys([*columns, by])), by)


def _check_features(
    spec: ModelSpec, table: TableSpec, features: Sequence[str], types: Mapping[str, ColumnType]
) -> None:
    late = dict(table.available)
    if spec.target in spec.features:
        raise DataError(f"{spec.name} has its target {spec.target} among its features", where=spec.where)
    for feature in features:
        if feature in late:
            raise DataError(
                f"{spec.name} uses {feature}, which {table.name} declares known only {late[feature]:g} s after "
                f"{table.time}: no request could carry it",
                where=spec.where,
                hint=f"Remove {feature} from the features, or correct `available` of {table.name}.",
            )
        if types.get(feature) == "TIMESTAMP":
            raise DataError(
                f"{spec.name} uses the moment {feature} as a feature",
                where=spec.where,
                hint="Make numbers of it in a view, for example hour(x) or dayofweek(x).",
            )


def _check_target(spec: ModelSpec, table: TableSpec, types: Mapping[str, ColumnType]) -> None:
    kind = types.get(spec.target, "FP64")  # a missing column is said, with its neighbours, when it is read
    if kind == "TIMESTAMP" or (spec.task in NUMERIC and kind in {"BYTES", "BOOL"}):
        raise DataError(
            f"the target {spec.target} of {spec.name} is {kind} in {table.name}, which {spec.task} cannot predict",
            where=spec.where,
            hint="Choose another `task`, or make a number of the target in a view.",
        )


def _training_rows(job: _Job) -> tuple[Table, dict[str, int]]:
    """The primary's rows that training may see, and how many were dropped why."""
    rows, dropped = _known_rows(job)
    if job.spec.task == "forecast":
        return with_steps(rows, job.spec, str(job.table.time), dropped), dropped
    rows, dropped["target missing"] = _labelled(rows, job.spec.target)
    return rows, dropped


def _known_rows(job: _Job) -> tuple[Table, dict[str, int]]:
    """The same with the rows whose target is missing."""
    target, dropped = job.spec.target, {"target not yet known": 0}
    args = (job.table.name, job.columns, job.use.filters, job.pin)
    if job.by is not None:
        rows = job.catalog.read(*args, hide_from=job.cutoff)
        rows = _keep(rows, ~held_out(rows.column(job.by), job.spec.holdout.share))
    else:
        rows = job.catalog.read(*args, hide_from=job.cutoff, before=job.cutoff)
        delay = dict(job.table.available).get(target)
        if delay is not None:
            times = np.asarray(rows.column(job.table.time).to_numpy(), dtype="datetime64[us]")
            known: Mask = np.less_equal(
                times + np.timedelta64(round(delay * 1e6), "us"), np.datetime64(str(job.cutoff), "us")
            )
            dropped["target not yet known"] = int((~known).sum())
            rows = _keep(rows, known)
    return rows, dropped


def _holdout_rows(job: _Job) -> Table:
    args = (job.table.name, job.columns, job.use.filters, job.pin)
    if job.by is None:
        return job.catalog.read(*args, since=job.cutoff)
    rows = job.catalog.read(*args)
    return _keep(rows, held_out(rows.column(job.by), job.spec.holdout.share))


def _further(job: _Job) -> dict[str, Table]:
    """The model's other tables, cut like the first: by time where they have one, and of every held-out key."""
    tables: dict[str, Table] = {}
    for use in job.spec.data[1:]:
        if use.table == job.table.name or use.table in tables:
            raise DataError(
                f"{job.spec.name} names the table {use.table} twice",
                where=job.spec.where,
                hint="Name it once, or make a view for the other rows.",
            )
        table = job.catalog.spec(use.table)
        types = job.catalog.columns(use.table)
        columns = [c for c, kind in types.items() if kind != "UNSUPPORTED"]
        before = job.cutoff if table.time is not None else None
        rows = job.catalog.read(use.table, columns, use.filters, job.pin, hide_from=job.cutoff, before=before)
        if job.by is not None or table.time is None:
            for by in (c for c in rows.column_names if c in (job.by, job.table.key)):
                rows = _keep(rows, ~_held_keys(job, rows, by))
        tables[use.table] = rows
    return tables


def _held_keys(job: _Job, rows: Table, by: str) -> Mask:
    """Which rows carry a key that is held out of the primary table, in whatever member."""
    if by == job.by:
        return held_out(rows.column(by), job.spec.holdout.share)
    import pyarrow.compute as pc

    since = job.cutoff if job.by is None else None
    primary = job.catalog.read(job.table.name, sorted({by, job.by or by}), (), job.pin, since=since)
    if job.by is not None:
        primary = _keep(primary, held_out(primary.column(job.by), job.spec.holdout.share))
    held = primary.column(by)
    column = rows.column(by)
    if column.type != held.type:
        column, held = column.cast("string"), held.cast("string")
    mask: Mask = np.asarray(pc.is_in(column, value_set=held.combine_chunks()), dtype=np.bool_)
    return mask


def _labelled(rows: Table, target: str) -> tuple[Table, int]:
    """The rows whose target is there, and how many were not."""
    values = to_columns(rows, [target])[target]
    known = np.array([v is not None for v in values], dtype=np.bool_) if values.dtype == object else values == values  # noqa: PLR0124 - NaN
    return _keep(rows, known), int((~known).sum())


def _keep(rows: Table, mask: Mask) -> Table:
    import pyarrow as pa

    return rows if bool(mask.all()) else rows.filter(pa.array(mask))


def _enough(job: _Job, rows: Table, holdout: Table | None, dropped: Mapping[str, int]) -> None:
    """Refuse a build that could not learn or could not be judged."""
    spec = job.spec
    held = "" if holdout is None else f" and {holdout.num_rows} to be judged by"
    counts = f"{spec.name}: {rows.num_rows} rows to train on{held}"
    left_out = ", ".join(f"{n} {why}" for why, n in dropped.items() if n)
    if left_out:
        counts += f" ({left_out})"
    at = f" at the cutoff {job.cutoff}" if job.by is None else f" by hash of {job.by}"
    if rows.num_rows == 0 or (holdout is not None and holdout.num_rows == 0):
        raise DataError(
            f"{counts}, split{at} of {job.table.name}",
            where=spec.where,
            hint="Check `where`, the target and the cutoff; a family leaves small members out with `min_rows`.",
        )
    if spec.task in NUMERIC:
        return
    classes = rows.column(spec.target).unique().to_pylist()
    if len(classes) < 2:
        raise DataError(
            f"{counts}, all of one class {spec.target} = {classes[0]}",
            where=spec.where,
            hint="A classifier needs two classes; check the target, or raise `min_rows` of the family.",
        )
    if spec.task == "binary" and len(classes) > 2:
        raise DataError(
            f"{spec.name} is binary, but {spec.target} has {len(classes)} classes in {job.table.name}",
            where=spec.where,
            hint="Declare `task: multiclass`, or make two classes of the target in a view.",
        )


def _refuse_echo(job: _Job, rows: Table) -> None:
    """Refuse a feature that tells the target exactly: the target under another name, or from a second table."""
    if rows.num_rows < ECHO_ROWS:
        return
    if job.spec.task == "forecast":
        for target in job.spec.forecast.steps(job.spec.target):
            _refuse_same(job, rows, target)
        return
    truth = _codes(rows.column(job.spec.target))
    classes = len(np.unique(truth))
    if classes < 2:
        return
    for name in job.columns:
        if name in (job.spec.target, job.table.time, job.table.key, job.by) or name not in job.spec.features:
            continue
        same = _same_numbers(rows, name, job.spec.target)
        if not same and job.spec.task not in NUMERIC:
            codes = _codes(rows.column(name))
            pairs = len(np.unique(codes * classes + truth))
            same = len(np.unique(codes)) == classes == pairs
        if same:
            raise _echo(job, name, job.spec.target, rows.num_rows)


def _refuse_same(job: _Job, rows: Table, target: str) -> None:
    """The same for one step of a forecast, whose features may be the target of the row itself."""
    if len(rows.column(target).unique()) < 2:
        return
    for name in (n for n in job.spec.features if n in rows.column_names):
        if _same_numbers(rows, name, target):
            raise _echo(job, name, target, rows.num_rows)


def _echo(job: _Job, name: str, target: str, rows: int) -> DataError:
    return DataError(
        f"the feature {name} of {job.spec.name} tells its target {target} exactly in all "
        f"{rows} training rows: it is the answer, not a hint",
        where=job.spec.where,
        hint=f"Remove {name} from the features; a request would not know it.",
    )


def _same_numbers(rows: Table, name: str, target: str) -> bool:
    arrays = to_columns(rows, [name, target])
    a, b = arrays[name], arrays[target]
    if object in (a.dtype, b.dtype):
        return False
    return bool(np.array_equal(a.astype(np.float64), b.astype(np.float64)))


def _codes(column: Any) -> np.ndarray[Any, np.dtype[np.int64]]:
    """A number per distinct value [n], 0 for missing."""
    encoded = column.combine_chunks().dictionary_encode()
    if hasattr(encoded, "combine_chunks"):
        encoded = encoded.combine_chunks()
    return np.asarray(encoded.indices.fill_null(-1), dtype=np.int64) + 1
