"""The report: what the benchmarks found when they last ran, as Markdown with a plot: `python -m benchmarks._report`."""

from __future__ import annotations

import os
import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from benchmarks import _load


def facts() -> dict[str, str]:
    """When and on what it was measured."""
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": f"{model}, {os.cpu_count()} cores, Linux {platform.release()}",
        "versions": ", ".join(
            [
                f"Python {platform.python_version()}",
                *(f"{n} {version(n)}" for n in ("retinue", "uvloop", "httptools", "onnxruntime")),
            ]
        ),
        "load": _load.describe(),
        "other work on the machine": f"load average {os.getloadavg()[0]:.1f} before the start",
    }


if __name__ == "__main__":
    sys.exit(0)
