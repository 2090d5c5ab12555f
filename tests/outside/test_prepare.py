"""`prepare:` from the file to the answer: the same function at training, gates, serving and scoring."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.routes.harbour import Harbour, statuses, write

from retinue.core.declaration import differences
from retinue.core.errors import PortfolioError
from retinue.core.plan import Build
from retinue.core.portfolio import ModelSpec
from retinue.gateway.record import read_record
from retinue.scoring.job import Ask

PORTFOLIO = """\
portfolio: harbour
format: 1
data:
  calls: {path: data/calls.parquet, time: moment, key: id, available: {delay: 1h}}
environments:
  base: {requirements: envs/base.txt}
defaults: {environment: base, data: calls, task: regression, target: delay}
models:
  delay:
    train: harbour.delay:train
    prepare: harbour.prep:ready
    features: [hour, region, swell]
    gates: {mae: {max: 5}}
"""
TRAIN = """\
from sklearn.linear_model import Ridge


def train(job):
    table = job.data["calls"].to_pandas()
    assert list(table.columns)[:2] == list(job.features) == ["sine", "rough"], list(table.columns)
    model = Ridge().fit(table[list(job.features)], table[job.target])
    job.log(sine=model.coef_[0], rough=model.coef_[1], base=model.intercept_)
    return model
"""
PREP = """\
import math

import pandas as pd

from harbour.regions import ROUGH


def ready(table):
    df = table.to_pandas()
    return pd.DataFrame({
        "sine": [math.sin(hour / 24 * 2 * math.pi) for hour in df["hour"]],
        "rough": df["region"].map(ROUGH).fillna(0.5) * df["swell"].fillna(0.0),
    })
