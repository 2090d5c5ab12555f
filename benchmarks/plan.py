"""What a plan of 10,000 models costs: CPU, memory, queries; nothing changed, one changed, and the stage's status.

    python -m benchmarks.plan            10,000 models (made once, under .cache/)
    python -m benchmarks.plan --quick    600 models; judges queries and imports only

CPU is user and system time of the whole command less that of an interpreter that does nothing, memory the highest
resident size: both by the kernel's count of a process of its own. The median of the runs is judged.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
CPU, MEMORY = 1.0, 150.0  # seconds, MiB: the promises
LINE = '"s0000,p0000": {params: {depth: 4}}'
PROBE = """
import json, sys
from pathlib import Path
from retinue.project import Project
from sqlalchemy import event
project = Project(Path(sys.argv[1]))
asked = []
event.listen(project.registry.engine, "before_cursor_execute", lambda *call: asked.append(call[2]))
plan = project.plan()
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


def line(what: str, command: list[str], runs: int, empty: float, judged: bool) -> bool:
    """Print one line of the table; whether it keeps the promises."""
    found = [measured(command) for _ in range(runs)]
    cpu = [seconds - empty for seconds, _ in found]
    memory = max(size for _, size in found)
    middle = statistics.median(cpu)
    kept = not judged or (middle <= CPU and memory <= MEMORY)
    word = "" if not judged else "met" if kept else "MISSED"
    print(f"{what:<34}{middle:>8.2f} s  ({min(cpu):.2f}–{max(cpu):.2f}){memory:>8.0f} MiB   {word}", flush=True)
    return kept


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    from benchmarks._many import make

    stores, products, mixes = (10, 55, 4) if quick else (100, 90, 9)
    folder = HERE / ".cache" / f"plan-{stores * (products + mixes + 1)}"
    if not (folder / "made").exists():
        shutil.rmtree(folder, ignore_errors=True)
        make(folder, stores, products, mixes).close()
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
    runs = 3 if quick else 7
    good &= line("plan, nothing changed", [*retinue, "plan"], runs, empty, not quick)
    line("status", [*retinue, "status"], runs, empty, judged=False)
    line("history", [*retinue, "history"], runs, empty, judged=False)
    file.write_text(file.read_text().replace(LINE, LINE.replace("4", "5")))
    measured([*retinue, "plan"])  # the file is read once
    line("plan, one model changed", [*retinue, "plan"], runs, empty, judged=False)
    file.write_text(file.read_text().replace(LINE.replace("4", "5"), LINE))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
