"""No leak reaches a gate: what memorises, what is known too late and what carries the answer gains nothing.

On labels that are pure noise every honest ranking has an AUC of 0.5; each build here must have 0.5 within its interval.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.routes.harbour import Harbour, rows, statuses, write

from retinue.control.events import ModelResult, Outcome
from retinue.core.errors import DataError, PortfolioError

pytestmark = pytest.mark.e2e

HEAD = """\
portfolio: harbour
format: 1
environments:
  base: {requirements: envs/base.txt}
defaults: {environment: base}
"""
TIMED = """\
cutoff: last 20%
data:
  calls:
    path: data/calls.parquet
    time: moment
    key: id
    available: {delay: 5h, noise: 5h, noise_value: 5h, signal: 5h, signal_value: 5h}
"""
UNTIMED = """\
data:
  calls: {path: data/calls.parquet, key: id}
"""
MEMORISERS = """\
models:
  memo_noise: &memo
    train: harbour.memo:train
    data: calls
    task: regression
    features: [berth]
    target: noise_value
    compile: forbid
  memo_signal:
    train: harbour.memo:train
    data: calls
    task: regression
    features: [berth]
    target: signal_value
    compile: forbid
  taught-noise:
    train: harbour.late:train
    data: calls
    needs: {memo_noise: {output: noise_value}}
    features: [wind, memo_noise]
    target: noise
    task: binary
    gates: {roc_auc: {min: 0.01}}
  taught-signal:
    train: harbour.late:train
    data: calls
    needs: {memo_signal: {output: signal_value}}
    features: [wind, memo_signal]
    target: signal
    task: binary
    gates: {roc_auc: {min: 0.01}}
""".replace(" &memo", "")
MEMO = """\
from sklearn.impute import SimpleImputer
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline


def train(job):
    table = job.data["calls"].to_pandas()
    model = make_pipeline(SimpleImputer(), KNeighborsRegressor(n_neighbors=1))
    return model.fit(table[list(job.features)], table[job.target])
"""
LEARN = """\
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline


def train(job):
    table = job.data["calls"].to_pandas()
    job.log(rows=len(table), **({"last": str(table["moment"].max())} if "moment" in table else {}))
    model = make_pipeline(SimpleImputer(), LogisticRegression())
    return model.fit(table[list(job.features)], table[job.target].astype(bool))
"""
ONE = """\
models:
  late:
    train: harbour.late:train
    data: {data}
    features: {features}
    target: noise
    task: binary
    gates: {{roc_auc: {{min: 0.01}}}}
"""


def table() -> pa.Table:
    """The harbour's rows with a number that tells each row apart, and labels of noise and of the wind."""
    rng = np.random.default_rng(23)
    base = rows({"north": 500, "south": 400})
    n = base.num_rows
    noise = rng.random(n) < 0.5
    signal = np.asarray(base.column("wind")) + 0.5 * rng.normal(size=n) > 0
    more: Mapping[str, Any] = {
        "berth": rng.permutation(n).astype(np.float64),
        "noise": noise,
        "noise_value": noise.astype(np.float64),
        "signal": signal,
        "signal_value": signal.astype(np.float64),
    }
    for name, values in more.items():
        base = base.append_column(name, pa.array(values))
    return base


def portfolio(folder: Path, text: str, learn: str = LEARN) -> Harbour:
    harbour = write(folder / "harbour", HEAD + text, {"harbour/late.py": learn})
    (harbour.root / "harbour" / "memo.py").write_text(MEMO)
    pq.write_table(table(), harbour.data)
    return harbour


def auc(outcome: Outcome, model: str) -> tuple[float, float, float]:
    """(estimate, low, high) of a model's AUC on its holdout."""
    (found,) = [r for m in outcome.models if m.model == model for r in m.results if r["gate"] == "roc_auc.min"]
    return found["estimate"], found["low"], found["high"]


def no_better_than_chance(outcome: Outcome, model: str) -> None:
    estimate, low, high = auc(outcome, model)
    assert low < 0.5 < high, (estimate, low, high)


def result(outcome: Outcome, model: str) -> ModelResult:
    (found,) = (m for m in outcome.models if m.model == model)
    return found


def refused(outcome: Outcome, model: str, *words: str) -> None:
    """The model was refused for its data, in words with a next step."""
    found = result(outcome, model)
    assert found.status == "failed", found
    assert type(found.error) is DataError, found
    for word in words:
        assert word in f"{found.error} {found.error.hint}"


@pytest.mark.parametrize("kind", ["with time", "without time"])
def test_an_upstream_that_memorises_neither_inflates_nor_starves_its_downstream(tmp_path: Path, kind: str) -> None:
    harbour = portfolio(tmp_path, (TIMED if kind == "with time" else UNTIMED) + MEMORISERS)
    outcome = harbour.apply()
    assert set(statuses(outcome).values()) == {"built"}
    no_better_than_chance(outcome, "taught-noise")
    # What can be learnt is learnt all the same: in-fold memories would leave nothing for the wind to explain.
    assert auc(outcome, "taught-signal")[0] > 0.85