"""
REGIONS = 'ROUGH = {"north": 1.0, "south": 0.25}\n'
ROWS = [
    {"hour": 3, "region": "north", "swell": 1.5},
    {"hour": 12, "region": "south", "swell": None},
    {"hour": 23, "region": "nowhere", "swell": -2.0},
]


def place(root: Path) -> Harbour:
    (root / "harbour").mkdir(parents=True)
    (root / "harbour" / "prep.py").write_text(PREP)
    (root / "harbour" / "regions.py").write_text(REGIONS)
    return write(root, PORTFOLIO, {"harbour/delay.py": TRAIN})


@contextmanager
def served(harbour: Harbour) -> Iterator[str]:
    """A real server with one gateway on the harbour's stage; its URL."""
    (harbour.root / "retinue.toml").write_text("[serve]\nport = 0\nadmin_port = 0\ngateways = 1\n")
    own = harbour.root / ".retinue" / "environments"
    if not own.exists():
        own.symlink_to(harbour.project().settings.environments)
    process = subprocess.Popen(
        [sys.executable, "-m", "retinue", "serve"], cwd=harbour.root, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert "release 1" in process.stdout.readline()
        record = read_record(harbour.root / ".retinue" / "releases" / "harbour" / "prod")
        assert record is not None
        yield record.url
    finally:
        process.terminate()
        assert process.wait(timeout=30) == 0
        if process.stdout is not None:
            process.stdout.close()


def by_hand(harbour: Harbour, rows: list[dict[str, Any]]) -> list[float]:
    """The function as it stands in the checkout, then the line that the training logged."""
    said = harbour.do(lambda p: p.version("delay")).manifest["logged"]
    space: dict[str, Any] = {}
    exec(PREP.replace("from harbour.regions import ROUGH", REGIONS), space)
    made = space["ready"](pa.Table.from_pylist(rows))
    found = said["base"] + said["sine"] * made["sine"] + said["rough"] * made["rough"]
    return [float(value) for value in found]


@pytest.mark.e2e
def test_a_preparation_travels_with_its_version_to_gates_gateway_and_batch(tmp_path: Path) -> None:
    h = place(tmp_path / "p")
    outcome = h.apply()
    assert outcome.release == 1, [m.text for m in outcome.models]
    assert h.plan().empty
    version = h.do(lambda p: p.version("delay"))
    artifact = version.manifest["artifact"]
    assert artifact["format"] == "prepared"
    assert [field["name"] for field in artifact["signature"]["inputs"]] == ["hour", "region", "swell"]
    assert "preparation" in version.manifest["compiled"]["reason"]
    expected = pytest.approx(by_hand(h, ROWS), rel=1e-9)

    pq.write_table(pa.Table.from_pylist(ROWS), h.root / "in.parquet")
    h.do(lambda p: p.scoring.score(Ask("delay", str(h.root / "in.parquet"), h.root / "out", journal="none")))
    assert pq.read_table(h.root / "out").sort_by("row").column("delay").to_pylist() == expected
    _changed(h)
    with served(h) as url:  # what the checkout says by now is nothing to the version
        body = httpx.post(f"{url}/predict/delay", json={"rows": ROWS}, timeout=60).json()
        assert [row["delay"] for row in body["predictions"]] == expected
        refused = httpx.post(f"{url}/predict/delay", json={"rows": [{"sine": 1.0, "rough": 0.0}]}, timeout=60).json()
        assert "hour" in str(refused)


def _changed(h: Harbour) -> None:
    """Changes of the code are changes of the model; those that break a promise leave the champion in place."""
    prep = "harbour/prep.py"
    h.edit("import math\n", "import math  # the sine\n", prep)
    assert h.plan().empty

    h.edit('df["swell"].fillna(0.0)', '(df["swell"].fillna(0.0) - df["swell"].fillna(0.0).mean())', prep)
    step = next(s for s in h.plan().steps if isinstance(s, Build))
    assert [(why.reason, why.text) for why in step.why] == [("CODE", prep)]
    outcome = h.apply()
    assert statuses(outcome) == {"delay": "gate failed"}
    detail = next(r["detail"] for r in outcome.models[0].results if r["gate"] == "contract.single")
    assert "`prepare: harbour.prep:ready` must make each row from that row alone" in detail

    h.edit("    df = table", "    raise LookupError('no chart')\n    df = table", prep)
    outcome = h.apply()
    assert statuses(outcome) == {"delay": "failed"}
    assert "prepare raised LookupError: no chart" in outcome.models[0].text
    assert "harbour/prep.py:9 in ready: raise LookupError('no chart')" in outcome.models[0].text
    assert h.number() == 1


def test_it_is_in_the_definition_only_where_it_is_said_and_survives_a_record(tmp_path: Path) -> None:
    h = place(tmp_path / "p")
    said = h.do(lambda p: p.portfolio.models["delay"].spec)
    assert msgspec.convert(msgspec.to_builtins(said), ModelSpec) == said
    with_it = next(iter(h.plan().definitions.values()))
    assert with_it["prepare"] == "harbour.prep:ready"
    assert {"harbour/prep.py", "harbour/regions.py"} <= set(with_it["code"])
    h.edit("    prepare: harbour.prep:ready\n", "")
    without = next(iter(h.plan().definitions.values()))
    assert "prepare" not in without
    assert "harbour/prep.py" not in without["code"]
    (why, *_) = differences(without, with_it)
    assert (why.reason, why.text) == (
        "CODE",
        "prepare nothing → harbour.prep:ready, harbour/prep.py, harbour/regions.py",
    )


def test_a_function_that_is_not_there_is_told_where_it_is_named(tmp_path: Path) -> None:
    h = place(tmp_path / "p")
    before = h.do(lambda p: p.validate())
    assert before
    for wrong, said in (
        ("harbour.prep:redy", "Did you mean 'ready' in line 8?"),
        ("harbour.perp:ready", "prepare: harbour.perp:ready"),
    ):
        h.edit("harbour.prep:ready", wrong)
        with pytest.raises(PortfolioError) as caught:
            h.do(lambda p: p.validate())
        assert said in str(caught.value.hint)
        assert caught.value.where
        h.edit(wrong, "harbour.prep:ready")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("prepare: harbour.prep:ready", "prepare: harbour/prep.py", "expected module:function"),
        ("prepare: harbour.prep:ready", "prepare: [a, b]", "prepare"),
        (
            "    features: [",
            "    compile: require\n    features: [",
            "a preparation is Python, which cannot be compiled",
        ),
        ("train: harbour.delay:train", "artifact: a.skops", "a model from outside takes its features as they are"),
        ("prepare:", "preprare:", "prepare"),
    ],
)
def test_a_preparation_that_cannot_be_is_refused_with_its_place(tmp_path: Path, old: str, new: str, said: str) -> None:
    h = place(tmp_path / "p")
    h.edit(old, new)
    with pytest.raises(PortfolioError) as caught:
        h.do(lambda p: p.validate())
    assert said in f"{caught.value.message} {caught.value.hint}"
    assert "portfolio.yaml:" in str(caught.value.where)
