"""A good file becomes the values it declares, whatever its form."""

from __future__ import annotations

import dataclasses
import io
import json
import random
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from retinue.core.errors import Location, PortfolioError
from retinue.core.family import expand
from retinue.core.portfolio import CutoffSpec, DataUse, ForEach, Gates, Limits, MetricGate, Need, Portfolio
from retinue.core.state import ServedCache, ServedJournal
from retinue.loader import load
from retinue.loader.read import parse

FLIGHTS = (Path(__file__).parent / "flights.yaml").read_text(encoding="utf-8")
LATE = "late-{origin}-{carrier}"


def read(text: str, folder: Path) -> Portfolio:
    file = folder / "portfolio.yaml"
    file.write_text(text, encoding="utf-8")
    return load(file)


def placeless(value: Any) -> Any:
    """A value without the places in it."""
    if isinstance(value, Location):
        return None
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: placeless(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: placeless(inner) for key, inner in value.items()}
    if isinstance(value, tuple):
        return tuple(placeless(inner) for inner in value)
    return value


def test_the_flights_file_declares_what_it_says(tmp_path: Path) -> None:
    portfolio = read(FLIGHTS, tmp_path)
    late = portfolio.models[LATE]
    assert (portfolio.name, portfolio.root, portfolio.cutoff) == ("flights", str(tmp_path), CutoffSpec(0.2))
    assert portfolio.tables["departures"].is_view
    assert portfolio.tables["departures"].available == (("late", 10800.0),)
    assert late.spec.data == (DataUse("departures", (("carrier", "{carrier}"), ("origin", "{origin}"))),)
    assert late.spec.needs == (Need("congestion", "mean_delay", "congestion", (("hour", "sched_hour"),)),)
    assert late.spec.gates == Gates(
        (
            MetricGate("log_loss", vs_champion=True, on_inconclusive="pooled"),
            MetricGate("roc_auc", minimum=0.6, on_inconclusive="pooled"),
        ),
        size=20_000_000,
    )
    assert late.spec.limits == Limits(600.0, 2_000_000_000)
    assert late.for_each == ForEach(
        ("origin", "carrier"), (), "departures", ("origin", "carrier"), min_rows=2000, lapse="keep"
    )
    assert late.spec.where == Location("portfolio.yaml", 36, 3)
    assert portfolio.endpoints["late"].fallback == "late-global"


def test_an_override_reaches_its_member_only(tmp_path: Path) -> None:
    template = read(FLIGHTS, tmp_path).models[LATE]
    members = expand(template, [(("JFK", "B6"), 3000), (("JFK", "AA"), 3000)]).members
    assert {spec.name: spec.params["max_iter"] for spec in members} == {"late-JFK-AA": 60, "late-JFK-B6": 120}


def test_what_acts_later_is_noted(tmp_path: Path) -> None:
    notes = read(FLIGHTS, tmp_path).notes
    assert notes[0] == ("rollout policy `careful`: steps act in a later Retinue; this build releases all at once")
    assert len(notes) == 5


def shuffled(value: Any, chance: random.Random) -> Any:
    if isinstance(value, dict):
        keys = list(value)
        chance.shuffle(keys)
        return {key: shuffled(value[key], chance) for key in keys}
    return [shuffled(item, chance) for item in value] if isinstance(value, list) else value


def block_style(value: Any) -> str:
    stream = io.StringIO()
    yaml = YAML()
    yaml.default_flow_style = False
    yaml.dump(value, stream)
    return stream.getvalue()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), form=st.sampled_from([json.dumps, block_style]))
def test_order_of_keys_and_formatting_change_nothing(seed: int, form: Any, tmp_path: Path) -> None:
    tree = shuffled(parse(FLIGHTS, "f").plain(), random.Random(seed))
    assert placeless(read(form(tree), tmp_path)) == placeless(read(FLIGHTS, tmp_path))


SMALL = """\
portfolio: p
data: {t: {path: t.csv}, u: {path: u.parquet}}
environments: {base: {requirements: r.txt}}
defaults: {environment: base, limits: {time: 5m}, gates: {accuracy: {min: 0.5}}, tags: [x]}
models:
  NAME: {train: "m:f", data: t, task: binary, features: [a, up], target: b, MORE}
  up: {train: "m:f", data: [u, t], task: regression, features: [a], target: y, gates: {accuracy: }}
"""


def small(folder: Path, name: str = "m", more: str = "") -> Portfolio:
    return read(SMALL.replace("NAME", name).replace("MORE", more), folder)


