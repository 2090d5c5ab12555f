"""`task: forecast`: its keys are read, kept in the definition only where they are, and wrong ones told."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from retinue.core.declaration import hashed_body, planned
from retinue.core.errors import PortfolioError
from retinue.core.forecast import ForecastSpec
from retinue.core.portfolio import CutoffSpec, ModelSpec
from retinue.loader import load

from .bad_files import model

COLUMNS = {"hour": "INT64", "dest": "BYTES", "minutes": "FP64", "late": "BOOL", "sched_dep": "TIMESTAMP"}
GOOD = {"task": "forecast", "target": "minutes", "horizon": "3"}


def _read(text: str, folder: Path) -> ModelSpec:
    file = folder / "portfolio.yaml"
    file.write_text(text, encoding="utf-8")
    return load(file).models["late"].spec


def test_all_keys_are_read_and_live_through_json(tmp_path: Path) -> None:
    keys = {"series": "[dest]", "season": "24", "every": "1h", "backtest": "{folds: 3}"}
    spec = _read(model(**GOOD, **keys, gates="{mase: {max: 1}, wape: {vs_champion: not_worse}}"), tmp_path)
    assert spec.forecast == ForecastSpec(3, ("dest",), 24, 3600.0, 3)
    assert msgspec.convert(msgspec.to_builtins(spec), ModelSpec) == spec
    assert msgspec.convert(msgspec.json.decode(msgspec.json.encode(spec)), ModelSpec) == spec


def test_a_forecast_is_hashed_and_every_other_definition_stays_what_it_was(tmp_path: Path) -> None:
    def body(spec: ModelSpec) -> dict[str, object]:
        schemas = {"late": planned(spec, COLUMNS, {}).schema}
        return hashed_body(spec, code={}, lock="", tables={}, cutoff=CutoffSpec(), schemas=schemas)

    assert "forecast" not in body(_read(model(), tmp_path))
    spec = _read(model(**GOOD), tmp_path)
    assert body(spec)["forecast"] == {"horizon": 3, "series": [], "season": 1, "every": None, "folds": 0}
    assert planned(spec, COLUMNS, {}).schema.outputs[0].width == 3


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"task": "forecast", "target": "minutes"}, "needs `horizon`"),
        ({"horizon": "3"}, "a binary model has no horizon"),
        ({"season": "7"}, "a binary model has no season"),
        ({"backtest": "{folds: 2}"}, "a binary model has no backtest"),
        (GOOD | {"horizon": "0"}, "expected at least 1"),
        (GOOD | {"horizon": "100000"}, "less than or equal to 1000"),
        (GOOD | {"horizon": "2.5"}, "horizon"),
        (GOOD | {"season": "0"}, "season"),
        (GOOD | {"every": "0s"}, "every"),
        (GOOD | {"backtest": "{folds: 0}"}, "folds"),
        (GOOD | {"backtest": "3"}, "backtest"),
        (GOOD | {"series": "[minutes]"}, "cannot tell series apart"),
        (GOOD | {"series": "[dest, dest]"}, "more than once"),
        (GOOD | {"features": "[hour, minutes]"}, "among the features"),
        (GOOD | {"gates": "{roc_auc: {min: 0.5}}"}, "roc_auc"),
        (GOOD | {"train": "", "artifact": "m.onnx"}, "a forecast is trained here"),
    ],
)
def test_wrong_keys_are_refused_where_they_stand(keys: dict[str, str], said: str, tmp_path: Path) -> None:
    with pytest.raises(PortfolioError, match=said):
        _read(model(**keys), tmp_path)


def test_a_table_without_time_cannot_be_forecast(tmp_path: Path) -> None:
    with pytest.raises(PortfolioError, match="a forecast needs time, and flights has none"):
        _read(model(**GOOD).replace("time: sched_dep, ", ""), tmp_path)


def test_a_forecast_is_not_read_by_another_model(tmp_path: Path) -> None:
    text = model(features="[hour, delay]", needs="[delay]").replace(
        "task: regression, features: [hour, dest]", "task: forecast, horizon: 2, features: [hour, dest]"
    )
    with pytest.raises(PortfolioError, match="delay is a forecast: it has one value per step"):
        _read(text, tmp_path)


@pytest.mark.parametrize(
    ("keys", "said"),
    [({"series": "[city]"}, "series column 'city' is not there"), ({"target": "late"}, "needs a number as target")],
)
def test_what_the_table_lacks_is_told_at_the_plan(keys: dict[str, str], said: str, tmp_path: Path) -> None:
    with pytest.raises(PortfolioError, match=said):
        planned(_read(model(**{**GOOD, **keys}), tmp_path), COLUMNS, {})


def test_a_column_with_the_name_of_a_target_is_refused_at_the_plan(tmp_path: Path) -> None:
    with pytest.raises(PortfolioError, match="'minutes_2' has the name of a target"):
        planned(_read(model(**GOOD), tmp_path), {**COLUMNS, "minutes_2": "FP64"}, {})
