"""From a project's state to what a run needs: the pinned release, the models, the input's files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from retinue.control.publish import compile_release, recorded_settings
from retinue.core.errors import StateUnavailableError, UnavailableError, UsageError
from retinue.core.portfolio import TableSpec
from retinue.scoring.frame import Predictor
from retinue.scoring.job import Ask, Progress, Run, ScoreOutcome
from retinue.scoring.ledger import Ledger
from retinue.scoring.models import Models
from retinue.scoring.parts import OnEffect
from retinue.scoring.release import ScoringRelease
from retinue.scoring.tables import Table, files_for, not_found, open_files, open_parquet, same_place
from retinue.settings import Settings
from retinue.sources.base import Pin, Tables
from retinue.sources.tables import files_of
from retinue.store.base import Artifacts, RegistryReader
from retinue.store.releasefile import ReleaseFile, current, write_release


@dataclass(frozen=True, slots=True)
class Place:
    """A stage of a portfolio: where its releases, artifacts and journal are. The database is asked only if need be."""

    settings: Settings
    portfolio: str
    stage: str
    root: Path
    artifacts: Artifacts
    registry: Callable[[], RegistryReader]
    tables: Callable[[], tuple[Mapping[str, TableSpec], Tables]]
    start: Path = Path()  # where paths on the command line start from; those of declared tables start from `root`

    def release(self, number: int | None = None) -> ScoringRelease:
        """That release, or the current one. Raises UnavailableError when there is none, StateError for its number."""
        folder = self.settings.releases(self.portfolio, self.stage)
        wanted = number if number is not None else current(folder)
        if wanted is None:
            raise UnavailableError(f"stage {self.stage} has no release yet", hint="Run `retinue apply`.")
        path = folder / f"{wanted}.release"
        if not path.is_file():
            registry = self.registry()
            image = compile_release(
                registry.release(self.portfolio, self.stage, wanted),
                registry,
                recorded_settings(registry, self.portfolio),
            )
            path = write_release(self.settings.cache / "releases" / self.portfolio / self.stage, image)
        return ScoringRelease(ReleaseFile(path))

    def predictor(self, name: str, number: int | None = None) -> Predictor:
        """What `predict` is called on. Raises UnknownModelError, UnavailableError."""
        release = self.release(number)
        try:
            return Predictor(release, Models(self.artifacts, self.settings), name)
        except BaseException:
            release.close()
            raise

    def table(self, text: str) -> tuple[Table, tuple[str, ...]]:
        """The input of that name (a declared table or view) or path, and the columns that it is known by.

        Raises UsageError when it is neither, DataError when it cannot be read or has no rows.
        """
        specs: Mapping[str, TableSpec] = {}
        if not any(sign in text for sign in "/*?[\\"):
            specs, tables = self.tables()
            if text in specs:
                return self._declared(specs[text], tables)
        files = files_for(text, self.start)
        if not files:
            raise not_found(text, specs or self.tables()[0])
        return open_files(text, files, self.settings.cache), ()

    def _declared(self, spec: TableSpec, tables: Tables) -> tuple[Table, tuple[str, ...]]:
        kept = tuple(name for name in (spec.key, spec.time) if name)
        if spec.path and not spec.is_view and "://" not in spec.path:
            return open_files(spec.name, files_of(spec, self.root), self.settings.cache), kept
        return self._gathered(spec, tables), kept

    def _gathered(self, spec: TableSpec, tables: Tables) -> Table:
        """A view, or rows from elsewhere: read once into the cache, under what they are made of."""
        import pyarrow.parquet as pq

        identity: str = tables.stat_key([spec.name])  # type: ignore[attr-defined]  # the catalog's
        folder = self.settings.cache / "score"
        path = folder / f"{identity}.parquet"
        if not path.is_file():
            names = [name for name, kind in tables.columns(spec.name).items() if kind != "UNSUPPORTED"]
            rows = tables.read(spec.name, names, (), Pin())
            new = path.with_suffix(".new")
            try:
                folder.mkdir(parents=True, exist_ok=True)
                pq.write_table(rows, new)
                new.replace(path)
            except OSError as error:
                raise StateUnavailableError(
                    f"the rows of {spec.name} cannot be kept: {error}", where=str(folder), hint="Free the disk."
                ) from error
        return open_parquet(spec.name, [path], identity)

    def score(
        self,
        ask: Ask,
        number: int | None = None,
        resume: bool = False,
        observer: Callable[[Progress], None] = lambda progress: None,
        on_effect: OnEffect = lambda effect, what: None,
    ) -> ScoreOutcome:
        """Score a table into a folder; release `number`, else the current one.

        With `resume` a run must be there, and its release is taken. Raises UsageError, DataError, ConflictError
        (what is there was begun otherwise), LeaseHeldError, UnknownModelError, StateUnavailableError.
        """
        table, kept = self.table(ask.source)
        for file in table.files:
            if same_place(file, ask.out):
                raise UsageError(
                    f"--out {ask.out} is where the input lies", hint="Name another folder for the answers."
                )
        ledger = Ledger(ask.out)
        ledger_open = ledger.open()
        try:
            if resume and ledger_open is None:
                raise UsageError(f"there is nothing to resume in {ask.out}", hint="Run it without --resume.")
            if resume and number is None and ledger_open is not None:
                number = int(ledger_open.asked["release"])
            release = self.release(number)
            models = Models(self.artifacts, self.settings, ask.workers)
            try:
                journal = self.settings.journal(self.portfolio, self.stage)
                asked = _with(ask, kept, self.settings)
                run = Run(asked, table, release, models, journal, self.portfolio, self.stage, observer, on_effect)
                return run.go(ledger, ledger_open)
            finally:
                models.close()
                release.close()
        finally:
            ledger.close()


def _with(ask: Ask, kept: tuple[str, ...], settings: Settings) -> Ask:
    return replace(ask, kept=kept, journal=ask.journal if settings.journal_enabled else "none")
