"""Boosters in their frameworks' own formats as models from outside: judged, compiled or served, refused when torn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.outside.test_outside import place, rows

PACKAGES = "scikit-learn==1.9.1\npandas==3.1.1\nxgboost-cpu==3.2.0\nlightgbm==4.7.0\ncatboost==1.2.10\n"
THREE = """\
portfolio: harbour
data: {rows: {path: data/rows.parquet, key: id}}
environments: {base: {requirements: envs/base.txt}}
defaults: {environment: base}
models:
  cat: {artifact: models/a.cbm, classes: [0, 1], task: binary, features: {a: FP64, b: FP64}}
  light: {artifact: models/a.txt, data: rows, target: bad, task: binary, features: [a, b], gates: {roc_auc: {min: 0.7}}}
  xgb: {artifact: models/a.ubj, data: rows, target: bad, task: binary, features: [a, b], gates: {roc_auc: {min: 0.7}}}
"""


def fitted(root: Path) -> None:
    """The same question answered by all three, saved in their own formats."""
    import catboost
    import lightgbm
    import pandas as pd
    import xgboost

    rng = np.random.default_rng(3)
    x = pd.DataFrame(rng.normal(size=(300, 2)), columns=["a", "b"])
    y = (x.a + x.b > 0).astype(int)
    (root / "models").mkdir(exist_ok=True)
    xgboost.XGBClassifier(n_estimators=20, n_jobs=1).fit(x, y).save_model(root / "models" / "a.ubj")
    light: Any = lightgbm.LGBMClassifier(n_estimators=20, verbose=-1, n_jobs=1).fit(x, y)
    light.booster_.save_model(root / "models" / "a.txt")
    cat = catboost.CatBoostClassifier(iterations=20, verbose=False, thread_count=1, allow_writing_files=False)
    cat.fit(x, y).save_model(str(root / "models" / "a.cbm"))


@pytest.mark.e2e
def test_boosters_from_outside_are_released_and_a_torn_or_other_one_fails_alone(tmp_path: Path) -> None:
    h = place(tmp_path, THREE)
    (tmp_path / "envs" / "base.txt").write_text(PACKAGES)
    rows(tmp_path)
    fitted(tmp_path)
    outcome = h.apply()
    assert outcome.release == 1, [m.text for m in outcome.models]
    names = list(h.live())
    formats = h.do(lambda p: {name: p.version(name).manifest["native"]["format"] for name in names})
    assert formats == {"cat": "catboost", "light": "lightgbm", "xgb": "xgboost"}
    compiled = h.do(lambda p: p.version("xgb").manifest["compiled"])
    assert compiled["parity"]["ok"], compiled
    live = h.live()

    whole = {name: (tmp_path / "models" / name).read_bytes() for name in ("a.cbm", "a.txt", "a.ubj")}
    for name, data in whole.items():
        (tmp_path / "models" / name).write_bytes(data[: len(data) // 2])
    told = {m.model: m.text for m in h.apply().models}
    assert "not a whole LightGBM model" in told["light"]
    assert "not a whole XGBoost model" in told["xgb"]
    assert "not a catboost model" in told["cat"]

    for name, data in whole.items():
        (tmp_path / "models" / name).write_bytes(data)
    gates = "gates: {roc_auc: {min: 0.7}}}\n  xgb"
    h.edit(f"features: [a, b], {gates}", f"features: [b, a], {gates}")
    told = {m.model: m.text for m in h.apply().models}
    assert "was trained on a, b, but the features are b, a" in told["light"]
    assert h.live() == live
