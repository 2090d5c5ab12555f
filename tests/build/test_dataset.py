"""What a build may see: nothing of the holdout, nothing not yet known, in no table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pytest

from retinue.build.dataset import split, training
from retinue.build.folds import Fold, HashFold, folds, hash_folds, in_fold
from retinue.core.errors import DataError, Location
from retinue.core.portfolio import DataUse, HoldoutSpec, ModelSpec, Need, TableSpec
from retinue.sources.base import Pin
from retinue.sources.catalog import Catalog

WHERE = Location("portfolio.yaml", 7, 3)
CUTOFF = "2020-01-21 00:00:00"
FLIGHTS = """
    SELECT i AS id, TIMESTAMP '2020-01-01' + to_hours(i::INT) AS sched, ['JFK', 'EWR', 'LGA'][i % 3 + 1] AS origin,
           (i * 37 % 101)::DOUBLE AS wind, CASE WHEN i % 50 <> 7 THEN i * 13 % 5 = 0 END AS late,
           (i * 13 % 17)::DOUBLE AS delay
    FROM range(600) r(i)
"""
Make = Callable[..., Catalog]
TIMED: dict[str, Any] = {"path": "flights.parquet", "time": "sched", "key": "id"}
KEYED: dict[str, Any] = {"path": "flights.parquet", "key": "id"}


def model(**changes: Any) -> ModelSpec:
    base = ModelSpec(
        "late", WHERE, "m:train", "base", (DataUse("flights"),), ("wind", "origin"), target="late", task="binary"
    )
    return replace(base, **changes)


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def build(flights: dict[str, Any] | None = None, **more: dict[str, Any]) -> Catalog:
        with duckdb.connect(config={"threads": 1}) as con:
            con.execute(f"CREATE TABLE flights AS {FLIGHTS}")
            con.execute(f"COPY flights TO '{tmp_path}/flights.parquet'")
            con.execute(
                f"COPY (SELECT id, sched + INTERVAL 2 HOUR AS arrived, late AS outcome FROM flights) "
                f"TO '{tmp_path}/outcomes.parquet'"
            )
        tables = {"flights": flights or TIMED, **more}
        return Catalog({n: TableSpec(n, WHERE, **f) for n, f in tables.items()}, tmp_path, tmp_path / "cache")

    return build


def test_training_ends_where_the_holdout_begins(make: Make) -> None:
    data = split(make(), model(), Pin(), CUTOFF)
    rows = data.train["flights"]
    assert rows.column_names == ["wind", "origin", "late", "sched", "id"]
    assert max(rows.column("id").to_pylist()) == 479
    assert min(data.holdout.column("id").to_pylist()) == 480
    assert (rows.num_rows, data.holdout.num_rows) == (470, 118)
    assert data.dropped == {"target not yet known": 0, "target missing": 10, "holdout: target missing": 2}


def test_rows_whose_target_was_not_yet_known_at_the_cutoff_are_not_trained_on(make: Make) -> None:
    data = split(make({**TIMED, "available": (("late", 5 * 3600.0),)}), model(), Pin(), CUTOFF)
    assert max(data.train["flights"].column("id").to_pylist()) == 475
    assert data.dropped["target not yet known"] == 4
    assert min(data.holdout.column("id").to_pylist()) == 480


def test_the_pin_bounds_the_holdout(make: Make) -> None:
    data = split(make(), model(), Pin({"flights": "2020-01-22 00:00:00"}), CUTOFF)
    assert max(data.holdout.column("id").to_pylist()) == 504


def test_a_member_gets_its_own_rows_and_upstream_inputs_without_the_upstreams_column(make: Make) -> None:
    spec = model(
        data=(DataUse("flights", (("origin", "JFK"),)),),
        features=("wind", "busy"),
        needs=(Need("congestion", "busy", "busy", (("x", "delay"),)),),
    )
    rows = split(make(), spec, Pin(), CUTOFF, ["delay"]).train["flights"]
    assert rows.column_names == ["wind", "delay", "late", "sched", "id"]
    assert {i % 3 for i in rows.column("id").to_pylist()} == {0}


def test_further_tables_are_cut_at_the_same_moment_and_hide_late_cells(make: Make) -> None:
    catalog = make(outcomes={"path": "outcomes.parquet", "time": "arrived", "available": (("outcome", 7200.0),)})
    data = split(catalog, model(data=(DataUse("flights"), DataUse("outcomes"))), Pin(), CUTOFF)
    rows = data.train["outcomes"].to_pylist()
    assert max(r["id"] for r in rows) == 477
    assert [r["outcome"] for r in rows[-2:]] == [False, None]
    assert len(rows) == 478


def test_a_second_table_without_time_loses_the_keys_that_are_held_out(make: Make) -> None:
    catalog = make(outcomes={"path": "outcomes.parquet"})
    spec = model(data=(DataUse("flights", (("origin", "JFK"),)), DataUse("outcomes")))
    rows = split(catalog, spec, Pin(), CUTOFF).train["outcomes"]
    assert max(rows.column("id").to_pylist()) == 479  # of all origins, not only of this member


def test_a_feature_that_is_known_late_is_refused(make: Make) -> None:
    catalog = make({**TIMED, "available": (("wind", 60.0),)})
    with pytest.raises(DataError, match="uses wind, which flights declares known only 60 s after sched"):
        split(catalog, model(), Pin(), CUTOFF)
    with pytest.raises(DataError, match="uses wind"):  # as an upstream's input too
        split(catalog, model(features=("origin",)), Pin(), CUTOFF, ["wind"])


@pytest.mark.parametrize(
    "copy", ["late AS wind", "CASE WHEN late THEN 'yes' ELSE 'no' END AS wind", "late::INT AS wind"]
)
def test_a_feature_that_is_the_target_under_another_name_is_refused(make: Make, copy: str) -> None:
    catalog = make(leaky={"sql": f"SELECT * REPLACE ({copy}) FROM flights", "time": "sched", "key": "id"})
    with pytest.raises(DataError, match="the feature wind of late tells its target late exactly"):
        split(catalog, model(data=(DataUse("leaky"),)), Pin(), CUTOFF)


def test_a_second_table_joined_into_a_view_cannot_bring_the_target_in(make: Make) -> None:
    catalog = make(
        outcomes={"path": "outcomes.parquet"},
        joined={
            "sql": "SELECT f.*, o.outcome FROM flights f JOIN outcomes o USING (id)",
            "time": "sched",
            "key": "id",
        },
    )
    with pytest.raises(DataError, match="the feature outcome of late tells its target"):
        split(catalog, model(data=(DataUse("joined"),), features=("wind", "outcome")), Pin(), CUTOFF)


def test_a_rate_made_with_the_future_is_made_without_it_for_training(make: Make) -> None:
    catalog = make(
        rated={"sql": "SELECT *, max(id) OVER () AS seen FROM flights", "time": "sched", "key": "id"},
    )
    data = split(catalog, model(data=(DataUse("rated"),), features=("wind", "seen")), Pin(), CUTOFF)
    assert set(data.train["rated"].column("seen").to_pylist()) == {479}
    with pytest.raises(DataError, match="view rated looks ahead: column seen"):
        catalog.check_lookahead("rated", ["wind", "seen"], Pin(), CUTOFF)


def test_without_time_rows_are_held_out_by_their_key_in_every_table(make: Make) -> None:
    catalog = make(KEYED, outcomes={"path": "outcomes.parquet"})
    data = split(catalog, model(data=(DataUse("flights"), DataUse("outcomes"))), Pin(), None)
    held = set(data.holdout.column("id").to_pylist())
    trained = set(data.train["flights"].column("id").to_pylist())
    assert held.isdisjoint(trained)
    assert len(held) + len(trained) == 588
    assert 80 < len(held) < 160
    assert held.isdisjoint(data.train["outcomes"].column("id").to_pylist())
    again = split(catalog, model(), Pin(), None)
    assert set(again.holdout.column("id").to_pylist()) == held


def test_a_group_is_held_out_as_a_whole(make: Make) -> None:
    catalog = make(grouped={"sql": "SELECT *, id % 40 AS pilot FROM flights"})
    spec = model(data=(DataUse("grouped"),), holdout=HoldoutSpec("pilot", 0.3))
    data = split(catalog, spec, Pin(), None)
    assert set(data.holdout.column("pilot").to_pylist()).isdisjoint(data.train["grouped"].column("pilot").to_pylist())


def test_a_second_table_that_carries_the_key_alone_loses_the_rows_of_held_out_groups(make: Make) -> None:
    catalog = make(KEYED, outcomes={"path": "outcomes.parquet"})
    spec = model(data=(DataUse("flights"), DataUse("outcomes")), features=("wind",), holdout=HoldoutSpec("delay"))
    data = split(catalog, spec, Pin(), None)
    held = set(data.holdout.column("id").to_pylist())
    assert held
    assert not held & set(data.train["outcomes"].column("id").to_pylist())


def test_rows_with_neither_time_nor_key_cannot_be_held_out(make: Make) -> None:
    with pytest.raises(DataError, match="has neither time nor a key"):
        split(make({"path": "flights.parquet"}), model(), Pin(), None)
    with pytest.raises(DataError, match="asks for a holdout by id, but flights has time"):
        split(make(), model(holdout=HoldoutSpec("id")), Pin(), CUTOFF)


@pytest.mark.parametrize(
    ("changes", "cutoff", "said"),
    [
        ({}, "2021-01-01 00:00:00", "588 rows to train on and 0 to be judged by"),
        ({}, "2020-01-01 00:00:00", "0 rows to train on and 588"),
        ({"data": (DataUse("flights", (("origin", "XXX"),)),)}, CUTOFF, "0 rows to train on and 0"),
        ({"data": (DataUse("flights", (("late", "true"),)),)}, CUTOFF, "all of one class late = True"),
        ({"target": "delay"}, CUTOFF, "is binary, but delay has 17 classes"),
        ({"target": "lat"}, CUTOFF, "has no column lat"),
        ({"features": ("wnid",)}, CUTOFF, "has no column wnid"),
        ({"features": ("wind", "late")}, CUTOFF, "has its target late among its features"),
        ({"target": "origin", "features": ("wind",), "task": "regression"}, CUTOFF, "which regression cannot predict"),
        ({"data": (DataUse("flights"), DataUse("flights"))}, CUTOFF, "names the table flights twice"),
    ],
)
def test_what_cannot_be_learnt_or_judged_is_refused_with_counts(
    make: Make, changes: dict[str, Any], cutoff: str, said: str
) -> None:
    with pytest.raises(DataError, match=said) as caught:
        split(make(), model(**changes), Pin(), cutoff)
    assert caught.value.hint


def test_a_moment_is_no_feature(make: Make) -> None:
    catalog = make(v={"sql": "SELECT *, sched AS departs FROM flights", "time": "sched", "key": "id"})
    with pytest.raises(DataError, match="uses the moment departs as a feature"):
        split(catalog, model(data=(DataUse("v"),), features=("departs",)), Pin(), CUTOFF)


def test_an_upstream_for_a_fold_is_trained_on_what_was_known_before_it(make: Make) -> None:
    catalog = make({**TIMED, "available": (("late", 5 * 3600.0),)})
    data = split(catalog, model(), Pin(), CUTOFF)
    rows = data.train["flights"]
    answered = 0
    for fold in folds(rows.column("sched"), CUTOFF, 4):
        seen = training(catalog, model(), Pin(), CUTOFF, fold)["flights"]
        mask = in_fold(rows, fold, "sched")
        first = rows.column("id").to_numpy()[mask].min()
        assert max(seen.column("id").to_pylist()) <= first - 5
        answered += mask.sum()
    assert 0.7 * rows.num_rows < answered < rows.num_rows


def test_a_cross_fitted_upstream_never_saw_the_rows_it_answers_nor_the_holdout(make: Make) -> None:
    catalog = make(KEYED)
    data = split(catalog, model(), Pin(), None)
    rows = data.train["flights"]
    for fold in hash_folds("id", 3):
        seen = set(training(catalog, model(), Pin(), None, fold)["flights"].column("id").to_pylist())
        assert seen.isdisjoint(rows.column("id").to_numpy()[in_fold(rows, fold)].tolist())
        assert seen.isdisjoint(data.holdout.column("id").to_pylist())


def test_folds_that_cannot_be_answered_are_refused(make: Make) -> None:
    with pytest.raises(DataError, match="needed by a model with time, but its table flights has none"):
        training(make(KEYED), model(), Pin(), None, Fold(CUTOFF, CUTOFF, "2020-01-22 00:00:00"))
    with pytest.raises(DataError, match="its table flights has no column pilot"):
        training(make(KEYED), model(), Pin(), None, HashFold("pilot", 0, 5))
