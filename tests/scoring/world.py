"""A little stage to score in: real ONNX models, a real release file and artifacts; no training, no database."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tests.e2e.serve.conftest import linear, regression

from retinue.core.portfolio import TableSpec
from retinue.core.state import ReleaseImage, ServedEndpoint, ServedModel, ServedNeed
from retinue.scoring.job import Ask, ScoreOutcome
from retinue.scoring.ledger import Effect
from retinue.scoring.place import Place
from retinue.settings import Settings
from retinue.store.artifacts import FsspecArtifacts
from retinue.store.releasefile import point, write_release


def settings_of(root: Path) -> Settings:
    state = root / ".retinue"
    return Settings(state, "sqlite:///nowhere/at/all.db", f"file://{state / 'artifacts'}", port=0, admin_port=0)


def publish(root: Path, number: int = 1, slope: float = 2.0) -> None:
    """`area` chooses `area-{town}` (oslo, bergen, and one whose artifact is lost) and falls back on `all`.

    Each member reads `level`, which is made of x; `strict` has no fallback and takes an integer and no missing value.
    """
    settings = settings_of(root)
    store = FsspecArtifacts(settings.artifacts, settings.cache / "artifacts")
    need = (ServedNeed("level", "z", "level", {"v": "x"}),)

    def model(name: str, slopes: list[float], features: list[str], target: str = "y", **more: Any) -> ServedModel:
        digest = store.put(linear(slopes, 0.5))
        return ServedModel(name, f"{name}-v{number}", digest, "onnx", regression(features, target), "none", **more)

    strict = model("strict", [1.0, 3.0], ["x", "n"])
    body = dict(strict.signature)
    body["inputs"] = [{"name": "x", "dtype": "FP64", "nullable": False, "width": 1},
                      {"name": "n", "dtype": "INT64", "nullable": False, "width": 1}]  # fmt: skip
    models = [
        model("level", [slope], ["v"], "z"),
        model("area-oslo", [1.0, 0.25], ["x", "level"], needs=need),
        model("area-bergen", [3.0, 0.5], ["x", "level"], needs=need),
        replace(model("area-lost", [1.0], ["x"]), artifact="0" * 64),
        model("all", [7.0], ["x"]),
        replace(strict, signature=body),
    ]
    endpoints = [
        ServedEndpoint("area", "area-{town}", "all"),
        ServedEndpoint("alone", "area-{town}"),
        ServedEndpoint("whole", "strict"),
    ]
    image = ReleaseImage("shop", "prod", number, {m.name: m for m in models}, {e.name: e for e in endpoints})
    folder = settings.releases("shop", "prod")
    write_release(folder, image)
    point(folder, number)


def no_registry() -> Any:
    raise AssertionError("scoring a current release needs no database")


def place(root: Path, tables: Mapping[str, TableSpec] | None = None) -> Place:
    """The stage as `Project.scoring` gives it."""
    settings = settings_of(root)
    store = FsspecArtifacts(settings.artifacts, settings.cache / "artifacts")

    def declared() -> Any:
        from retinue.sources.catalog import Catalog

        return tables or {}, Catalog(tables or {}, root, settings.cache)

    return Place(settings, "shop", "prod", root, store, no_registry, declared, root)


TOWNS = ["oslo", "bergen", "nowhere", None, "lost", "oslo"]


def rows(count: int) -> pa.Table:
    """x with gaps, n with a value that is no integer, towns known, unknown, missing and unloadable."""
    return pa.table(
        {
            "id": [f"r{i}" for i in range(count)],
            "x": pa.array([None if i % 7 == 3 else i / 3 for i in range(count)], pa.float64()),
            "n": pa.array([i + 0.5 if i % 11 == 5 else float(i) for i in range(count)], pa.float64()),
            "town": [TOWNS[i % len(TOWNS)] for i in range(count)],
        }
    )


def write(root: Path, count: int = 300, name: str = "in.parquet", group: int = 40) -> Path:
    pq.write_table(rows(count), root / name, row_group_size=group)
    return root / name


def score(
    root: Path, out: str = "out", endpoint: str = "area", source: str = "in.parquet", **more: Any
) -> ScoreOutcome:
    extra = {key: more.pop(key) for key in ("number", "resume", "observer", "on_effect") if key in more}
    tables = more.pop("tables", None)
    more = {"partition": "90", "columns": ("id",), **more}
    return place(root, tables).score(Ask(endpoint, source, root / out, **more), **extra)


def read(folder: Path) -> pa.Table:
    """All answers, in the order of the input's rows."""
    files = sorted(path for path in folder.rglob("*.parquet"))
    tables = []
    for path in files:
        with pq.ParquetFile(path) as file:
            tables.append(file.read())
    return pa.concat_tables(tables).sort_by("row")


def listed(table: pa.Table, *without: str) -> list[dict[str, Any]]:
    """Rows that can be compared: NaN equals NaN."""
    kept = [name for name in table.schema.names if name not in without]
    return [{k: "nan" if v != v else v for k, v in row.items()} for row in table.select(kept).to_pylist()]  # noqa: PLR0124


def main(root: Path, last: int) -> None:
    """Score, and die by SIGKILL right after the n-th durable effect."""
    effects: list[str] = []

    def on_effect(effect: Effect, what: str) -> None:
        effects.append(effect.name)
        if len(effects) == last:
            (root / "note").write_text(" ".join(effects))
            os.kill(os.getpid(), signal.SIGKILL)

    score(root, journal="facts", on_effect=on_effect)
    (root / "note").write_text("ended")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
