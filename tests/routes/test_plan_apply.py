"""The plan route told as a spec: what changes what, on a real portfolio with real training and a real registry."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.routes.harbour import DELAY, LATE, MEMBERS, MODELS, PORTFOLIO, Harbour, kinds, statuses, steps, write

from retinue.core.errors import ConflictError, PortfolioError, StateError, UsageError
from retinue.core.plan import Build
from retinue.project import Asked
from retinue.store.releasefile import ReleaseFile, current

pytestmark = pytest.mark.e2e


def settled(harbour: Harbour) -> bool:
    """Whether nothing is left to do."""
    return harbour.plan().empty


# ── the first apply, and nothing ────────────────────────────────────────────────────────────────────────────────────
def test_the_first_apply_builds_and_releases_everything_in_one_landing(tmp_path: Path) -> None:
    harbour = write(tmp_path / "harbour")
    plan = harbour.plan()
    assert steps(plan) == dict.fromkeys(MODELS, "build")
    assert [w.model for w in plan.waiting] == ["late-east"]
    outcome = harbour.apply()
    assert statuses(outcome) == dict.fromkeys(MODELS, "built")
    assert outcome.release == 1
    assert set(harbour.live()) == set(MODELS)
    assert current(harbour.root / ".retinue/releases/harbour/prod") == 1
    assert settled(harbour)
    again = harbour.apply()
    assert (again.release, again.before, again.models) == (None, 1, ())


def test_what_has_no_meaning_builds_nothing(harbour: Harbour) -> None:
    harbour.edit("def train(job):", 'def train(job):\n    """Explained."""\n    # and commented', "harbour/late.py")
    harbour.edit(
        "from sklearn.impute import SimpleImputer\n",
        "from sklearn.impute import (\n    SimpleImputer,\n)\n",
        "harbour/late.py",
    )
    harbour.edit("-- what the family predicts", "/* the\n        target */ -- twice")
    harbour.edit("select c.*, c.delay > 1.0 as late", "SELECT   c.*,\n         c.delay > 1.0 AS late")
    harbour.edit(
        "    task: regression\n    features: [hour, swell]\n",
        "    features:\n      - hour\n      - swell\n    task: regression\n",
    )
    harbour.edit("portfolio: harbour\n", "# ours\nportfolio: 'harbour'\n")
    for path in harbour.root.rglob("*.p*"):
        os.utime(path, (1_700_000_000, 1_700_000_000))
    assert settled(harbour)


def test_metadata_is_a_settings_revision_and_no_release(harbour: Harbour) -> None:
    harbour.edit("owner: ada@example.org", "owner: grace@example.org")
    harbour.edit("description: Will this ship be late?", "description: Late or not?")
    harbour.edit("tags: [harbour]", "tags: [harbour, ships]")
    plan = harbour.plan()
    assert kinds(plan) == {"Configure"}
    outcome = harbour.apply()
    assert (outcome.release, outcome.settings) == (None, 2)
    assert harbour.number() == 1
    assert settled(harbour)


def test_protection_alone_is_a_release_without_a_build(harbour: Harbour) -> None:
    harbour.edit("    owner: ada@example.org", "    owner: ada@example.org\n    protect: true")
    outcome = harbour.apply()
    assert (outcome.release, outcome.settings, outcome.models) == (2, 2, ())
    assert settled(harbour)


def test_options_of_serving_are_settings_that_reach_the_release_file_and_survive_a_rollback(harbour: Harbour) -> None:
    harbour.edit(
        'select: "late-{region}"', 'select: "late-{region}"\n    journal: {drop: [region]}\n    cache: {for: 60s}'
    )
    harbour.edit("    owner: ada@example.org", "    owner: ada@example.org\n    serve: {pinned: true}")
    plan = harbour.plan()
    assert kinds(plan) == {"Configure"}
    outcome = harbour.apply()
    assert (outcome.release, outcome.settings, outcome.models) == (None, 2, ())
    folder = harbour.root / ".retinue/releases/harbour/prod"
    with ReleaseFile(folder / "1.release") as file:
        assert file.endpoints["late"].journal.drop == ("region",)
        assert file.endpoints["late"].cache is not None
        pinned = [name for name in file.models if (found := file.model(name)) is not None and found.pinned]
    assert pinned
    assert (folder / "access").is_file()
    assert settled(harbour)
    harbour.edit("endpoints:\n", "endpoints:\n  every: {select: late-all}\n")
    assert harbour.apply().release == 2
    harbour.do(lambda project: project.rollback(to=1, why="test"))
    with ReleaseFile(folder / "3.release") as file:
        assert file.endpoints["late"].journal.drop == ("region",)


def test_a_feature_found_to_be_known_too_late_can_be_taken_out(harbour: Harbour) -> None:
    for listed in ("[hour, swell]", "[wind, swell, delay]", "[wind, swell]"):
        harbour.edit(f"features: {listed}", f"features: {listed.replace(', swell', '')}")
    harbour.edit("available: {delay: 1h}", "available: {delay: 1h, swell: 1h}")
    harbour.edit("available: {late: 1h, delay: 1h}", "available: {late: 1h, delay: 1h, swell: 1h}")
    assert statuses(harbour.apply()) == dict.fromkeys(MODELS, "built")


def test_a_label_that_is_text_can_be_a_feature_downstream(harbour: Harbour) -> None:
    harbour.edit("select c.*,", "select c.*, if(c.delay > 2, 'bad', 'good') as grade,")
    harbour.edit("available: {late: 1h, delay: 1h}", "available: {late: 1h, delay: 1h, grade: 1h}")
    common = "    data: judged\n    task: binary\n    params: {C: 1.0}\n"
    grade = f"  grade:\n    train: harbour.grade:train\n    target: grade\n    features: [wind, swell]\n{common}"
    user = f"  user:\n    train: harbour.user:train\n    target: late\n    features: [grade]\n{common}"
    harbour.edit("  late-all:\n", f"{grade}{user}    needs: {{grade: {{output: label}}}}\n  late-all:\n")
    (harbour.root / "harbour/grade.py").write_text(LATE.replace(".astype(bool)", ""))
    encoder = "from sklearn.preprocessing import OneHotEncoder\n"
    (harbour.root / "harbour/user.py").write_text(encoder + LATE.replace("SimpleImputer()", "OneHotEncoder()"))
    built = statuses(harbour.apply())
    assert (built["grade"], built["user"]) == ("built", "built")


# ── definitions ─────────────────────────────────────────────────────────────────────────────────────────────────────
def test_one_parameter_of_one_member_is_one_build(harbour: Harbour) -> None:
    before = harbour.live()
    harbour.edit("lapse: keep}", 'lapse: keep}\n    override: {"west": {params: {C: 0.5}}}')
    plan = harbour.plan()
    assert steps(plan) == {"late-west": "build"}
    (build,) = (s for s in plan.steps if isinstance(s, Build))
    assert [(w.reason, w.text) for w in build.why] == [("PARAMS", "C 1.0 → 0.5")]
    assert statuses(harbour.apply()) == {"late-west": "built"}
    after = harbour.live()
    assert {m for m in before if before[m] != after[m]} == {"late-west"}
    assert settled(harbour)


def test_an_upstream_change_re_gates_its_consumers_and_lands_as_one(harbour: Harbour) -> None:
    before = harbour.live()
    harbour.edit("alpha: 1.0", "alpha: 2.0")
    assert steps(harbour.plan()) == {"delay": "build", **dict.fromkeys(MEMBERS, "regate")}
    outcome = harbour.apply()
    assert statuses(outcome) == {"delay": "built", **dict.fromkeys(MEMBERS, "regated")}
    assert outcome.release == 2
    after = harbour.live()
    assert {m for m in before if before[m] != after[m]} == {"delay"}
    assert settled(harbour)


def test_consumers_that_fail_beside_a_changed_upstream_are_rebuilt_in_the_same_landing(harbour: Harbour) -> None:
    before = harbour.live()
    # The upstream turns its answers upside down: what the members learnt of it is wrong now.
    harbour.edit(
        ".fit(table[list(job.features)], table[job.target])",
        ".fit(table[list(job.features)], -9 * table[job.target])",
        "harbour/delay.py",
    )
    harbour.edit("margin: 50%", "margin: 5000%")
    outcome = harbour.do(lambda p: p.apply(asked=Asked(allow_weaker=("delay",))))
    assert statuses(outcome) == {"delay": "built", **dict.fromkeys(MEMBERS, "rebuilt")}
    assert outcome.release == 2
    after = harbour.live()
    assert {m for m in before if before[m] != after[m]} == {"delay", *MEMBERS}
    assert settled(harbour)


def test_an_output_renamed_on_both_sides_rebuilds_the_consumers(harbour: Harbour) -> None:
    harbour.edit("select c.*, c.delay > 1.0 as late", "select c.*, c.delay as wait, c.delay > 1.0 as late")
    harbour.edit("data: calls\n    task: regression", "data: judged\n    task: regression")
    harbour.edit("    target: delay\n", "    target: wait\n")
    harbour.edit("available: {late: 1h, delay: 1h}", "available: {late: 1h, delay: 1h, wait: 1h}")
    harbour.edit("delay: {output: delay, inputs", "delay: {output: wait, inputs")
    harbour.edit('job.data["calls"]', 'job.data["judged"]', "harbour/delay.py")
    assert steps(harbour.plan()) == dict.fromkeys(MODELS, "build")  # the view changed for late-all too
    outcome = harbour.apply()
    assert set(statuses(outcome).values()) == {"built"}
    assert outcome.release == 2
    assert settled(harbour)


def test_an_output_renamed_on_one_side_is_refused_and_names_the_consumers(harbour: Harbour) -> None:
    harbour.edit("delay: {output: delay, inputs", "delay: {output: wait, inputs")
    with pytest.raises(
        PortfolioError, match=r"late-\{region\}.needs.delay.output: delay has no output 'wait'"
    ) as caught:
        harbour.plan()
    assert str(caught.value.where).startswith("portfolio.yaml:41:")


def test_renaming_with_was_builds_nothing(harbour: Harbour) -> None:
    before = harbour.live()
    harbour.edit("  late-all:\n", "  late-any:\n    was: late-all\n")
    harbour.edit("fallback: {model: late-all", "fallback: {model: late-any")
    plan = harbour.plan()
    assert steps(plan) == {}
    assert kinds(plan) == {"Rename", "Route"}
    harbour.apply()
    after = harbour.live()
    assert after["late-any"] == before["late-all"]
    assert "late-all" not in after
    assert settled(harbour)


def test_removing_asks_to_be_named_and_declaring_again_reuses_the_version(harbour: Harbour) -> None:
    before = harbour.live()
    start = PORTFOLIO.index("  late-all:\n")
    block = PORTFOLIO[start : PORTFOLIO.index("endpoints:")]
    harbour.edit(block, "\n")
    harbour.edit("    fallback: {model: late-all, when: [unknown, unavailable]}\n", "")
    plan = harbour.plan()
    assert [d.flag for d in plan.blocked] == ["--allow-remove late-all"]
    with pytest.raises(UsageError, match="remove late-all") as caught:
        harbour.apply()
    assert "--allow-remove late-all" in caught.value.hint
    assert "late-all" in harbour.live()
    harbour.apply(allow_remove=("late-all",))
    assert "late-all" not in harbour.live()
    assert settled(harbour)
    (harbour.root / "portfolio.yaml").write_text(PORTFOLIO)
    assert statuses(harbour.apply()) == {"late-all": "reused"}
    assert harbour.live() == before
    assert settled(harbour)


def test_rebuild_makes_a_sibling_and_nothing_else(harbour: Harbour) -> None:
    harbour.edit(
        "    return model.fit(",
        '    job.log(again=len(list(job.files.parent.glob("*"))))\n    return model.fit(',
        "harbour/late.py",
    )
    harbour.apply()
    before = harbour.live()
    assert steps(harbour.plan(rebuild=("late-west",))) == {"late-west": "build"}
    harbour.apply(rebuild=("late-west",))
    versions = harbour.do(lambda p: p.registry.versions_of_model("harbour", "late-west"))
    live = harbour.live()["late-west"]
    pair = next((v.definition, v.snapshot) for v in versions if v.id == live)
    assert [v.sibling for v in versions if (v.definition, v.snapshot) == pair] in ([1, 0], [0])
    assert before.keys() == harbour.live().keys()
    assert settled(harbour)


# ── gates ───────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_a_tightened_gate_re_gates_and_a_weakened_one_asks_to_be_named(harbour: Harbour) -> None:
    before = harbour.live()
    harbour.edit("roc_auc: {min: 0.55}\n      log_loss", "roc_auc: {min: 0.60}\n      log_loss")
    assert steps(harbour.plan()) == dict.fromkeys(MEMBERS, "regate")
    outcome = harbour.apply()
    assert statuses(outcome) == dict.fromkeys(MEMBERS, "regated")
    assert outcome.release is None
    assert settled(harbour)
    harbour.edit("roc_auc: {min: 0.60}", "roc_auc: {min: 0.50}")
    assert {d.flag for d in harbour.plan().blocked} == {f"--allow-weaker {m}" for m in MEMBERS}
    with pytest.raises(UsageError, match=r"roc_auc min 0\.6 → 0\.5"):
        harbour.apply()
    harbour.apply(allow_weaker=("family:late",))
    assert harbour.live() == before
    assert settled(harbour)


def test_a_live_version_that_fails_an_edited_gate_stays_and_is_a_danger(harbour: Harbour) -> None:
    before = harbour.live()
    harbour.edit(
        "    params: {C: 1.0}\n    gates:\n      roc_auc: {min: 0.55}\n\nendpoints",
        "    params: {C: 1.0}\n    gates:\n      roc_auc: {min: 0.9999}\n\nendpoints",
    )
    assert statuses(harbour.apply()) == {"late-all": "gate failed"}
    assert harbour.live() == before
    plan = harbour.plan()
    assert plan.empty
    assert [d.models for d in plan.dangers] == [("late-all",)]
    assert not plan.blocked


def test_a_failed_gate_leaves_a_hold_that_editing_the_gate_ends(harbour: Harbour) -> None:
    before = harbour.live()
    gate = "    params: {C: 1.0}\n    gates:\n      roc_auc: {min: 0.55}\n\nendpoints"
    harbour.edit(
        gate, "    params: {C: 0.7}\n    gates:\n      accuracy: {min: 0.999}\n      roc_auc: {min: 0.55}\n\nendpoints"
    )
    outcome = harbour.apply()
    assert statuses(outcome) == {"late-all": "gate failed"}
    assert outcome.failed
    assert harbour.holds() == {"late-all": "failed gate"}
    assert harbour.live() == before
    plan = harbour.plan()
    assert plan.empty
    assert [(h.model, h.cause, h.detail) for h in plan.held] == [("late-all", "failed gate", "accuracy.min")]
    harbour.edit("accuracy: {min: 0.999}", "accuracy: {min: 0.5}")
    outcome = harbour.apply(allow_weaker=("late-all",))
    assert statuses(outcome) == {"late-all": "reused"}
    assert harbour.holds() == {}
    assert harbour.live()["late-all"] != before["late-all"]
    assert settled(harbour)


def test_an_inconclusive_gate_keeps_the_champion_with_a_hold(harbour: Harbour) -> None:
    before = harbour.live()
    harbour.edit("mae: {vs_champion: not_worse, margin: 50%}", "mae: {vs_champion: not_worse, margin: 0.01%}")
    harbour.edit("alpha: 1.0", "alpha: 30.0")
    assert statuses(harbour.apply())["delay"] == "inconclusive"
    assert harbour.holds() == {"delay": "inconclusive"}
    assert harbour.live() == before
    assert settled(harbour)


def test_a_new_model_that_is_held_holds_up_what_needs_it_and_its_endpoint(tmp_path: Path) -> None:
    text = PORTFOLIO.replace("mae: {vs_champion", "r2: {min: 0.9999}\n      mae: {vs_champion")
    text += "\n  delay:\n    select: delay\n"
    harbour = write(tmp_path / "harbour", text)
    outcome = harbour.apply()
    assert statuses(outcome) == {"delay": "gate failed", "late-all": "built", **dict.fromkeys(MEMBERS, "skipped")}
    assert set(harbour.live()) == {"late-all"}
    plan = harbour.plan()
    assert plan.empty, plan.steps
    assert {h.model for h in plan.held} == {"delay", *MEMBERS}
    assert any("endpoint delay waits" in note for note in plan.notes)
    harbour.edit("r2: {min: 0.9999}", "r2: {min: 0.0}")
    outcome = harbour.do(lambda p: p.apply(asked=Asked(allow_weaker=("delay",))))
    assert set(harbour.live()) == set(MODELS)
    assert settled(harbour)


# ── data ────────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_appended_rows_are_newer_data_and_move_by_refresh_alone(harbour: Harbour) -> None:
    before = harbour.live()

    def cutoffs() -> dict[str, str]:
        versions = harbour.do(lambda p: p.registry.versions(harbour.live().values()))
        snapshots = harbour.do(lambda p: p.registry.snapshots([v.snapshot for v in versions.values()]))
        return {v.model: snapshots[v.snapshot].body["cutoff"] for v in versions.values()}

    old = cutoffs()
    harbour.append({"north": 60, "south": 60, "west": 60})
    plan = harbour.plan()
    assert plan.empty
    assert set(plan.newer_data) == set(MODELS)

    assert steps(harbour.plan(refresh_data=True, select=("late-west",))) == {"late-west": "build"}
    harbour.apply(refresh_data=True, select=("late-west",))
    after = harbour.live()
    assert {m for m in before if before[m] != after[m]} == {"late-west"}
    assert cutoffs() == old
    plan = harbour.plan()
    assert plan.empty
    assert set(plan.newer_data) == set(MODELS) - {"late-west"}

    # A changed parameter keeps the live snapshot, though there is newer data.
    harbour.edit("lapse: keep}", 'lapse: keep}\n    override: {"north": {params: {C: 0.5}}}')
    (build,) = (s for s in harbour.plan().steps if isinstance(s, Build))
    assert build.data["tables"][0]["rows"] == 400

    harbour.apply(refresh_data=True)
    new = cutoffs()
    assert len({new[m] for m in ("delay", *MEMBERS)}) == 1
    assert new["delay"] > old["delay"]
    assert settled(harbour)
    assert harbour.plan().newer_data == ()


def test_a_member_below_min_rows_is_kept_and_flagged(harbour: Harbour) -> None:
    before = harbour.live()
    harbour.keep(lambda frame: frame[(frame.region != "west") | (frame.id % 2 == 0)])
    plan = harbour.plan()
    assert plan.empty
    assert [(w.model, w.lapsed) for w in plan.waiting] == [("late-east", False), ("late-west", True)]
    harbour.keep(lambda frame: frame[frame.region != "west"])
    plan = harbour.plan()
    assert plan.empty
    assert [(w.model, w.rows) for w in plan.waiting if w.lapsed] == [("late-west", 0)]
    assert harbour.live() == before


def test_a_new_key_is_an_addition_or_waits(harbour: Harbour) -> None:
    harbour.append({"harbour/ö": 160, "isle": 149})
    plan = harbour.plan()
    assert steps(plan) == {"late-harbour%2F%C3%B6": "build"}
    assert ("late-isle", 149) in [(w.model, w.rows) for w in plan.waiting]


# ── saved plans, stages ─────────────────────────────────────────────────────────────────────────────────────────────
def test_a_saved_plan_is_done_exactly_and_refused_when_its_affected_set_moved(harbour: Harbour) -> None:
    file = harbour.root / "plan.json"
    original = PORTFOLIO
    changed = original.replace("lapse: keep}", 'lapse: keep}\n    override: {"west": {params: {C: 0.5}}}')
    (harbour.root / "portfolio.yaml").write_text(changed)
    harbour.do(lambda p: p.save(p.plan(), file))
    # Something outside its affected set moves, and so does the file: the plan still does what was printed.
    (harbour.root / "portfolio.yaml").write_text(
        original.replace(
            "params: {C: 1.0}\n    gates:\n      roc_auc: {min: 0.55}\n\nend",
            "params: {C: 3.0}\n    gates:\n      roc_auc: {min: 0.55}\n\nend",
        )
    )
    assert statuses(harbour.apply()) == {"late-all": "built"}
    (harbour.root / "harbour" / "late.py").write_text("raise SystemExit\n")
    outcome = harbour.do(lambda p: p.apply(file))
    assert statuses(outcome) == {"late-west": "built"}
    assert outcome.release == 3
    with pytest.raises(ConflictError, match="late-west changed since this plan was made") as caught:
        harbour.do(lambda p: p.apply(file))
    assert "retinue plan" in caught.value.hint
    harbour.do(lambda p: p.rollback(["late-west"], why="complaints"))
    with pytest.raises(ConflictError, match="of late-west was rolled back since") as held:
        harbour.do(lambda p: p.apply(file))
    assert "retinue unhold" in held.value.hint
    harbour.do(lambda p: p.unhold(["late-west"], why="it was not the model"))
    assert statuses(harbour.do(lambda p: p.apply(file))) == {"late-west": "reused"}
    file.write_text(file.read_text()[:-40])
    with pytest.raises(StateError, match="not a whole plan"):
        harbour.do(lambda p: p.apply(file))


def test_promotion_moves_the_very_same_versions_without_training(harbour: Harbour) -> None:
    harbour.append({"north": 60})
    staging = harbour.at("staging")
    outcome = staging.apply()
    assert set(statuses(outcome).values()) == {"reused"}
    assert staging.live() == harbour.live()
    assert settled(staging)
    assert settled(harbour)


def test_a_stage_that_is_behind_takes_what_another_stage_serves(harbour: Harbour) -> None:
    staging = harbour.at("staging")
    staging.apply()
    harbour.append({"north": 60})
    harbour.edit("roc_auc: {min: 0.55}\n\nendpoints", "roc_auc: {min: 0.55}\n    semantics: 2\n\nendpoints")
    staging.apply(refresh_data=True, select=("late-all",))
    outcome = harbour.apply()
    assert statuses(outcome) == {"late-all": "reused"}
    assert harbour.live() == staging.live()


def test_an_upstream_that_is_free_again_waits_for_consumers_that_are_still_held(harbour: Harbour) -> None:
    harbour.edit("c.delay > 1.0 as late", "c.delay as wait, c.delay > 1.0 as late")
    harbour.edit("available: {late: 1h, delay: 1h}", "available: {late: 1h, delay: 1h, wait: 1h}")
    harbour.edit("data: calls\n    task: regression\n    features: [hour, swell]\n    target: delay",
                 "data: judged\n    task: regression\n    features: [hour, swell]\n    target: wait")  # fmt: skip
    harbour.edit('job.data["calls"]', "next(iter(job.data.values()))", "harbour/delay.py")
    harbour.edit("{output: delay, inputs", "{output: wait, inputs")
    assert not harbour.apply().failed
    harbour.do(lambda p: p.rollback(["delay"], why="a report reads it"))
    harbour.do(lambda p: p.unhold(["delay"], why="mended"))
    plan = harbour.plan()
    assert steps(plan) == {}
    assert {held.model: held.cause for held in plan.held}["delay"] == "upstream"
    harbour.do(lambda p: p.unhold(MEMBERS, why="mended too"))
    assert set(statuses(harbour.apply()).values()) == {"reused"}
    assert settled(harbour)


def test_a_version_that_comes_back_is_compared_with_the_champion_it_meets(harbour: Harbour) -> None:
    harbour.edit("features: [hour, swell]", "features: [hour, swell, wind]")  # a much better upstream
    assert not harbour.apply().failed
    better = harbour.live()
    harbour.edit("features: [hour, swell, wind]", "features: [hour, swell]")
    outcome = harbour.apply()
    assert statuses(outcome)["delay"] == "gate failed", "it passed once, when there was nothing to compare it with"
    assert harbour.live() == better
    assert harbour.holds()["delay"] == "failed gate"


def test_a_version_that_refuses_rows_its_champion_answers_does_not_land_unless_its_meaning_changed(
    harbour: Harbour,
) -> None:
    before = harbour.live()
    harbour.edit("make_pipeline(SimpleImputer(), Logistic", "make_pipeline(Logistic", "harbour/late.py")
    harbour.edit("C: 1.0", "C: 0.9")
    outcome = harbour.apply()
    assert set(statuses(outcome).values()) == {"gate failed"}
    failed = {r["gate"]: r["detail"] for m in outcome.models for r in m.results if r["verdict"] == "fail"}
    assert "may no longer be missing" in failed["contract.required"]
    assert harbour.live() == before
    harbour.edit("params: {C: 0.9}", "params: {C: 0.9}\n    semantics: 2")
    assert set(statuses(harbour.apply()).values()) == {"built"}


def test_what_a_failed_training_printed_and_said_is_kept(harbour: Harbour) -> None:
    raising = "    print('hello from training')\n    raise ValueError('no rows')\n    table = job"
    harbour.edit("    table = job", raising, "harbour/late.py")
    assert harbour.apply().failed
    log = harbour.root / ".retinue" / "logs" / "training" / "failed" / "late-west.log"
    assert "hello from training" in log.read_text()
    last = harbour.do(lambda p: p.registry.applies("harbour", "prod"))[0]
    assert "no rows" in last.summary["errors"]["late-west"]


# ── rollback and holds ──────────────────────────────────────────────────────────────────────────────────────────────
def test_a_broken_file_does_not_stop_a_rollback(harbour: Harbour) -> None:
    first = harbour.live()
    harbour.edit("lapse: keep}", 'lapse: keep}\n    override: {"west": {params: {C: 0.5}}}')
    harbour.apply()
    harbour.edit("models:", "models: [oops")
    release = harbour.do(lambda p: p.rollback(["late-west"], why="and the file is broken too"))
    assert {name: entry.version for name, entry in release.models.items()} == first


def test_a_rollback_is_held_until_it_is_unheld(harbour: Harbour) -> None:
    first = harbour.live()
    harbour.edit("lapse: keep}", 'lapse: keep}\n    override: {"west": {params: {C: 0.5}}}')
    harbour.apply()
    second = harbour.live()
    release = harbour.do(lambda p: p.rollback(["late-west"], why="complaints"))
    assert (release.number, harbour.live()) == (3, first)
    assert current(harbour.root / ".retinue/releases/harbour/prod") == 3
    plan = harbour.plan()
    assert plan.empty
    assert [(h.model, h.cause, h.detail, h.release) for h in plan.held] == [("late-west", "rollback", "complaints", 3)]
    assert harbour.apply().release is None
    with pytest.raises(UsageError, match="say why"):
        harbour.do(lambda p: p.unhold(["late-west"], why=""))
    harbour.do(lambda p: p.unhold(["late-west"], why="it was the weather"))
    assert statuses(harbour.apply()) == {"late-west": "reused"}
    assert harbour.live() == second
    assert settled(harbour)


def test_a_rollback_takes_back_what_was_changed_together_and_would_break(harbour: Harbour) -> None:
    first = harbour.live()
    harbour.edit(
        ".fit(table[list(job.features)], table[job.target])",
        ".fit(table[list(job.features)], -9 * table[job.target])",
        "harbour/delay.py",
    )
    harbour.edit("margin: 50%", "margin: 5000%")
    harbour.apply(allow_weaker=("delay",))
    assert {m for m, v in harbour.live().items() if v != first[m]} == {"delay", *MEMBERS}
    harbour.do(lambda p: p.rollback(["late-west"], why="worse"))
    assert harbour.live() == first
    assert set(harbour.holds()) == {"delay", *MEMBERS}
    assert steps(harbour.plan()) == {"delay": "regate"}  # the file's gate is not the one it was released with
    harbour.apply()
    assert harbour.live() == first
    assert settled(harbour)


def test_two_rollbacks_go_further_back_and_a_whole_one_makes_a_new_number(harbour: Harbour) -> None:
    lives = [harbour.live()]
    value = "1.0"
    for new in ("0.5", "0.25"):
        harbour.edit(
            f"params: {{C: {value}}}\n    gates:\n      roc_auc: {{min: 0.55}}\n\nend",
            f"params: {{C: {new}}}\n    gates:\n      roc_auc: {{min: 0.55}}\n\nend",
        )
        value = new
        harbour.apply()
        lives.append(harbour.live())
    harbour.do(lambda p: p.rollback(["late-all"]))
    assert harbour.live() == lives[1]
    harbour.do(lambda p: p.rollback(["late-all"]))
    assert harbour.live() == lives[0]
    with pytest.raises(UsageError, match="no earlier version"):
        harbour.do(lambda p: p.rollback(["late-all"]))
    release = harbour.do(lambda p: p.rollback(to=3, why="after all"))
    assert (release.number, harbour.live()) == (6, lives[2])
    with pytest.raises(UsageError, match="already has the content"):
        harbour.do(lambda p: p.rollback(to=3))
    with pytest.raises(StateError, match="no release 99"):
        harbour.do(lambda p: p.rollback(to=99))


# ── one model's fault ───────────────────────────────────────────────────────────────────────────────────────────────
def test_a_failed_model_stops_only_its_dependants(tmp_path: Path) -> None:
    broken = DELAY.replace("    model =", '    raise ValueError("no tide today")\n    model =')
    harbour = write(tmp_path / "harbour", files={"harbour/delay.py": broken})
    outcome = harbour.apply()
    assert statuses(outcome) == {"delay": "failed", "late-all": "built", **dict.fromkeys(MEMBERS, "skipped")}
    texts = {m.model: m.text for m in outcome.models}
    assert "no tide today" in texts["delay"]
    assert texts["late-west"] == "because of delay"
    assert outcome.failed
    assert set(harbour.live()) == {"late-all"}
    assert harbour.holds() == {}
    (harbour.root / "harbour" / "delay.py").write_text(DELAY)
    harbour.apply()
    assert set(harbour.live()) == set(MODELS)
    assert settled(harbour)


def test_a_consumer_that_cannot_be_trained_does_not_stop_its_upstream(harbour: Harbour) -> None:
    before = harbour.live()
    harbour.edit("alpha: 1.0", "alpha: 2.0")
    harbour.edit("lapse: keep}", 'lapse: keep}\n    override: {"west": {params: {C: -1.0}}}')
    outcome = harbour.apply()
    assert statuses(outcome) == {
        "delay": "built",
        "late-north": "regated",
        "late-south": "regated",
        "late-west": "failed",
    }
    after = harbour.live()
    assert {m for m in before if before[m] != after[m]} == {"delay"}
    assert steps(harbour.plan()) == {"late-west": "build"}
    assert LATE in (harbour.root / "harbour" / "late.py").read_text()
