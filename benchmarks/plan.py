"""What a plan of 10,000 models costs: CPU, memory, queries; nothing changed, one changed, and what looks at a stage.

    python -m benchmarks.plan            10,000 models (made once, under .cache/), and DVC on 1,000 stages
    python -m benchmarks.plan --quick    600 models; judges queries and imports only

CPU is user and system time of the whole command less that of an interpreter that does nothing, memory the highest
resident size: both by the kernel's count of a process of its own. The median of the runs is judged; ratios are of
medians, per model, with those of the extremes. "Nothing remembered" is the same plan without the last one's memory.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
CPU, MEMORY = 1.0, 150.0  # seconds, MiB: the promises
LINE = '"s0000,p0000": {params: {depth: 4}}'
PROBE = """
import json, sys
from pathlib import Path
from retinue.project import Asked, Project
from sqlalchemy import event
project = Project(Path(sys.argv[1]))
asked = []
event.listen(project.registry.engine, "before_cursor_execute", lambda *call: asked.append(call[2]))
plan = project._planned(Asked(), print)[0]
heavy = [m for m in ("pyarrow", "duckdb", "fsspec", "s3fs", "onnxruntime", "sklearn", "pydantic") if m in sys.modules]
print(json.dumps({"steps": len(plan.steps), "queries": len(asked), "heavy": heavy}))
"""


def measured(command: list[str]) -> tuple[float, float]:
    """(CPU seconds, MiB) of one process."""
    with open(os.devnull, "w") as nothing:
        process = subprocess.Popen(command, stdout=nothing, stderr=nothing)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, 2):
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


@dataclass(frozen=True)
class Table:
    """Prints lines; `empty` is the CPU of an interpreter that does nothing, `forgets` what a plan remembers."""

    runs: int
    empty: float
    forgets: Path

    def line(self, what: str, command: list[str], *, judged: bool = False, forgetting: bool = False) -> list[float]:
        """Print one line; the CPU seconds of all runs."""
        found = []
        for _ in range(self.runs):
            if forgetting:
                shutil.rmtree(self.forgets, ignore_errors=True)
            found.append(measured(command))
        return _print(what, [seconds - self.empty for seconds, _ in found], max(size for _, size in found), judged)


def kept(cpu: list[float], memory: float) -> bool:
    """Whether the promises are."""
    return statistics.median(cpu) <= CPU and memory <= MEMORY


def _print(what: str, cpu: list[float], memory: float, judged: bool) -> list[float]:
    word = "" if not judged else "met" if kept(cpu, memory) else "MISSED"
    spread = f"({min(cpu):.2f}–{max(cpu):.2f})"
    print(f"{what:<40}{statistics.median(cpu):>7.2f} s  {spread:<14}{memory:>6.0f} MiB   {word}", flush=True)
    return cpu if word != "MISSED" else []


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    stores, products, mixes = (10, 55, 4) if quick else (100, 90, 9)
    folder = HERE / ".cache" / f"plan-{stores * (products + mixes + 1)}"
    if not (folder / "made").exists():
        shutil.rmtree(folder, ignore_errors=True)
        # In a process of its own: what this one holds would count as the memory of those that it starts.
        code = f"from benchmarks._many import *; make(Path({str(folder)!r}), {stores}, {products}, {mixes}).close()"
        subprocess.run([sys.executable, "-c", f"from pathlib import Path; {code}"], check=True)
        (folder / "made").touch()
    file = folder / "portfolio.yaml"
    file.write_text(file.read_text().replace("depth: 5", "depth: 4"))
    retinue = [sys.executable, "-m", "retinue.cli.main", "--file", str(folder)]
    empty = statistics.median(measured([sys.executable, "-c", "pass"])[0] for _ in range(5))
    probe = [sys.executable, "-c", PROBE, str(folder)]
    subprocess.run(probe, check=True, capture_output=True)  # fills the caches
    said = json.loads(subprocess.run(probe, check=True, capture_output=True, text=True).stdout)
    models = stores * (products + mixes + 1)
    print(f"{models:,} models: {said['queries']} queries, imports {said['heavy'] or 'nothing heavy'}")
    good = said["steps"] == 0 and said["queries"] <= 12 and not said["heavy"]
    table = Table(3 if quick else 7, empty, folder / ".retinue" / "cache" / "settled")
    plan = [*retinue, "plan"]
    measured(plan)
    remembered = table.line("plan, nothing changed", plan, judged=not quick)
    whole = table.line("plan, nothing changed or remembered", plan, forgetting=True)
    for word in ("status", "history", "history demand-s0000-p0000"):
        table.line(word, [*retinue, *word.split()])
    file.write_text(file.read_text().replace(LINE, LINE.replace("4", "5")))
    measured(plan)  # the file is read once
    table.line("plan, one model changed", plan)
    file.write_text(file.read_text().replace(LINE.replace("4", "5"), LINE))
    versus_dvc(table, models, {"plan": remembered, "plan, nothing remembered": whole}, quick)
    return 0 if good and remembered else 1


def versus_dvc(table: Table, models: int, ours: dict[str, list[float]], quick: bool) -> None:
    """The same question to DVC, and how many times our CPU per model it takes."""
    from benchmarks._dvc import make
    from benchmarks._install import PeerMissingError

    stages = 200 if quick else 1000
    try:
        command = make(HERE / ".cache" / f"dvc-{stages}", stages, install=not quick)
    except PeerMissingError as error:
        print(f"dvc: {error}")
        return
    theirs = table.line(f"dvc status, {stages:,} stages", command)
    for name, cpu in ours.items():
        if cpu:
            middle = statistics.median(theirs) / stages / (statistics.median(cpu) / models)
            low = min(theirs) / stages / (max(cpu) / models)
            high = max(theirs) / stages / (min(cpu) / models)
            print(f"dvc status : {name}, CPU per model    {middle:.0f} : 1  ({low:.0f}–{high:.0f})")


if __name__ == "__main__":
    sys.exit(main())
