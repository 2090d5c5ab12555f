"""The one place that wires concrete stores, sources and builders from settings. Heavy rooms are imported late."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retinue.build.environment import Lock
from retinue.core.portfolio import ModelSpec, Portfolio
from retinue.settings import Settings
from retinue.sources.base import Tables
from retinue.store.base import Artifacts, Registry

if TYPE_CHECKING:
    from retinue.build.data_checks import DataChecks
    from retinue.build.pipeline import Pipeline
    from retinue.control.approval import Desk
    from retinue.control.gc import Collector
    from retinue.control.live_tests import LiveTests
    from retinue.scoring.place import Place
    from retinue.store.registry_dump import Dump


def open_registry(settings: Settings) -> Registry:
    """The registry of these settings; made if it is not there yet."""
    from retinue.store.registry import SqlRegistry

    settings.directory.mkdir(parents=True, exist_ok=True)
    return SqlRegistry(settings.database)


def quick_mark(settings: Settings, portfolio: str) -> str | None:
    """`Registry.mark` without SQLAlchemy, whose import costs more than the question; None: ask the registry."""
    from retinue.store.registry_mark import file_of, mark_of_file

    path = file_of(settings.database)
    return mark_of_file(path, portfolio) if path is not None else None


def database_schema(settings: Settings) -> dict[str, str | None]:
    """{"database", "schema" (None: empty), "needs"} of the state database; changes nothing."""
    from retinue.store.registry_open import display, parse_url, schema_of
    from retinue.store.tables import REVISION

    settings.directory.mkdir(parents=True, exist_ok=True)
    name = display(parse_url(settings.database))
    return {"database": name, "schema": schema_of(settings.database), "needs": REVISION}


def upgrade_database(settings: Settings) -> tuple[str, str | None, str]:
    """Upgrade the schema of the state database: (its name, the schema before, after)."""
    from retinue.store.registry_open import upgrade_database as upgrade

    settings.directory.mkdir(parents=True, exist_ok=True)
    return upgrade(settings.database)


def open_dump(registry: Registry) -> Dump:
    """All rows of an opened registry."""
    from retinue.store.registry_dump import Dump
    from retinue.store.registry_read import SqlReader

    assert isinstance(registry, SqlReader)
    return Dump(registry)


@dataclass(frozen=True, slots=True)
class State:
    """What is recorded, opened without a portfolio file."""

    settings: Settings
    registry: Registry
    artifacts: Artifacts

    def close(self) -> None:
        """Close the database."""
        self.registry.close()  # type: ignore[attr-defined]  # the one of SQL


def open_state(settings: Settings) -> State:
    """Registry and artifacts of these settings."""
    return State(settings, open_registry(settings), open_artifacts(settings))


def open_collector(settings: Settings, registry: Registry, now: str, used: frozenset[str] = frozenset()) -> Collector:
    """A gc by these settings; versions stay at least as long as the journal's records that name them.

    `used`: digests of the locks that the portfolio's file declares.
    """
    from retinue.control.gc import DAY, Collector
    from retinue.control.leases import later
    from retinue.control.pins import Keep
    from retinue.store.artifacts import FsspecArtifacts

    artifacts = FsspecArtifacts(settings.artifacts, settings.cache / "artifacts")
    forever = settings.journal_enabled and not settings.journal_retain_days
    days = max(settings.gc_days, settings.journal_retain_days if settings.journal_enabled else 0)
    since = "" if forever else later(now, -days * DAY)
    keep = Keep(settings.gc_releases, since)
    return Collector(open_dump(registry), registry, artifacts, settings, keep, used)


def open_artifacts(settings: Settings) -> Artifacts:
    """The artifact store of these settings."""
    from retinue.store.artifacts import FsspecArtifacts

    return FsspecArtifacts(settings.artifacts, settings.cache / "artifacts")


def open_tables(portfolio: Portfolio, settings: Settings, *, anew: bool = False) -> Tables:
    """The tables of a portfolio; `anew` asks functions that have no `version` once more."""
    from retinue.build.functions import Functions
    from retinue.sources.catalog import Catalog
    from retinue.sources.origins import Origins

    root = Path(portfolio.root)
    call = Functions(portfolio.environments, root, settings)
    origins = Origins(root.absolute(), settings.cache.absolute(), settings.connections, call, anew=anew)
    return Catalog(portfolio.tables, root, settings.cache, origins=origins)


def open_checks(tables: Tables, registry: Registry, portfolio: str, stage: str) -> DataChecks:
    """The data checks of one apply, compared with what earlier ones accepted."""
    from datetime import UTC, datetime

    from retinue.build.data_checks import DataChecks, accepted_rows

    records = sorted(registry.applies(portfolio, stage), key=lambda record: record.created, reverse=True)
    last = accepted_rows([record.summary for record in records])
    return DataChecks(tables, last, datetime.now(UTC).isoformat())


def open_pipeline(
    project: Any,
    place: tuple[str, str],
    tables: Tables,
    say: Callable[[str, str], None],
    registered: Callable[[str], None] = lambda model: None,
) -> Pipeline:
    """What builds and tests models of `place`, a (portfolio, stage); `say` is told (model, phase). Close its workshop.

    Imports numpy, Arrow and onnxruntime.
    """
    from retinue.build.chain import Chain
    from retinue.build.pipeline import Pipeline
    from retinue.build.workshop import Workshop
    from retinue.control.events import utc_now

    registry = project.registry
    checks = open_checks(tables, registry, *place)
    workshop = Workshop(project.settings, tables, registry, project.artifacts, say=say)
    return Pipeline(workshop, Chain(workshop), registry, place[0], utc_now, registered, checks)


def open_desk(project: Any) -> Desk:
    """Where whoever acts approves and rejects what a project's stage withholds."""
    from retinue.control.approval import Desk
    from retinue.control.events import utc_now
    from retinue.control.planning import Asked

    groups = project.settings.approvers
    place = project.registry, project.name, project.stage
    return Desk(*place, who(), groups, utc_now, lambda names: project.plan(Asked(retry=names)))


