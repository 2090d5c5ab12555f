"""The report: what the benchmarks found when they last ran, as Markdown with a plot: `python -m benchmarks._report`."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from benchmarks import _load, _plot
from benchmarks._rounds import HEADS, RESULTS, Line, kept

REPORT = Path(__file__).resolve().parent / "results"
OURS = "Retinue"


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


def write() -> list[Path]:
    """The report and its plots from what is kept; returns the files."""
    REPORT.mkdir(exist_ok=True)
    serve, serve_facts = kept("serve")
    peers, peer_facts = kept("peers")
    files = {}
    if peers:
        files["peers.svg"] = peers_plot(peers)
    if serve:
        files["echo.svg"] = echo_plot(serve)
    files["README.md"] = page(serve, serve_facts, peers, peer_facts, stages())
    for name, text in files.items():
        (REPORT / name).write_text(text, encoding="utf-8")
    return [REPORT / name for name in files]


def stages() -> dict[str, dict[str, float]]:
    """What `benchmarks.stages` found last."""
    file = RESULTS / "stages.json"
    found: dict[str, dict[str, float]] = json.loads(file.read_text())["stages"] if file.exists() else {}
    return found


def peers_plot(lines: Sequence[Line]) -> str:
    """How many times as many requests, and the tail of latency at half load."""
    beside = sorted((line for line in lines if line.label == OURS), key=lambda line: line.ratio.median)
    theirs = {line.label: line for line in lines if line.label != OURS}
    ratios = _plot.Axis(_plot.LEFT, 300, 1, 1000, log=True)
    tails = _plot.Axis(_plot.LEFT + 430, 300, 0.1, 1000, log=True)
    bars = [
        _plot.Bar(
            one.against, one.ratio.low, one.ratio.median, one.ratio.high, one.number(one.ratio.median), one.target
        )
        for one in beside
    ]
    pairs = [_plot.Pair(one.against, one.p99 or 0.1, theirs[one.against].p99 or 0.1) for one in beside]
    n = len(beside)
    middle = tails.left + tails.width / 2
    return _plot.page(
        960,
        n,
        "Retinue beside other model servers",
        "one core, the same 100 trees in onnxruntime, JSON, one row a request; whiskers: lowest and highest round",
        [
            *_plot.labels([one.against for one in beside]),
            *_plot.grid(ratios, n, " ×", "requests/s, Retinue over the other (line: target)"),
            *_plot.bars(ratios, bars),
            *_plot.grid(tails, n, "", "p99 in ms, each at half of its own maximum load"),
            *_plot.pairs(tails, pairs),
            _plot.text(middle - 60, _plot.TOP - 10, "● Retinue", anchor="middle", fill=_plot.OURS, size=12),
            _plot.text(middle + 60, _plot.TOP - 10, "● the other", anchor="middle", fill="#64748b", size=12),
        ],
    )


def echo_plot(lines: Sequence[Line]) -> str:
    """How much of a bare echo's requests are left when everything is done with them."""
    shown = [line for line in lines if line.against == "bare echo" and line.label != "bare echo"]
    axis = _plot.Axis(_plot.LEFT, 520, 0, 100, log=False)
    bars = [
        _plot.Bar(
            line.label, line.ratio.low * 100, line.ratio.median * 100, line.ratio.high * 100,
            line.number(line.ratio.median), None if line.target is None else line.target * 100,
        )
        for line in shown
    ]  # fmt: skip
    return _plot.page(
        800,
        len(shown),
        "Requests/s as a share of a bare httptools echo on the same loop",
        "key check, routing, journal and metrics on; one core; whiskers: lowest and highest round; line: target",
        [
            *_plot.labels([line.label for line in shown]),
            *_plot.grid(axis, len(shown), " %", ""),
            *_plot.bars(axis, bars),
        ],
    )


def page(
    serve: Sequence[Line],
    serve_facts: Mapping[str, str],
    peers: Sequence[Line],
    peer_facts: Mapping[str, str],
    found: Mapping[str, Mapping[str, float]],
) -> str:
    """The report in Markdown."""
    parts = [
        "# Benchmark report",
        "",
        "Written by `make bench`; what each column means and what it cannot show: [benchmarks](../README.md).",
        "",
    ]
    if serve:
        parts += [
            "## Everything on, against a bare echo",
            "",
            *_facts(serve_facts),
            "![share of the echo](echo.svg)",
            "",
        ]
        parts += [*_markdown(serve), ""]
    if peers:
        parts += ["## Beside other model servers", "", *_facts(peer_facts), "![beside other servers](peers.svg)", ""]
        parts += [*_markdown(peers), ""]
    if found:
        kinds = list(found)
        parts += [
            "## Where a request's microseconds go",
            "",
            "CPU µs per request inside the gateway, without sockets.",
            "",
        ]
        parts += ["| stage | " + " | ".join(kinds) + " |", "| --- |" + " ---: |" * len(kinds)]
        for name in found[kinds[0]]:
            parts.append(f"| {name} | " + " | ".join(f"{found[kind][name]:.1f}" for kind in kinds) + " |")
        parts.append("")
    return "\n".join(parts)


def _facts(facts: Mapping[str, str]) -> list[str]:
    return [*(f"- {name}: {value}" for name, value in facts.items()), ""]


def _markdown(lines: Sequence[Line]) -> list[str]:
    rows = [line.cells() for line in lines]
    head = ["", *HEADS[1:]]
    return [
        "| " + " | ".join(head) + " |",
        "|" + " --- |" + " ---: |" * 2 + " --- |" + " ---: |" * 4 + " --- |",
        *("| " + " | ".join(row) + " |" for row in rows),
        *("" for _ in [0]),
        *(f"{line.label}: {line.note}." for line in lines if line.note),
    ]


if __name__ == "__main__":
    print(*write(), sep="\n")
