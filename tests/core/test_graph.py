"""The graph of models, and selectors over it."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retinue.core.errors import Location, PortfolioError, UsageError
from retinue.core.graph import Graph, cycle, renames
from retinue.core.portfolio import Metadata, ModelSpec, Need
from retinue.core.selectors import select


def spec(
    name: str, *needs: str, family: str | None = None, tags: tuple[str, ...] = (), was: str | None = None
) -> ModelSpec:
    return ModelSpec(
        name=name,
        where=Location("portfolio.yaml", 3, 3),
        train="m:f",
        environment="base",
        data=(),
        features=("x",),
        target="y",
        task="regression",
        needs=tuple(Need(other, "y", other) for other in needs),
        family=family,
        metadata=Metadata(tags=tags),
        was=was,
    )


FLIGHTS = [
    spec("late-JFK", "congestion", family="late-{origin}", tags=("live",)),
    spec("late-LGA", "congestion", family="late-{origin}"),
    spec("congestion", "weather"),
    spec("weather"),
    spec("alone", tags=("live",)),
    spec("report", "late-JFK"),
]


def test_upstreams_stand_before_those_that_need_them() -> None:
    assert Graph.of(FLIGHTS).order == ("alone", "weather", "congestion", "late-JFK", "late-LGA", "report")


def test_order_does_not_depend_on_the_order_of_declaration() -> None:
    assert Graph.of(FLIGHTS) == Graph.of(reversed(FLIGHTS))


def test_a_circle_is_named_by_its_path() -> None:
    with pytest.raises(PortfolioError, match="circle: a → c → b → a"):
        Graph.of([spec("b", "a"), spec("a", "c"), spec("c", "b"), spec("d", "a"), spec("e")])


def test_a_model_that_needs_itself_is_a_circle() -> None:
    with pytest.raises(PortfolioError, match="circle: a → a"):
        Graph.of([spec("a", "a")])


def test_unknown_upstreams_are_all_told_with_the_nearest_name() -> None:
    with pytest.raises(PortfolioError, match="report needs 'nothing'") as caught:
        Graph.of([spec("report", "wether", "nothing"), spec("weather")])
    assert caught.value.problems[1].hint == "Did you mean 'weather'?"


def test_components_are_what_needs_connect() -> None:
    assert Graph.of(FLIGHTS).components() == (
        ("alone",),
        ("congestion", "late-JFK", "late-LGA", "report", "weather"),
    )


def test_closures_reach_all_the_way() -> None:
    graph = Graph.of(FLIGHTS)
    assert graph.upstream(["report"]) == {"late-JFK", "congestion", "weather"}
    assert graph.downstream(["congestion"]) == {"late-JFK", "late-LGA", "report"}


@pytest.mark.parametrize(
    ("expression", "names"),
    [
        ("congestion", {"congestion"}),
        ("late-*", {"late-JFK", "late-LGA"}),
        ("family:late", {"late-JFK", "late-LGA"}),
        ("family:late-{origin}", {"late-JFK", "late-LGA"}),
        ("tag:live", {"late-JFK", "alone"}),
        ("tag:l*", {"late-JFK", "alone"}),
        ("+congestion", {"congestion", "weather"}),
        ("congestion+", {"congestion", "late-JFK", "late-LGA", "report"}),
        ("+late-JFK+", {"weather", "congestion", "late-JFK", "report"}),
        ("@weather", {"weather", "congestion", "late-JFK", "late-LGA", "report"}),
        ("+family:late", {"late-JFK", "late-LGA", "congestion", "weather"}),
        ("family:late,tag:live", {"late-JFK"}),
        ("congestion,alone", set()),
    ],
)
def test_selectors_choose(expression: str, names: set[str]) -> None:
    assert select([expression], FLIGHTS) == names


def test_several_selectors_are_united_and_exclusions_taken_away() -> None:
    assert select(["alone", "family:late"], FLIGHTS, exclude=["late-JFK"]) == {"alone", "late-LGA"}
    assert select([], FLIGHTS, exclude=["family:late"]) == {"alone", "weather", "congestion", "report"}


@pytest.mark.parametrize(
    ("expression", "message", "hint"),
    [
        ("congestoin", "no model is named 'congestoin'", "Did you mean 'congestion'?"),
        ("family:lat", "no family is named 'lat'", "Did you mean 'late'?"),
        ("tag:dead", "no tag is named 'dead'", "Known are: live."),
        ("zz*", "no model is named 'zz*'", "Known are: alone"),
        ("tags:live", "unknown kind of selector 'tags'", "Did you mean 'tag'?"),
        ("state:modified", "cannot be asked here", "retinue plan --select"),
        ("++a", "cannot be read", "NAME"),
        ("", "cannot be read", "NAME"),
    ],
)
def test_a_selector_that_chooses_nothing_is_told_with_the_next_step(expression: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        select([expression], FLIGHTS)
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_a_model_whose_name_looks_like_a_pattern_can_be_named() -> None:
    assert select(["a%5B1%5D"], [spec("a%5B1%5D"), spec("b")]) == {"a%5B1%5D"}


def test_renames_tell_the_old_name() -> None:
    assert renames([spec("new", was="old"), spec("other")]) == {"new": "old"}


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        ([spec("new", was="old"), spec("old")], "still declared"),
        ([spec("a", was="old"), spec("b", was="old")], "b and a both were 'old'"),
    ],
)
def test_an_old_name_has_one_heir(specs: list[ModelSpec], message: str) -> None:
    with pytest.raises(PortfolioError, match=message):
        renames(specs)


GRAPHS = st.dictionaries(st.integers(0, 9).map(str), st.frozensets(st.integers(0, 9).map(str), max_size=3), max_size=10)


@given(GRAPHS)
def test_a_graph_has_an_order_or_a_circle_and_never_both(edges: dict[str, frozenset[str]]) -> None:
    names = sorted(set(edges).union(*edges.values()))
    specs = [spec(name, *edges.get(name, ())) for name in names]
    path = cycle({name: edges.get(name, frozenset()) for name in names})
    if path:
        assert path[0] == path[-1]
        assert all(after in edges[before] for before, after in pairwise(path))
        with pytest.raises(PortfolioError, match="circle"):
            Graph.of(specs)
        return
    graph = Graph.of(specs)
    place = {name: index for index, name in enumerate(graph.order)}
    assert sorted(graph.order) == names
    assert all(place[need] < place[name] for name in names for need in graph.needs[name])
    assert sorted(name for component in graph.components() for name in component) == names


def test_a_chain_of_ten_thousand_is_no_deeper_than_one() -> None:
    chain = [spec("0")] + [spec(str(number), str(number - 1)) for number in range(1, 10_000)]
    graph = Graph.of(chain)
    assert len(graph.upstream(["9999"])) == 9_999
    assert len(cycle({str(n): [str((n + 1) % 10_000)] for n in range(10_000)})) == 10_001