def test_defaults_are_merged_under_each_model_and_null_takes_one_away(tmp_path: Path) -> None:
    portfolio = small(tmp_path, more="limits: {memory: 1GB}, tags: [y]")
    spec = portfolio.models["m"].spec
    assert (spec.environment, spec.limits, spec.metadata.tags) == ("base", Limits(300.0, 10**9), ("y",))
    assert [gate.metric for gate in spec.gates.metrics] == ["accuracy"]
    assert portfolio.models["up"].spec.gates == Gates()
    assert spec.gates.metrics[0].on_inconclusive == "keep"


def test_needs_default_to_the_target_of_the_upstream_and_its_name(tmp_path: Path) -> None:
    assert small(tmp_path, more="needs: [up]").models["m"].spec.needs == (Need("up", "y", "up"),)


def test_the_first_table_of_a_list_holds_the_rows(tmp_path: Path) -> None:
    assert [use.table for use in small(tmp_path).models["up"].spec.data] == ["u", "t"]


@pytest.mark.parametrize(
    ("each", "keys"),
    [
        ("[01, 1.10, on, 'x']", ["01", "1.10", "on", "x"]),
        ("{k: [01, true]}", ["01", "true"]),
        ("[{k: 01}, {k: 0x1}]", ["01", "0x1"]),
    ],
)
def test_values_of_for_each_are_text_as_written(each: str, keys: list[str], tmp_path: Path) -> None:
    template = small(tmp_path, '"m-{k}"', f"for_each: {each}").models["m-{k}"]
    assert template.for_each is not None
    assert [key[0][1] for key in template.for_each.keys] == keys


def test_several_lists_give_every_combination_in_the_order_of_the_name(tmp_path: Path) -> None:
    template = small(tmp_path, '"m-{k}-{l}"', "for_each: {l: [x, y], k: [1, 2]}").models["m-{k}-{l}"]
    assert [spec.name for spec in expand(template).members] == ["m-1-x", "m-1-y", "m-2-x", "m-2-y"]


def test_a_columns_name_may_differ_from_the_placeholder(tmp_path: Path) -> None:
    each = "for_each: {distinct: {k: kind}, of: t, exclude: [01, '*x']}"
    template = small(tmp_path, '"m-{k}"', each).models["m-{k}"]
    assert template.for_each == ForEach(("k",), (), "t", ("kind",))
    assert template.exclude == (("*x",), ("01",))


def test_filters_are_text_as_written(tmp_path: Path) -> None:
    text = SMALL.replace("NAME", "m").replace("MORE", "").replace("data: t,", "data: {t: {where: {a: 01, b: true}}},")
    assert read(text, tmp_path).models["m"].spec.data == (DataUse("t", (("a", "01"), ("b", "true"))),)


def test_a_fixed_cutoff_is_a_moment_as_duckdb_prints_it(tmp_path: Path) -> None:
    assert read("portfolio: p\ncutoff: 2013-04-01\n", tmp_path).cutoff == CutoffSpec(None, "2013-04-01 00:00:00")


def test_the_more_exact_override_wins(tmp_path: Path) -> None:
    more = 'for_each: [{k: a, l: b}], override: {"a,b": {params: {x: 1}}, "*,b": {params: {x: 2, y: 2}}}'
    template = small(tmp_path, '"m-{k}-{l}"', more).models["m-{k}-{l}"]
    assert expand(template).members[0].params == {"x": 1, "y": 2}


def test_included_files_are_parts_of_one_portfolio(tmp_path: Path) -> None:
    main, models = SMALL.replace("NAME", "m").replace(", MORE", "").split("models:\n")
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "models.yaml").write_text("include: [more.yaml]\nmodels:\n" + models, encoding="utf-8")
    (tmp_path / "parts" / "more.yaml").write_text("policies: {rollout: {slow: {}}}\n", encoding="utf-8")
    split = read(main + "include: [parts/models.yaml]\npolicies: {rollout: {fast: {}}}\n", tmp_path)
    assert placeless(split.models) == placeless(small(tmp_path).models)
    assert split.models["m"].spec.where == Location("parts/models.yaml", 3, 3)
    assert set(split.policies["rollout"]) == {"fast", "slow"}


