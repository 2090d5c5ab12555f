"""One template, many models."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retinue.core.errors import Location, PortfolioError
from retinue.core.family import (
    Expansion,
    Waiting,
    amend,
    by_name,
    could_be,
    escape,
    expand,
    family_label,
    file_name,
    fill_name,
    key_of,
    placeholders,
)
from retinue.core.portfolio import (
    DataUse,
    ForEach,
    Gates,
    Limits,
    Metadata,
    MetricGate,
    ModelSpec,
    ModelTemplate,
    Need,
    Override,
)

HERE = Location("portfolio.yaml", 7, 3)
NAME = "late-{origin}-{carrier}"
SPEC = ModelSpec(
    name=NAME,
    where=HERE,
    train="m:train",
    environment="base",
    data=(DataUse("departures", (("carrier", "{carrier}"), ("origin", "{origin}"))), DataUse("weather")),
    features=("hour", "queue"),
    target="late",
    task="binary",
    params={"rate": 0.1, "depth": 3, "text": "{origin}"},
    needs=(Need("queue-{origin}", "length", "queue"),),
    family=NAME,
    was="delay-{origin}-{carrier}",
)


def template(*overrides: Override, min_rows: int = 1, exclude: tuple[tuple[str, ...], ...] = ()) -> ModelTemplate:
    each = ForEach(("origin", "carrier"), (), "departures", ("origin", "carrier"), min_rows)
    return ModelTemplate(SPEC, each, overrides, exclude)


def override(*match: str, **values: Any) -> Override:
    return Override(match, values, HERE)


def test_a_member_has_its_values_in_name_filters_needs_old_name_and_key() -> None:
    (spec,) = expand(template(), [(("JFK", "B6"), 5)]).members
    assert (spec.name, spec.was, spec.family) == ("late-JFK-B6", "delay-JFK-B6", NAME)
    assert spec.key == (("origin", "JFK"), ("carrier", "B6"))
    assert spec.data == (DataUse("departures", (("carrier", "B6"), ("origin", "JFK"))), DataUse("weather"))
    assert spec.needs == (Need("queue-JFK", "length", "queue"),)


def test_parameters_are_not_filled() -> None:
    (spec,) = expand(template(), [(("JFK", "B6"), 5)]).members
    assert spec.params["text"] == "{origin}"


def test_values_are_escaped_in_names_and_bound_as_they_are_in_filters() -> None:
    (spec,) = expand(template(), [(("São Paulo", "a/b"), 5)]).members
    assert spec.name == "late-S%C3%A3o%20Paulo-a%2Fb"
    assert dict(spec.data[0].filters) == {"origin": "São Paulo", "carrier": "a/b"}


def test_a_value_that_looks_like_a_placeholder_is_not_filled_again() -> None:
    (spec,) = expand(template(), [(("{carrier}", "B6"), 5)]).members
    assert dict(spec.data[0].filters)["origin"] == "{carrier}"


def test_a_single_model_is_its_own_expansion() -> None:
    single = ModelTemplate(replace(SPEC, name="late", family=None))
    assert expand(single) == Expansion((single.spec,))


def test_keys_written_out_need_no_rows() -> None:
    keys = tuple((("origin", o), ("carrier", "B6")) for o in ("LGA", "JFK"))
    listed = replace(template(), for_each=ForEach(("origin", "carrier"), keys))
    assert [spec.name for spec in expand(listed).members] == ["late-JFK-B6", "late-LGA-B6"]


def test_a_key_with_too_few_rows_waits() -> None:
    found = expand(template(min_rows=2000), [(("JFK", "B6"), 2000), (("JFK", "AA"), 212)])
    assert [spec.name for spec in found.members] == ["late-JFK-B6"]
    assert found.waiting == (Waiting("late-JFK-AA", (("origin", "JFK"), ("carrier", "AA")), 212, 2000),)


def test_a_live_member_that_falls_below_or_disappears_has_lapsed() -> None:
    found = expand(template(min_rows=10), [(("JFK", "B6"), 3)], live=[("JFK", "B6"), ("LGA", "B6")])
    assert [(lapsed.spec.name, lapsed.rows) for lapsed in found.lapsed] == [("late-JFK-B6", 3), ("late-LGA-B6", 0)]
    assert found.members == ()
    assert found.waiting == ()


def test_excluded_keys_are_no_models() -> None:
    found = expand(template(exclude=(("JFK", "*"),)), [(("JFK", "B6"), 5), (("LGA", "B6"), 5)])
    assert [spec.name for spec in found.members] == ["late-LGA-B6"]
    assert found.excluded == ("late-JFK-B6",)


def test_overrides_merge_parameters_and_replace_the_rest() -> None:
    found = expand(
        template(override("JFK", "*", params={"depth": 5}, protect=True), override("JFK", "B6", params={"rate": 1.0})),
        [(("JFK", "B6"), 5), (("JFK", "AA"), 5), (("LGA", "B6"), 5)],
    )
    got = {spec.name: (spec.params["rate"], spec.params["depth"], spec.protect) for spec in found.members}
    assert got == {
        "late-JFK-AA": (0.1, 5, True),
        "late-JFK-B6": (1.0, 5, True),
        "late-LGA-B6": (0.1, 3, False),
    }


def test_an_overridden_filter_is_filled_too() -> None:
    uses = (DataUse("departures", (("origin", "{origin}"),)),)
    (spec,) = expand(template(override("JFK", "B6", data=uses)), [(("JFK", "B6"), 5)]).members
    assert spec.data == (DataUse("departures", (("origin", "JFK"),)),)


def test_overrides_that_match_nobody_are_all_told() -> None:
    overrides = (override("JFK", "XX", protect=True), override("EWR", "*", protect=True))
    with pytest.raises(PortfolioError, match="override 'JFK,XX' matches no member") as caught:
        expand(template(*overrides), [(("JFK", "B6"), 5)])
    assert len(caught.value.problems) == 2


def test_an_override_of_a_waiting_or_lapsed_member_is_no_mistake() -> None:
    chosen = template(override("JFK", "AA", protect=True), override("EWR", "AA", protect=True), min_rows=9)
    assert expand(chosen, [(("JFK", "AA"), 5)], live=[("EWR", "AA")]).members == ()


def test_a_key_given_twice_is_refused() -> None:
    with pytest.raises(PortfolioError, match="given twice"):
        expand(template(), [(("JFK", "B6"), 5), (("JFK", "B6"), 6)])


def test_an_empty_name_is_refused() -> None:
    bare = ModelTemplate(replace(SPEC, name="{x}", data=(), needs=(), was=None), ForEach(("x",)))
    with pytest.raises(PortfolioError, match="empty name"):
        expand(bare, [(("",), 5)])


def test_two_models_of_one_name_are_refused_with_both_places() -> None:
    first = Expansion((replace(SPEC, name="late-JFK", where=Location("a.yaml", 1, 1)),))
    second = Expansion((replace(SPEC, name="late-JFK", where=Location("b.yaml", 2, 2)),))
    with pytest.raises(PortfolioError, match=r"b.yaml:2:2.*late-JFK.*a.yaml:1:1"):
        by_name([first, second])


def test_names_that_run_together_are_refused() -> None:
    keys = [(("a-b", "c"), 5), (("a", "b-c"), 5)]
    with pytest.raises(PortfolioError, match="two models are named 'late-a-b-c'"):
        by_name([expand(template(), keys)])


def test_gates_are_merged_metric_by_metric_and_limits_field_by_field() -> None:
    spec = replace(SPEC, gates=Gates((MetricGate("brier", maximum=0.2), MetricGate("roc_auc", minimum=0.6)), size=10))
    changes: Mapping[str, Any] = {
        "gates": {"metrics": (MetricGate("roc_auc", minimum=0.7), MetricGate("accuracy", minimum=0.5))},
        "limits": {"time": 60.0},
        "metadata": {"owner": "me"},
    }
    changed = amend(spec, changes)
    assert changed.gates == Gates(
        (MetricGate("accuracy", minimum=0.5), MetricGate("brier", maximum=0.2), MetricGate("roc_auc", minimum=0.7)),
        size=10,
    )
    assert changed.limits == Limits(time=60.0)
    assert changed.metadata == Metadata(owner="me")


def test_ten_thousand_members_keep_their_order() -> None:
    keys = [((f"{number:05}", "B6"), 1) for number in reversed(range(10_000))]
    names = [spec.name for spec in expand(template(override("*", "B6", protect=True)), keys).members]
    assert len(names) == 10_000
    assert names == sorted(names)


@given(st.text(max_size=20))
def test_an_escaped_value_is_one_safe_piece_and_can_be_read_back(value: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError:
        return  # a lone surrogate is no text that a file or database holds
    escaped = escape(value)
    assert re.fullmatch(r"([A-Za-z0-9._~-]|%[0-9A-F]{2})*", escaped)
    assert unquote(escaped) == value
    assert escaped not in (".", "..")


@given(st.text(alphabet="aZ0 /é", min_size=1, max_size=5), st.text(alphabet="aZ0 /é", min_size=1, max_size=5))
def test_values_can_be_read_back_from_a_name(origin: str, carrier: str) -> None:
    values = {"origin": origin, "carrier": carrier}
    assert key_of(NAME, fill_name(NAME, values)) == values


def test_a_name_that_no_values_give_has_no_key() -> None:
    assert key_of("late-{origin}", "early-JFK") is None


def test_a_name_with_placeholders_could_be_a_member_of_a_family() -> None:
    assert could_be("queue-{airport}", "queue-{origin}")
    assert could_be("queue-{airport}", "queue-JFK")
    assert not could_be("queue-{airport}", "late-{origin}")


def test_the_label_of_a_family_is_what_stands_before_its_placeholders() -> None:
    assert [family_label(name) for name in (NAME, "eta.{x}", "plain", "{x}")] == ["late", "eta", "plain", "{x}"]


def test_placeholders_are_told_once_in_order() -> None:
    assert placeholders("{b}-{a}-{b}-{1}") == ("b", "a")


@given(st.text(min_size=1), st.text(min_size=1))
def test_names_of_files_fit_every_file_system_and_stay_apart(left: str, right: str) -> None:
    for one, other in ((left, right), (left * 300, right * 300)):
        names = file_name(escape(one)), file_name(escape(other))
        assert all(0 < len(name.encode()) <= 200 and "/" not in name for name in names)
        assert (names[0] == names[1]) == (one == other)
