"""Which member a row goes to, and which models one answer runs."""

from __future__ import annotations

from typing import Any

import pytest

from retinue.core.contract import Field
from retinue.core.errors import UnavailableError
from retinue.core.routing import Source, graph_of, key_text, member_name, member_pattern, placeholders
from retinue.core.state import ServedModel, ServedNeed


def _model(name: str, features: list[str], needs: tuple[ServedNeed, ...] = (), nullable: bool = True) -> ServedModel:
    inputs = [{"name": f, "dtype": "FP64", "nullable": nullable, "width": 1} for f in features]
    return ServedModel(name, f"{name}1", "0" * 64, "onnx", {"inputs": inputs, "outputs": []}, "e", needs)


def _graph(name: str, *models: ServedModel) -> Any:
    return graph_of(name, {model.name: model for model in models}.get)


@pytest.mark.parametrize(
    ("value", "text"),
    [("a", "a"), ("", ""), (7, "7"), (7.0, "7"), (1.5, "1.5"), (False, "false"), (None, None), ([1], None), ({}, None)],
)
def test_a_rows_value_becomes_a_key_only_where_it_is_one(value: object, text: str | None) -> None:
    assert key_text(value) == text


def test_a_member_is_named_by_its_escaped_key() -> None:
    select = "late-{origin}-{carrier}"
    assert placeholders(select) == ("origin", "carrier")
    name = member_name(select, {"origin": "a/b", "carrier": "ü%"})
    assert name == "late-a%2Fb-%C3%BC%25"
    assert member_pattern(select).fullmatch(name)
    assert not member_pattern(select).fullmatch("late-global")


def test_a_model_alone_is_one_node_fed_by_the_request() -> None:
    graph = _graph("m", _model("m", ["x", "y"], nullable=False))
    assert [node.model for node in graph.nodes] == ["m"]
    assert graph.nodes[0].sources == (Source(field="x"), Source(field="y"))
    assert graph.fields == (Field("x", "FP64", False), Field("y", "FP64", False))


def test_upstream_features_are_read_through_the_mapping_all_the_way_up() -> None:
    top = _model("top", ["hour", "wind"])
    middle = _model("middle", ["t", "calm"], (ServedNeed("top", "y", "calm", {"hour": "t", "wind": "w"}),))
    bottom = _model("bottom", ["x", "mid"], (ServedNeed("middle", "y", "mid", {"t": "sched"}),))
    graph = _graph("bottom", top, middle, bottom)
    assert [node.model for node in graph.nodes] == ["top", "middle", "bottom"]
    assert graph.nodes[0].sources == (Source(field="sched"), Source(field="w"))
    assert graph.nodes[1].sources == (Source(field="sched"), Source(node=0, output="y"))
    assert graph.nodes[2].after == (1,)
    assert [field.name for field in graph.fields] == ["x", "sched", "w"]


def test_an_upstream_fed_alike_from_two_sides_runs_once_and_fed_differently_twice() -> None:
    base = _model("base", ["h"])
    left = _model("left", ["b"], (ServedNeed("base", "y", "b", {}),))
    right = _model("right", ["b"], (ServedNeed("base", "y", "b", {}),))
    needs = (ServedNeed("left", "y", "l", {}), ServedNeed("right", "y", "r", {}))
    graph = _graph("m", base, left, right, _model("m", ["l", "r"], needs))
    assert [node.model for node in graph.nodes] == ["base", "left", "right", "m"]
    assert graph.nodes[3].after == (1, 2)
    renamed = (ServedNeed("left", "y", "l", {}), ServedNeed("right", "y", "r", {"h": "h2"}))
    graph = _graph("m", base, left, right, _model("m", ["l", "r"], renamed))
    assert [node.model for node in graph.nodes] == ["base", "left", "base", "right", "m"]
    assert {field.name for field in graph.fields} == {"h", "h2"}


def test_a_field_that_one_reader_needs_is_needed() -> None:
    up = _model("up", ["x"], nullable=False)
    graph = _graph("m", up, _model("m", ["x", "u"], (ServedNeed("up", "y", "u", {}),)))
    assert graph.fields == (Field("x", "FP64", False),)


def test_an_upstream_that_is_not_there_or_needs_itself_is_named() -> None:
    need = (ServedNeed("gone", "y", "g", {}),)
    with pytest.raises(UnavailableError, match="m needs gone, which is not in this release"):
        _graph("m", _model("m", ["g"], need))
    with pytest.raises(UnavailableError, match="m needs itself"):
        _graph("m", _model("m", ["g"], (ServedNeed("m", "y", "g", {}),)))
