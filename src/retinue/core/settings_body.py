"""The settings revision: owners, descriptions, tags, policies and gates on record, on their own line of versions.

Body: {"models": {name: {"metadata": …, "gates": …, "policies": …, "protect": …}}, "policies": {kind: {name: …}},
"endpoints": {name: {"cache": …, "journal": …}}}; endpoints without options are left out, and the key when none has any.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from retinue.core.gate_record import gates_body, weaker
from retinue.core.identity import digest
from retinue.core.plan import Why
from retinue.core.portfolio import EndpointSpec, ModelSpec, Portfolio
from retinue.core.state import ServedCache, ServedJournal

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
        policies |= {k for k in ("policies", "protect", "gates", "approval") if before.get(k) != body.get(k)}
    if old["policies"] != new["policies"]:
        policies.add("policies")
    policies |= _options_changed(old.get("endpoints", {}), new.get("endpoints", {}))
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
    endpoints = dict(now.get("endpoints", {}))
    old, new = before.get("endpoints", {}), wished.get("endpoints", {})
    for name in {*old, *new}:
        if old.get(name) != new.get(name):
            endpoints[name] = new.get(name)
    endpoints = {name: body for name, body in endpoints.items() if body is not None}
    return {"models": models, "policies": policies, **({"endpoints": endpoints} if endpoints else {})}


# ── options of serving ──────────────────────────────────────────────────────────────────────────────────────


def endpoint_options(spec: EndpointSpec) -> dict[str, Json]:
    """An endpoint's options as the body keeps them; empty when it says nothing."""
    found: dict[str, Json] = {}
    if spec.cache is not None:
        found["cache"] = {"seconds": spec.cache.seconds, "answers": spec.cache.answers}
    if spec.journal != ServedJournal():
        found["journal"] = {
            "tensors": spec.journal.tensors,
            "drop": list(spec.journal.drop),
            "hash": list(spec.journal.hash),
        }
    return found


def served_cache(body: Mapping[str, Json], endpoint: str) -> ServedCache | None:
    """What may be kept of an endpoint's answers."""
    found = body.get("endpoints", {}).get(endpoint, {}).get("cache")
    return ServedCache(found["seconds"], found["answers"]) if found else None


def served_journal(body: Mapping[str, Json], endpoint: str) -> ServedJournal:
    """What the journal keeps of an endpoint's rows."""
    found = body.get("endpoints", {}).get(endpoint, {}).get("journal")
    return ServedJournal(found["tensors"], tuple(found["drop"]), tuple(found["hash"])) if found else ServedJournal()


def served_model(body: Mapping[str, Json], model: str) -> dict[str, Json]:
    """A model's `serve:` options: {"pinned", "concurrency"}, only those that are set."""
    found: dict[str, Json] = body["models"].get(model, {}).get("policies", {}).get("serve", {})
    return found


def options_digest(body: Mapping[str, Json]) -> str:
    """What names all options that a release file is compiled with; empty when there are none."""
    models = {name: found for name in body["models"] if (found := served_model(body, name))}
    endpoints = body.get("endpoints", {})
    return digest({"endpoints": endpoints, "models": models}) if endpoints or models else ""


def _options_changed(old: Mapping[str, Json], new: Mapping[str, Json]) -> set[str]:
    return {
        f"{key} of endpoint {name}"
        for name in {*old, *new}
        for key in ("cache", "journal")
        if old.get(name, {}).get(key) != new.get(name, {}).get(key)
    }


def weakened(old: Mapping[str, Json], new: Mapping[str, Json]) -> list[tuple[str, str]]:
    """(model, text) for every gate that was deleted or made easier to pass, and approval by another group or none."""
    found = []
    for name, body in new["models"].items():
        before = old["models"].get(name)
        if before is None:
            continue
        texts = _weaker(before["gates"], body["gates"]) if before["gates"] != body["gates"] else []
        asked, asks = before.get("approval"), body.get("approval")
        if asked is not None and asked != asks:
            texts.append(f"approval by {asked} " + ("removed" if asks is None else f"→ by {asks}"))
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
    return texts + weaker(old, new)


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


def settings_body(portfolio: Portfolio, specs: Iterable[ModelSpec]) -> dict[str, Json]:
    """What is versioned on its own line: metadata, gates on record, policies, protection."""
    options = {name: found for name, spec in portfolio.endpoints.items() if (found := endpoint_options(spec))}
    return {
        **({"endpoints": options} if options else {}),
        "models": {
            spec.name: {
                "metadata": {**asdict(spec.metadata), "tags": sorted(spec.metadata.tags)},
                "gates": _plain(gates_body(spec.gates)),
                "policies": {"rollout": spec.rollout, "retrain": spec.retrain, **spec.settings},
                "protect": spec.protect,
                **({"approval": spec.approval} if spec.approval is not None else {}),
            }
            for spec in specs
        },
        "policies": {kind: dict(bodies) for kind, bodies in portfolio.policies.items()},
    }


def _plain(value: Json) -> Json:
    """Tuples as lists, all the way down: what comes back from the registry compares equal."""
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value
