"""Shows a running apply: a live view on a terminal, one plain line per finished model elsewhere."""

from __future__ import annotations

import signal
import sys
import threading
from contextlib import AbstractContextManager
from types import FrameType, TracebackType
from typing import Any, Self

from retinue.cli.frame import say
from retinue.cli.render_outcome import ended_line, key_gate
from retinue.control.events import Event
from retinue.core.plan import Build, Plan, Regate


def watch(plan: Plan | int) -> Progress:
    """The view that fits stderr, of a plan's models or of so many."""
    total = plan if isinstance(plan, int) else sum(1 for s in plan.steps if isinstance(s, Build | Regate))
    return LiveProgress(total) if sys.stderr.isatty() and total else Progress(total)


class Progress(AbstractContextManager["Progress"]):
    """Plain lines; may be told from many threads."""

    def __init__(self, total: int) -> None:
        self.total, self.done = total, 0
        self.stopped = False  # Ctrl-C came: what ends from now on was ended by it
        self._before: Any = None
        self._lock = threading.Lock()

    def __call__(self, event: Event) -> None:
        """The observer: what just happened."""
        with self._lock:
            if event.kind == "line":
                self.line(event.text)
            elif event.kind == "end":
                self.done += 1
                self.ended(event)
            else:
                self.phase(event)

    def line(self, text: str) -> None:
        """Something about the whole."""
        say(text)

    def phase(self, event: Event) -> None:
        """A model began something; plain lines leave that out."""

    def ended(self, event: Event) -> None:
        """A model is finished."""
        self.line(self._told(event))

    def _told(self, event: Event) -> str:
        if self.stopped and event.status == "failed":
            return f"{event.model}   stopped"
        facts = {"model": event.model, "status": event.status, "text": event.text, "seconds": event.seconds}
        return ended_line(self.done, self.total, facts, key_gate(event.results))

    def __enter__(self) -> Self:
        """Note a Ctrl-C before anybody else hears of it: it ends trainings, which did not fail."""
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._interrupted)
        return self

    def _interrupted(self, number: int, frame: FrameType | None) -> None:
        self.stopped = True
        raise KeyboardInterrupt

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ctrl-C is the caller's again."""
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)


class LiveProgress(Progress):
    """One line per running model with its phase, one total bar with the time left; finished ones scroll above."""

    def __init__(self, total: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        super().__init__(total)
        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=Console(stderr=True, highlight=False, markup=False),
            transient=True,
        )
        self._models = Bars(
            TextColumn("  {task.description}", markup=False),
            TextColumn("{task.fields[phase]}", style="dim", markup=False),
            TimeElapsedColumn(),
            console=self._bars.console,
            transient=True,
        )
        self._whole = self._bars.add_task("models", total=total)
        self._tasks: dict[str, Any] = {}
        self._live = self._view()

    def _view(self) -> Any:
        from rich.console import Group
        from rich.live import Live

        return Live(Group(self._models, self._bars), console=self._bars.console, transient=True, refresh_per_second=4)

    def __enter__(self) -> Self:
        """Begin to draw."""
        self._live.start()
        return super().__enter__()

    def line(self, text: str) -> None:
        """Print above the bars."""
        self._bars.console.print(text, markup=False, soft_wrap=True)

    def phase(self, event: Event) -> None:
        """A model began, or went on to its next phase."""
        if event.model not in self._tasks:
            self._tasks[event.model] = self._models.add_task(event.model, total=None, phase="")
        self._models.update(self._tasks[event.model], phase=event.text)

    def ended(self, event: Event) -> None:
        """Take the model's line away, move the bar."""
        task = self._tasks.pop(event.model, None)
        if task is not None:
            self._models.remove_task(task)
        self._bars.update(self._whole, completed=self.done)
        self.line(self._told(event))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop drawing."""
        super().__exit__(kind, error, trace)
        self._live.stop()
