"""What a plan decides for each model: build, re-gate, keep or hold, in topological order.

Each decision is known to the model's consumers, which come later. `core/planner` puts the rest of the plan around it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from retinue.core.approval import ASKING, companions_of, group_of
from retinue.core.declaration import differences
from retinue.core.identity import canonical
from retinue.core.plan import Build, Danger, Held, Regate, Rename, Step, Why
from retinue.core.portfolio import ModelSpec
from retinue.core.state import Hold, Version
from retinue.core.wish import PENDING, Actual, Options, Wish, WishedModel, snapshot_hash

Json = Any


class Decisions:
    """Decides model by model; `next` and `schemas` say what consumers will meet."""

    def __init__(self, wish: Wish, actual: Actual, options: Options, stay: Mapping[str, str]) -> None:
        """`stay` maps models that must not change now to why: a consumer that stays reads them as they are."""
        self.wish, self.actual, self.options, self.stay = wish, actual, options, stay
        self.conflicts: dict[str, str] = {}  # upstream that would change its schema → why it must not
        self.live = {name: entry.version for name, entry in (actual.release.models if actual.release else {}).items()}
        self.next: dict[str, str] = {}  # model → version id or PENDING
        self.schemas: dict[str, str] = {}  # model → hash of the schema it will have
        self.steps: list[Step] = []
        self.held: list[Held] = []
        self.dangers: list[Danger] = []
        self.newer: list[str] = []
        self.retries: list[int] = []
        self.notes: list[str] = list(wish.notes)
        self.renamed = {
            w.spec.was: name
            for name, w in wish.models.items()
            if w.spec.was and w.spec.was in self.live and name not in self.live
        }

    def decide(self) -> None:
        """Decide for all models, upstreams first; those not selected are left alone, but their upstreams may move."""
        included = self.included()
        for name, wished in self.wish.models.items():
            if name in included:
                self._model(name, wished)
            elif name in self.live:
                self._keep(name, wished, self.live[name], selected=False)

    def included(self) -> set[str]:
        """Selected models, plus upstreams they need that are not live yet."""
        if self.options.selected is None:
            return set(self.wish.models)
        included = set(self.options.selected) & set(self.wish.models)
        return included | {m for m in self.with_upstreams(included) if m not in self.live}

    def with_upstreams(self, names: Iterable[str]) -> list[str]:
        """These models and all they need, directly or not, as the file wishes them; upstreams first."""
        found: set[str] = set()
        todo = list(names)
        while todo:
            name = todo.pop()
            if name in found:
                continue
            found.add(name)
            todo.extend(need.model for need in self.wish.models[name].spec.needs)
        return [name for name in self.wish.models if name in found]

    def _model(self, name: str, wished: WishedModel) -> None:
        old_name = next((was for was, new in self.renamed.items() if new == name), name)
        live = self.live.get(old_name)
        if live is not None and old_name != name:
            self.steps.append(Rename(name, old_name, live, wished.spec.family))
        if live is None:
            self._build(name, wished, (Why("ADD"),), None)
            return
        version = self.actual.versions[live]
        newer = self._newer(wished, version)
        why = self._why(name, wished, version)
        if name in self.options.refresh:
            why += self._refreshed(wished, version, newer)
        if not why and name in self.options.rebuild:
            why = (Why("DATA", "rebuild on request"),)
        if why and name in self.stay:
            self._hold_back(name, wished, Held(name, "upstream", self.stay[name], 0), live)
        elif why:
            self._build(name, wished, why, live)
        else:
            self._keep(name, wished, live)
        if newer and not any(
            isinstance(s, Build) and s.model == name and s.data is wished.fresh for s in self.steps[-1:]
        ):
            self.newer.append(name)

    def _hold_back(self, name: str, wished: WishedModel, held: Held, live: str | None) -> None:
        """Do not try the wish; say what of it waits. The live version, if any, is kept."""
        why: tuple[Why, ...] = ()
        if live is not None:
            why = tuple(w for w in self._why(name, wished, self.actual.versions[live]) if w.reason != "UPSTREAM")
        self.held.append(replace(held, family=wished.spec.family, why=why))
        if live is not None:
            self._keep(name, wished, live)

    def _why(self, name: str, wished: WishedModel, version: Version) -> tuple[Why, ...]:
        if wished.definition == version.definition:
            return ()
        old = self.actual.definitions[version.definition].body
        return differences(old, wished.body) or (Why("CODE", "definition changed"),)

    def _refreshed(self, wished: WishedModel, version: Version, newer: bool) -> tuple[Why, ...]:
        before, now = self.actual.snapshots[version.snapshot].body["cutoff"], wished.fresh["cutoff"]
        if not newer and before == now:
            return ()
        return (Why("DATA", "newer data" if newer else f"cutoff {before} → {now}"),)

    def _newer(self, wished: WishedModel, version: Version) -> bool:
        """Whether rows that the live version reads have changed since its snapshot, as far as both read the same."""
        pinned = self.actual.snapshots[version.snapshot].body["tables"]
        if pinned == wished.fresh["tables"]:
            return False
        today = {canonical(_asked(t)): t for t in wished.fresh["tables"]}
        return any(today.get(canonical(_asked(t)), t) != t for t in pinned)

    def _build(self, name: str, wished: WishedModel, why: tuple[Why, ...], live: str | None) -> None:
        """Plan a build, unless it is held: then the live version stays, and is re-gated if its upstreams move."""
        upstreams = self._upstreams(wished.spec)
        lacking = [model for model in upstreams if model not in self.next and model not in self.live]
        if lacking:
            self._held_up(name, wished, (lacking[0], "is held and was never live"), live)
            return
        stuck = self._stuck(wished)
        if stuck is not None:
            how = "is held" if any(h.model == stuck for h in self.held) else "is not selected"
            self._held_up(name, wished, (stuck, how), live)
            return
        data, why = self._data(name, wished, why, live)
        snapshot = None
        reuse = None
        if PENDING not in upstreams.values():
            snapshot = snapshot_hash(data, upstreams)
            reuse = next(
                (v.id for v in self.actual.candidates.get(wished.definition, ()) if v.snapshot == snapshot), None
            )
            if name in self.options.rebuild:
                reuse = None
            hold = self._hold(name, wished, data, upstreams)
            if hold is not None:
                held = Held(name, hold.cause, hold.detail, hold.id, release=hold.release)
                self._hold_back(name, wished, held, live)
                return
        self.steps.append(
            Build(
                name,
                why,
                wished.definition,
                data,
                wished.spec.family,
                snapshot,
                reuse,
                live,
                sibling=name in self.options.rebuild,
            ),
        )
        self.next[name] = reuse or PENDING
        self.schemas[name] = wished.body["schema"]

    def _stuck(self, wished: WishedModel) -> str | None:
        """An upstream whose schema will not be the one this definition was declared against; None if all fit."""
        for need in wished.body["needs"]:
            if self.schemas.get(need["model"], need["schema"]) != need["schema"]:
                return str(need["model"])
        return None

    def _held_up(self, name: str, wished: WishedModel, why: tuple[str, str], live: str | None) -> None:
        """An upstream that is not, or not as the file wishes it: nothing that needs it so can be built."""
        upstream, how = why
        hold = next((h.hold for h in self.held if h.model == upstream), 0)
        text = f"needs {upstream} as the file wishes it, which {how}"
        self._hold_back(name, wished, Held(name, "upstream", text, hold), live)

    def _data(
        self, name: str, wished: WishedModel, why: tuple[Why, ...], live: str | None
    ) -> tuple[Mapping[str, Json], tuple[Why, ...]]:
        if name in self.options.refresh:
            return wished.fresh, why
        promoted = self._promoted(wished)
        if promoted is not None:
            return promoted, why
        if live is not None:
            if wished.pinned is not None:
                return wished.pinned, why
            text = "the pinned rows were rewritten; builds on today's" if wished.rewritten else "newer data"
            return wished.fresh, (*why, Why("DATA", text)) if wished.rewritten else why
        # A model that is declared again takes the snapshot of a version it already has, else today's data.
        upstreams = self._upstreams(wished.spec)
        for candidate in self.actual.candidates.get(wished.definition, ()):
            snapshot = self.actual.snapshots.get(candidate.snapshot)
            if snapshot is not None and snapshot.body["upstreams"] == upstreams:
                return {k: v for k, v in snapshot.body.items() if k != "upstreams"}, why
        return wished.fresh, why

    def _promoted(self, wished: WishedModel) -> Mapping[str, Json] | None:
        """The snapshot of a version that another stage serves for this definition, beside the same upstreams."""
        upstreams = self._upstreams(wished.spec)
        for candidate in self.actual.candidates.get(wished.definition, ()):
            body = self.actual.snapshots[candidate.snapshot].body if candidate.snapshot in self.actual.snapshots else {}
            if candidate.id in self.actual.elsewhere and body.get("upstreams") == upstreams:
                return {k: v for k, v in body.items() if k != "upstreams"}
        return None

    def _hold(
        self, name: str, wished: WishedModel, data: Mapping[str, Json], upstreams: Mapping[str, str]
    ) -> Hold | None:
        for hold in self.actual.holds:
            if (hold.model, hold.definition) != (name, wished.definition) or not self._holds(hold, data, upstreams):
                continue
            if hold.cause == "approved" and hold.snapshot == snapshot_hash(data, upstreams):
                continue  # it lands by reuse
            edited = hold.cause in ("failed gate", "inconclusive", "approval") and hold.gates != wished.gates
            gate_edited = edited or (hold.cause == "approval" and self._asks_otherwise(hold, wished.spec))
            cause_moved = hold.cause == "upstream" and self._relatives_moved(name)
            if name in self.options.retry or gate_edited or cause_moved:
                self.retries.append(hold.id)
                return None
            return hold
        return None

    def _asks_otherwise(self, hold: Hold, spec: ModelSpec) -> bool:
        """Whether the file no longer asks for the approval that a version, or what it changes with, waits for."""
        others = companions_of(hold)
        if not others:
            return group_of(hold) != spec.approval
        return not any(m in self.wish.models and self.wish.models[m].spec.approval for m in others)

    def _holds(self, hold: Hold, data: Mapping[str, Json], upstreams: Mapping[str, str]) -> bool:
        """Whether a hold is on this snapshot. What was taken back or waits stays so when its upstreams do, with it."""
        if hold.snapshot == snapshot_hash(data, upstreams):
            return True
        there = self.actual.snapshots.get(hold.snapshot)
        if hold.cause not in ("rollback", *ASKING) or there is None:
            return False
        before = there.body["upstreams"]
        moved = {m for m in {*before, *upstreams} if before.get(m) != upstreams.get(m)}
        same = {k: v for k, v in there.body.items() if k != "upstreams"} == dict(data)
        return same and all((m, before.get(m)) in {(h.model, h.version) for h in self.actual.holds} for m in moved)

    def _relatives_moved(self, name: str) -> bool:
        """Whether a model above or below this one is wished otherwise than it is live, and was not tried in vain."""
        above = set(self.with_upstreams([name]))
        tried = {(h.model, h.definition, h.gates) for h in self.actual.holds}
        for other, wished in self.wish.models.items():
            reads = self.with_upstreams([other])
            if other == name or (other not in above and name not in reads):
                continue
            wishes = [(m, self.wish.models[m].definition, self.wish.models[m].gates) for m in reads]
            if wishes[-1] in tried or any(w in tried and w[0] not in self.live for w in wishes):
                continue  # it was tried, or what it needs was and is not live
            live = self.actual.versions.get(self.live.get(other, ""))
            if live is None or live.definition != wished.definition:
                return True
            if not self._has_evidence(live.id, self.live_upstreams(live), wished.gates):
                return True
        return False

    def _keep(self, name: str, wished: WishedModel, live: str, *, selected: bool = True) -> None:
        """The live version stays; plan a re-gate when its upstreams or (where selected) its gates have moved."""
        version = self.actual.versions[live]
        self.schemas[name] = self.actual.definitions[version.definition].body["schema"]
        for need in self.actual.definitions[version.definition].body["needs"]:
            if self.schemas.get(need["model"], need["schema"]) != need["schema"]:
                how = "is held" if any(h.model == name for h in self.held) else "is not selected"
                self.conflicts.setdefault(need["model"], f"{name} reads it as it is, and {how}")
        before = self.live_upstreams(version)
        upstreams = {model: self.next.get(model, live_version) for model, live_version in before.items()}
        why: list[Why] = []
        if upstreams != before:
            moved = sorted(m for m in upstreams if upstreams[m] != before.get(m))
            why.append(Why("UPSTREAM", ", ".join(moved)))
        if selected and not self._has_evidence(live, before, wished.gates):
            why.append(Why("GATES", "gates edited" if self.actual.evidence.get(live) else "no evidence"))
        if why:
            # A held model keeps a version that the file no longer describes: it can be tested, not built anew.
            else_build = why[0].reason == "UPSTREAM" and wished.definition == version.definition
            data = wished.pinned if wished.pinned is not None else wished.fresh
            definition = version.definition
            self.steps.append(
                Regate(name, tuple(why), live, definition, data, else_build, wished.spec.family),
            )
            self.next[name] = PENDING if else_build else live
        else:
            self.next[name] = live
            failed = self._failing(live, upstreams, wished.gates)
            if failed:
                self.dangers.append(
                    Danger(
                        f"{name} is live and fails its gates: {failed}", where=str(wished.spec.where), models=(name,)
                    )
                )

    # ── evidence and upstreams ──────────────────────────────────────────────────────────────────────────────

    def _upstreams(self, spec: ModelSpec) -> dict[str, str]:
        """Every upstream of a wished model, direct or not, with the version it will have (or PENDING).

        One that keeps its live version reads what that version reads, whatever the file says of it now.
        """
        found: dict[str, str] = {}
        todo = [need.model for need in spec.needs]
        while todo:
            name = todo.pop()
            if name in found:
                continue
            found[name] = self.next.get(name) or self.live.get(name, PENDING)
            version = self.actual.versions.get(found[name])
            if version is not None:
                todo += [need["model"] for need in version.manifest["needs"]]
            elif name in self.wish.models:
                todo += [need.model for need in self.wish.models[name].spec.needs]
        return found

    def live_upstreams(self, version: Version) -> dict[str, str]:
        """Every upstream of a live version within the live release."""
        found: dict[str, str] = {}
        todo = [n["model"] for n in version.manifest["needs"]]
        while todo:
            name = todo.pop()
            if name in self.live and name not in found:
                found[name] = self.live[name]
                todo += [n["model"] for n in self.actual.versions[found[name]].manifest["needs"]]
        return found

    def _has_evidence(self, version: str, upstreams: Mapping[str, str], gates: str) -> bool:
        return any(dict(e.upstreams) == upstreams and e.gates == gates for e in self.actual.evidence.get(version, ()))

    def _failing(self, version: str, upstreams: Mapping[str, str], gates: str) -> str | None:
        for e in self.actual.evidence.get(version, ()):
            if dict(e.upstreams) == upstreams and e.gates == gates:
                if e.verdict != "fail":
                    return None
                return ", ".join(str(r.get("gate")) for r in e.results if r.get("verdict") == "fail")
        return None


def _asked(table: Mapping[str, Json]) -> list[Json]:
    """What a snapshot's table entry is an answer to."""
    return [table["table"], table["filters"], table["columns"]]