def test_included_files_may_not_declare_twice_nor_include_themselves(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text("include: [portfolio.yaml]\ndata: {t: {path: x.csv}}\nmodel: {}\n")
    with pytest.raises(PortfolioError) as caught:
        read("portfolio: p\ninclude: [b.yaml]\ndata: {t: {path: t.csv}}\n", tmp_path)
    assert [str(problem) for problem in caught.value.problems] == [
        "b.yaml:2:8: 't' is declared twice: first at portfolio.yaml:3, again here",
        "b.yaml:3:1: 'model' cannot stand in an included file",
        "b.yaml:1:11: include: portfolio.yaml includes itself",
    ]


def test_a_file_is_included_once_however_often_it_is_named(tmp_path: Path) -> None:
    for number in range(40):  # 2**40 files, if each were read as often as it is named
        again = f"[p{number + 1}.yaml, ./p{number + 1}.yaml]" if number < 39 else "[]"
        (tmp_path / f"p{number}.yaml").write_text(f"include: {again}\n")
    with pytest.raises(PortfolioError) as caught:
        read("portfolio: p\ninclude: [p0.yaml]\n", tmp_path)
    assert "p0.yaml:1:20: include: ./p1.yaml is included already" in map(str, caught.value.problems)


def test_names_end_where_their_text_ends(tmp_path: Path) -> None:
    for name in ("portfolio", "data", "models", "endpoints"):
        text = {"portfolio": '"p\\n"'}.get(name, f'p\n{name}: {{"m\\n": {{}}}}')
        with pytest.raises(PortfolioError) as caught:
            read(f"portfolio: {text}\n", tmp_path)
        assert any("name" in str(problem) and "\\n" in str(problem) for problem in caught.value.problems), name


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(PortfolioError, match="no such file") as caught:
        load(tmp_path / "portfolio.yaml")
    assert "retinue init" in caught.value.hint


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(PortfolioError, match="cannot be read"):
        load(tmp_path)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_file_is_read_or_refused_with_words(data: st.DataObject, tmp_path: Path) -> None:
    """Replace any value of the tree by anything: nothing but a PortfolioError comes out."""
    tree = parse(FLIGHTS, "f").plain()
    node: Any = tree
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = data.draw(st.sampled_from(keys))
        if not isinstance(node[key], (dict, list)) or not node[key] or data.draw(st.booleans()):
            break
        node = node[key]
    node[key] = data.draw(
        st.one_of(
            st.none(),
            st.booleans(),
            st.integers(-3, 3),
            st.text(max_size=5),
            st.just([]),
            st.just({}),
            st.just([None, {}]),
            st.just({"x": {"y": 1}}),
            st.just(["JFK", 1]),
        )
    )
    problems: tuple[PortfolioError, ...] = ()
    try:
        read(json.dumps(tree), tmp_path)
    except PortfolioError as error:
        problems = error.problems
    assert all(problem.where and problem.hint for problem in problems)


def test_loading_imports_none_of_the_heavy_packages(tmp_path: Path) -> None:
    (tmp_path / "portfolio.yaml").write_text(FLIGHTS, encoding="utf-8")
    code = (
        "import sys; from pathlib import Path; from retinue.loader import load; load(Path(sys.argv[1]));"
        "print([m for m in ('pyarrow', 'duckdb', 'onnxruntime', 'sklearn', 'pandas', 'scipy') if m in sys.modules])"
    )
    file = str(tmp_path / "portfolio.yaml")
    done = subprocess.run([sys.executable, "-c", code, file], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_options_of_serving_are_read_with_their_units(tmp_path: Path) -> None:
    text = FLIGHTS.replace(
        '    select: "late-{origin}-{carrier}"\n',
        '    select: "late-{origin}-{carrier}"\n    cache: {for: 1m30s}\n'
        "    journal: {tensors: 10%, hash: [sched_hour, carrier], drop: [dest]}\n",
    ).replace("    protect: true\n", "    protect: true\n    serve: {pinned: true, concurrency: 2}\n")
    portfolio = read(text, tmp_path)
    endpoint = portfolio.endpoints["late"]
    assert endpoint.cache == ServedCache(90.0, 10_000)
    assert endpoint.journal == ServedJournal(0.1, drop=("dest",), hash=("carrier", "sched_hour"))
    assert portfolio.models[LATE].spec.settings["serve"] == {"pinned": True, "concurrency": 2}
    plain = read(FLIGHTS, tmp_path).endpoints["late"]
    assert (plain.cache, plain.journal) == (None, ServedJournal())


@pytest.mark.parametrize(
    ("text", "share"),
    [("always", 1.0), ("never", 0.0), ("0.25", 0.25), ("25%", 0.25), ("0", 0.0), ("1", 1.0), ("100%", 1.0)],
)
def test_the_share_of_journalled_tensors_may_be_written_in_several_ways(
    text: str, share: float, tmp_path: Path
) -> None:
    found = read(f"{FLIGHTS}    journal: {{tensors: {text}}}\n", tmp_path)
    assert found.endpoints["late"].journal.tensors == share
