"""Selectors: what they choose, their laws, and what is said of those that choose nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retinue.core.errors import Location, UsageError
from retinue.core.graph import Graph
from retinue.core.portfolio import DataUse, Metadata, ModelSpec, Need
from retinue.core.selectors import Chooser, States, select

NAMES = "abcdef"


def spec(name: str, *needs: str, tags: tuple[str, ...] = (), owner: str | None = None) -> ModelSpec:
    return ModelSpec(
        name=name,
        where=Location("p.yaml", 1),
        train="m:f",
        environment="base",
        data=(DataUse("t"),),
        features=("x",),
        target="y",
        task="regression",
        needs=tuple(Need(up, "y", up) for up in needs),
        metadata=Metadata(owner=owner, tags=tags),
    )


CHAIN = [
    spec("a"),
    spec("b", "a"),
    spec("c", "b", tags=("last",), owner="ada@x"),
    spec("d", "a"),
    spec("a+b"),
    spec("x,y"),
]


@pytest.mark.parametrize(
    ("expressions", "names"),
    [
        (["1+c"], "b c"),
        (["2+c"], "a b c"),
        (["+c"], "a b c"),
        (["a+1"], "a b d"),
        (["a+"], "a b c d"),
        (["0+c"], "c"),
        (["@b"], "a b c"),
        (["1+b+1"], "a b c"),
        (["c d"], "c d"),
        (["c", "d"], "c d"),
        (["a+,+c"], "a b c"),
        (["owner:ada@x"], "c"),
        (["owner:ada*,tag:last"], "c"),
        (["name:d"], "d"),
        (["a+b"], "a+b"),
        (["x,y"], "x,y"),
    ],
)
def test_a_selector_chooses(expressions: list[str], names: str) -> None:
    assert select(expressions, CHAIN) == set(names.split())


def test_states_are_asked_for_once_and_only_when_named() -> None:
    asked: list[int] = []

    def states() -> States:
        asked.append(1)
        return States(frozenset("b"), frozenset("bd"))

    chooser = Chooser.of(CHAIN, states)
    assert chooser.choose(["a"]) == {"a"}
    assert asked == []
    assert chooser.choose(["state:modified"], ["state:new"]) == {"d"}
    assert chooser.choose(["+state:new"]) == {"a", "b"}
    assert asked == [1]
    assert Chooser.of(CHAIN, States).choose(["state:modified"]) == set()


@pytest.mark.parametrize(
    ("expression", "message", "hint"),
    [
        ("owner:ada", "no owner is named 'ada'", "ada@x"),
        ("tag:lost", "no tag is named 'lost'", "Did you mean 'last'?"),
        ("state:modifed", "there is no state 'modifed'", "Did you mean 'modified'?"),
        ("state:new", "it needs a plan", "retinue plan --select"),
        ("ownr:x", "unknown kind of selector", "Did you mean 'owner'?"),
        ("@+b", "cannot be read", "NAME"),
        ("@b+", "cannot be read", "NAME"),
        ("   ", "cannot be read", "NAME"),
    ],
)
def test_a_selector_that_names_nothing_is_told_with_the_next_step(expression: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        select([expression], CHAIN)
    assert message in caught.value.message
    assert hint in (caught.value.hint or "")


@st.composite
def portfolios(draw: st.DrawFn) -> list[ModelSpec]:
    made: list[ModelSpec] = []
    for name in NAMES:
        ups = draw(st.lists(st.sampled_from([s.name for s in made]), unique=True, max_size=2)) if made else []
        made.append(spec(name, *ups))
    return made


@given(portfolios(), st.sampled_from(NAMES), st.sampled_from(NAMES), st.integers(0, 6))
def test_the_laws_of_selectors(specs: list[ModelSpec], one: str, other: str, steps: int) -> None:
    def chosen(*expressions: str, without: tuple[str, ...] = ()) -> frozenset[str]:
        return select(expressions, specs, without)

    graph = Graph.of(specs)
    assert chosen(f"+{one}") == graph.upstream([one]) | {one}
    assert chosen(f"{one}+") == graph.downstream([one]) | {one}
    assert chosen(f"+{one} {other}+") == chosen(f"+{one}", f"{other}+") == chosen(f"+{one}") | chosen(f"{other}+")
    assert chosen(f"+{one},{other}+") == chosen(f"+{one}") & chosen(f"{other}+")
    assert chosen(without=(f"+{one}",)) == set(NAMES) - chosen(f"+{one}")
    assert chosen(f"{steps}+{one}") <= chosen(f"{steps + 1}+{one}") <= chosen(f"+{one}")
    assert chosen(f"{len(NAMES)}+{one}") == chosen(f"+{one}")
    assert (other in chosen(f"+{one}")) == (one in chosen(f"{other}+"))
    assert chosen(f"@{one}") >= chosen(f"{one}+") | chosen(f"+{one}")
    assert all(graph.upstream([name]) <= chosen(f"@{one}") for name in chosen(f"@{one}"))