@pytest.mark.parametrize("rule", ["{share: 40%}", "{by: berth}"])
def test_an_upstream_that_holds_other_rows_out_is_refused(tmp_path: Path, rule: str) -> None:
    text = MEMORISERS.replace("    target: noise\n", f"    target: noise\n    holdout: {rule}\n")
    with pytest.raises(PortfolioError, match="taught-noise holds rows out by another rule than memo_noise"):
        portfolio(tmp_path / "harbour", UNTIMED + text).plan()


def test_labels_not_known_at_the_cutoff_are_not_trained_on(tmp_path: Path) -> None:
    harbour = portfolio(tmp_path, TIMED + ONE.format(data="calls", features="[wind]"))
    outcome = harbour.apply()
    no_better_than_chance(outcome, "late")
    version = harbour.do(lambda p: p.version("late"))
    snapshot = harbour.do(lambda p: p.registry.snapshots([version.snapshot]))[version.snapshot]
    cutoff = np.datetime64(snapshot.body["cutoff"])
    assert version.manifest["rows"]["dropped"]["target not yet known"] == 9  # 5 h at two rows an hour, less one
    assert np.datetime64(version.manifest["logged"]["last"]) == cutoff - np.timedelta64(5, "h")


def test_a_second_table_that_carries_the_answers_is_cut_like_the_first(tmp_path: Path) -> None:
    # Training looks every answer up that it can find, by key, and learns them by heart.
    learn = """\
from sklearn.impute import SimpleImputer
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline


def train(job):
    answers = job.data["answers"].to_pandas()
    job.log(answers=len(answers), last=str(answers["moment"].max()))
    model = make_pipeline(SimpleImputer(), KNeighborsClassifier(n_neighbors=1))
    return model.fit(answers[["berth"]], answers["answer"])
"""
    text = TIMED + "  answers: {path: data/answers.parquet, time: moment, key: id}\n"
    text += ONE.format(data="[calls, answers]", features="[berth]").replace(
        "    task:", "    compile: forbid\n    task:"
    )
    harbour = portfolio(tmp_path, text, learn)
    whole = table().select(["id", "moment", "berth", "noise"]).rename_columns(["id", "moment", "berth", "answer"])
    pq.write_table(whole, harbour.root / "data" / "answers.parquet")
    outcome = harbour.apply()
    assert statuses(outcome) == {"late": "built"}, outcome
    no_better_than_chance(outcome, "late")
    logged = harbour.do(lambda p: p.version("late")).manifest["logged"]
    assert logged["answers"] == 720
    assert logged["last"] < "2026-01-16"


def test_a_second_table_without_time_gives_no_answer_of_a_held_out_key(tmp_path: Path) -> None:
    learn = LEARN.replace("    model =", '    job.log(answers=job.data["answers"].num_rows)\n    model =')
    text = (
        TIMED
        + "  answers: {path: data/answers.parquet, key: id}\n"
        + ONE.format(data="[calls, answers]", features="[wind]")
    )
    harbour = portfolio(tmp_path, text, learn)
    pq.write_table(table().select(["id", "noise"]), harbour.root / "data" / "answers.parquet")
    outcome = harbour.apply()
    no_better_than_chance(outcome, "late")
    assert harbour.do(lambda p: p.version("late")).manifest["logged"]["answers"] == 720


VIEW = """\
  answers: {path: data/answers.parquet, time: known, key: id}
  seen:
    sql: select c.*, a.answer as hint from calls c left join answers a on a.id = c.id
    time: moment
    key: id
    available: {delay: 5h, noise: 5h}
"""


def test_a_view_that_joins_answers_from_later_is_refused(tmp_path: Path) -> None:
    text = TIMED + VIEW + ONE.format(data="seen", features="[wind, hint]")
    harbour = portfolio(tmp_path, text, LEARN.replace('"calls"', '"seen"'))
    base = table()
    known = pa.array(np.asarray(base.column("moment")) + np.timedelta64(5, "h"))
    # One answer in ten is wrong, so that it is no mere copy of the target.
    wrong = np.random.default_rng(5).random(base.num_rows) < 0.1
    answer = np.where(wrong, 1.0, 0.0) != np.asarray(base.column("noise_value"))
    answers = pa.table({"id": base.column("id"), "known": known, "answer": pa.array(answer.astype(np.float64))})
    pq.write_table(answers, harbour.root / "data" / "answers.parquet")
    outcome = harbour.apply()
    refused(outcome, "late", "seen", "hint")
    assert harbour.live() == {}


def test_a_feature_that_is_the_target_under_another_name_is_refused(tmp_path: Path) -> None:
    text = TIMED + ONE.format(data="calls", features="[wind, noise_value]")
    text = text.replace(", noise_value: 5h", "")  # nobody says that it is known late
    outcome = portfolio(tmp_path, text).apply()
    refused(outcome, "late", "noise_value", "noise")


def test_a_column_that_is_known_too_late_is_refused_as_a_feature(tmp_path: Path) -> None:
    harbour = portfolio(tmp_path, TIMED + ONE.format(data="calls", features="[wind, delay]"))
    with pytest.raises(PortfolioError, match="feature 'delay' is known only 18000 s after moment") as caught:
        harbour.plan()
    assert str(caught.value.where).startswith("portfolio.yaml:")
    assert "`available` of calls" in caught.value.hint