def open_tests(project: Any, chosen: Callable[[], dict[str, ModelSpec]]) -> LiveTests:
    """The tests of a project's live versions of the chosen models. Raises StateError when nothing is live."""
    from retinue.control.bundles import keep_tests
    from retinue.control.events import Event, Observer
    from retinue.control.live_tests import LiveTests
    from retinue.core.errors import StateError

    release = project.current()
    if release is None:
        raise StateError(
            f"stage {project.stage} has no release: nothing is live that could be tested",
            hint="Run `retinue apply` first: it asks all gates before a version is live.",
        )
    specs = chosen()
    keep_tests(specs.values(), Path(project.portfolio.root), project.artifacts)

    def open_judge(observer: Observer) -> tuple[Pipeline, Callable[[], None]]:
        tables = open_tables(project.portfolio, project.settings)
        place = project.name, project.stage
        pipeline = open_pipeline(project, place, tables, lambda m, text: observer(Event("phase", m, text)))
        return pipeline, pipeline.workshop.close

    workers = project.settings.build_workers or os.cpu_count() or 1
    return LiveTests(release, project.registry, project.artifacts, specs, open_judge, workers)


def open_place(project: Any) -> Place:
    """A project's stage for batch scoring."""
    from retinue.scoring.place import Place

    return Place(
        project.settings,
        project.name,
        project.stage,
        Path(project.file).parent,
        project.artifacts,
        lambda: project.registry,
        lambda: (project.portfolio.tables, open_tables(project.portfolio, project.settings)),
    )


def who() -> str:
    """Who acts, for the audit trail: RETINUE_USER, else the login name."""
    import getpass

    try:
        return os.environ.get("RETINUE_USER") or getpass.getuser()
    except (OSError, KeyError):  # no such user in the password file, as in some containers
        return f"uid {os.getuid()}"


def random_bytes(count: int) -> bytes:
    """Bytes that nobody can foretell."""
    import secrets

    return secrets.token_bytes(count)


LockReader = Callable[[str], Lock]
