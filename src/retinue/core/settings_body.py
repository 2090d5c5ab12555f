"""The settings revision: owners, descriptions, tags, policies and gates on record, on their own line of versions.

Body: {"models": {name: {"metadata": …, "gates": …, "policies": …, "protect": …}}, "policies": {kind: {name: …}}}.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from retinue.core.plan import Why

Json = Any


def what_changed(old: Mapping[str, Json], new: Mapping[str, Json]) -> tuple[tuple[str, ...], tuple[Why, ...]]:
    """The models whose settings differ and why, METADATA before POLICY; gates are told by their own re-gate."""
    models: list[str] = []
    fields: set[str] = set()
    policies: set[str] = set()
    for name, body in new["models"].items():
        before = old["models"].get(name)
        if before is None or before == body:
            continue
        models.append(name)
        fields |= {k for k, v in body["metadata"].items() if before["metadata"].get(k) != v}
        policies |= {k for k in ("policies", "protect", "gates") if before.get(k) != body.get(k)}
    if old["policies"] != new["policies"]:
        policies.add("policies")
    why = []
    if fields:
        why.append(Why("METADATA", ", ".join(sorted(fields))))
    if policies:
        why.append(Why("POLICY", ", ".join(sorted(policies))))
    return tuple(models), tuple(why)


def merged(before: Mapping[str, Json], wished: Mapping[str, Json], now: Mapping[str, Json]) -> dict[str, Json]:
    """`now` with what `wished` changes of `before`: two applies on different models keep each other's settings."""
    models = dict(now["models"])
    for name in {*before["models"], *wished["models"]}:
        body = wished["models"].get(name)
        if body == before["models"].get(name):
            continue
        if body is None:
            models.pop(name, None)
        else:
            models[name] = body
    policies = wished["policies"] if wished["policies"] != before["policies"] else now["policies"]
    return {"models": models, "policies": policies}


def weakened(old: Mapping[str, Json], new: Mapping[str, Json]) -> list[tuple[str, str]]:
    """(model, text) for every gate that was deleted or made easier to pass."""
    found = []
    for name, body in new["models"].items():
        before = old["models"].get(name)
        if before is None or before["gates"] == body["gates"]:
            continue
        texts = _weaker(before["gates"], body["gates"])
        if texts:
            found.append((name, "; ".join(texts)))
    return found


def _weaker(old: Mapping[str, Json], new: Mapping[str, Json]) -> list[str]:
    texts = []
    after = {m["metric"]: m for m in new["metrics"]}
    for gate in old["metrics"]:
        metric = gate["metric"]
        now = after.get(metric)
        if now is None:
            texts.append(f"gate {metric} deleted")
            continue
        texts += _weaker_metric(metric, gate, now)
    if len(new["examples"]) < len(old["examples"]):
        texts.append(f"{len(old['examples']) - len(new['examples'])} examples deleted")
    if old["size"] is not None and (new["size"] is None or new["size"] > old["size"]):
        texts.append("gate size weakened")
    return texts


def _weaker_metric(metric: str, old: Mapping[str, Json], new: Mapping[str, Json]) -> list[str]:
    texts = []
    if old["minimum"] is not None and (new["minimum"] is None or new["minimum"] < old["minimum"]):
        texts.append(f"gate {metric} min {old['minimum']} → {new['minimum']}")
    if old["maximum"] is not None and (new["maximum"] is None or new["maximum"] > old["maximum"]):
        texts.append(f"gate {metric} max {old['maximum']} → {new['maximum']}")
    if old["vs_champion"]:
        if not new["vs_champion"]:
            texts.append(f"gate {metric} against the champion deleted")
        elif new["margin"] > old["margin"] and new["margin_relative"] == old["margin_relative"]:
            texts.append(f"gate {metric} margin {old['margin']} → {new['margin']}")
    return texts
