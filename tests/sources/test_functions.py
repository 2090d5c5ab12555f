"""Tables, versions and keys from a user's function, each in a process of its own in a named environment."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from retinue.build.functions import Functions, with_code
from retinue.core.errors import DataError, Location, PortfolioError
from retinue.core.portfolio import EnvironmentSpec
from retinue.settings import Settings, load_settings
from retinue.sources.catalog import Catalog
from retinue.sources.origins import Origins

from .conftest import table

pytestmark = pytest.mark.e2e

CODE = """
import os
import pyarrow as pa

def rows():
    with open(os.environ["RETINUE_PROJECT"] + "/calls", "a") as calls:
        calls.write("x")
    return pa.table({"a": [1, 2], "b": ["x", None]})

def batches():
    for part in ([1, 2], [3]):
        yield pa.record_batch({"a": part})

def frame():
    import pandas
    return pandas.DataFrame({"a": [1.5]})

def version():
    return 7

def keys():
    return [("a b", "c/d"), ("ü", "")]

def number():
    return 3

def none():
    return iter(())

def broken():
    raise ValueError("no such warehouse")
"""


class Bench:
    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "base.txt").write_text("scikit-learn==1.9.1\npandas==3.1.1\n")
        (root / "mine.py").write_text(CODE)
        base = load_settings(root, {})
        self.settings: Settings = base
        environments = {"base": EnvironmentSpec("base", Location("portfolio.yaml"), "base.txt")}
        self.call = Functions(environments, root, base, Path(tempfile.gettempdir()) / "retinue-test-environments")

    def catalog(self, function: str, *, anew: bool = False, **fields: str) -> Catalog:
        tables = with_code({"x": table("x", python=f"mine:{function}", environment="base", **fields)}, self.root)
        origins = Origins(self.root, self.root / "cache", {}, self.call, anew=anew)
        return Catalog(tables, self.root, self.root / "cache", origins=origins)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("functions"))


def test_a_function_is_called_once_until_its_code_changes_or_a_refresh_asks(bench: Bench) -> None:
    assert bench.catalog("rows").columns("x") == {"a": "INT64", "b": "BYTES"}
    pin = bench.catalog("rows").pin(["x"])
    assert bench.catalog("rows").read("x", ["a"], (), pin).num_rows == 2
    assert (bench.root / "calls").read_text() == "x"
    assert bench.catalog("rows", anew=True).pin(["x"]) == pin
    assert (bench.root / "calls").read_text() == "xx"
    code = bench.catalog("rows").spec("x").code
    (bench.root / "mine.py").write_text(CODE.replace('[1, 2], "b"', '[5, 6], "b"'))
    assert bench.catalog("rows").spec("x").code != code
    assert bench.catalog("rows").pin(["x"]).versions != pin.versions
    (bench.root / "mine.py").write_text(CODE)


def test_batches_data_frames_versions_and_keys_are_understood(bench: Bench) -> None:
    assert bench.catalog("batches", version="mine:version").pin(["x"]).versions == {"x": "7"}
    found = bench.catalog("batches", version="mine:version")
    assert found.read("x", ["a"], (), found.pin(["x"])).num_rows == 3
    assert bench.catalog("frame").columns("x") == {"a": "FP64"}
    assert bench.catalog("rows").keys_from("mine:keys", "base", "c") == [["a b", "c/d"], ["ü", ""]]


@pytest.mark.parametrize(
    ("function", "words"),
    [("number", "gave int"), ("none", "no batch"), ("broken", r"ValueError: no such warehouse \(mine.py:")],
)
def test_what_a_function_does_wrong_is_told_with_its_line(function: str, words: str, bench: Bench) -> None:
    with pytest.raises(DataError, match=words):
        bench.catalog(function).columns("x")


def test_an_unknown_function_or_environment_is_told(bench: Bench) -> None:
    with pytest.raises(PortfolioError, match="rowz"):
        bench.catalog("rowz")
    with pytest.raises(DataError, match="no environment 'bas'") as error:
        bench.call("mine:rows", "bas", "keys", bench.root / "k")
    assert "base" in error.value.hint
