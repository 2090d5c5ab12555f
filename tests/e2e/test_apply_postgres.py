"""Applies on PostgreSQL whose connections are cut, whose server stops: told, nothing lost, finished by the next."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests import postgres
from tests.routes.harbour import Harbour, copy, statuses

from retinue import compose
from retinue.control.backup import restore_state, write_backup
from retinue.control.effects import Effect
from retinue.control.events import utc_now
from retinue.core.errors import StateUnavailableError
from retinue.store.releasefile import current

pytestmark = pytest.mark.e2e


def at_rest(harbour: Harbour) -> None:
    """Nothing is left of an apply that failed, and gateways are pointed at what is recorded."""
    assert harbour.do(lambda p: p.registry.applies("harbour", "prod", "running")) == []
    assert harbour.do(lambda p: p.registry.leases("harbour", "prod", utc_now())) == []
    assert harbour.do(lambda p: current(p.releases)) == harbour.number()
    assert harbour.plan().empty


C = "target: late\n    params: {C: 1.0}\n    gates:\n      roc_auc: {min: 0.55}\n\nendpoints"
"""A parameter of one model that nothing reads."""


def moved(root: Path, url: str) -> Harbour:
    """A portfolio whose first apply is done, its rows moved to that database."""
    harbour, archive = copy(root), root.with_suffix(".tar")
    opened = harbour.project()
    write_backup(compose.open_dump(opened.registry), opened.artifacts, opened.settings, archive, journal=False, made={})
    opened.close()
    (root / "retinue.toml").write_text(f'[build]\nworkers = 1\n[state]\ndatabase = "{url}"\n')
    opened = harbour.project()
    restore_state(compose.open_dump(opened.registry), opened.artifacts, opened.settings, archive, force=True)
    opened.close()
    return harbour


def test_an_apply_whose_connections_are_cut_or_whose_server_stops_is_finished_by_the_next(tmp_path: Path) -> None:
    url = postgres.new_database()
    harbour = moved(tmp_path / "harbour", url)
    counts: list[int] = []

    def cut(effect: Effect, what: str) -> None:
        counts.append(postgres.cut(url))

    harbour.edit(C, C.replace("1.0", "3.0"))
    harbour.do(lambda p: p.apply(on_effect=cut))  # between two statements a lost connection is opened anew
    assert sum(counts) >= 3
    before = harbour.live()
    at_rest(harbour)

    def stop(effect: Effect, what: str) -> None:
        if effect is Effect.EVIDENCE_RECORDED:
            postgres.stop()

    harbour.edit(C.replace("1.0", "3.0"), C.replace("1.0", "4.0"))
    try:
        with pytest.raises(StateUnavailableError) as caught:
            harbour.do(lambda p: p.apply(on_effect=stop))
        with pytest.raises(StateUnavailableError) as away:
            harbour.plan(refresh_data=True)
    finally:
        postgres.start()
    for told in (caught.value, away.value):
        assert told.hint
        assert "bug" not in told.hint
    assert harbour.live() == before
    assert harbour.do(lambda p: current(p.releases)) == harbour.number() == 2  # servers go on with it
    assert statuses(harbour.apply()) == {"late-all": "reused"}
    assert {m for m in before if before[m] != harbour.live()[m]} == {"late-all"}
    at_rest(harbour)
