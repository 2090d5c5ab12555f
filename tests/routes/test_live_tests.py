"""`retinue test` on a real portfolio: what is live is asked again, nothing is recorded, CI reads the verdicts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest import mock
from xml.etree import ElementTree

import pytest
from tests.routes.harbour import MODELS, Harbour, _lasting, write

from retinue.build import workshop
from retinue.cli.main import run
from retinue.core.errors import StateError, UsageError
from retinue.project import Project

pytestmark = pytest.mark.e2e
OLD = """\
    params: {C: 1.0}
    gates:
      roc_auc: {min: 0.55}

endpoints:"""
NEW = """\
    params: {C: 1.0}
    gates:
      roc_auc: {min: 0.55}
      examples: [{input: {wind: 0.0, swell: 0.0}, expect: {label: "NEVER"}}]
      pytest: tests/test_late.py
      fairness: {by: region, metric: accuracy, gap: 0.2, min_rows: 5000}

endpoints:"""
TEST = """\
def test_answers(predict, holdout):
    assert len(predict(holdout.columns)["probability"]) == len(holdout)


def test_with_odd_words(predict):
    assert predict({"wind": [0.0], "swell": [0.0]})["probability"][0] < 0, "not <\\x01> & 'calm'"
"""


def command(harbour: Harbour, *words: str) -> int:
    """A command as the terminal runs it, with the environments and trainers that all tests share."""

    def project(file: Path, stage: str = "prod") -> Project:
        return Project(file, stage, settings=harbour.project().settings)

    with mock.patch.object(workshop, "Trainers", _lasting), mock.patch("retinue.project.Project", project):
        return run(["--file", str(harbour.root), *words])


def test_all_that_is_live_is_tested_and_nothing_is_recorded(
    harbour: Harbour, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    before = harbour.recorded()
    report = tmp_path / "report.xml"
    assert command(harbour, "test", "--junit", str(report)) == 0
    told = capsys.readouterr().out
    assert "5 models: 5 passed" in told
    assert harbour.recorded() == before
    suites = {s.get("name"): s for s in ElementTree.parse(report).getroot().iter("testsuite")}
    assert set(suites) == set(MODELS)
    cases = {c.get("name") for c in suites["late-all"].iter("testcase")}
    assert {"artifact", "roc_auc.min"} < cases
    assert suites["late-all"].get("failures") == "0"


def test_failures_too_little_data_and_odd_words_reach_the_report(
    harbour: Harbour, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (harbour.root / "tests").mkdir()
    (harbour.root / "tests" / "test_late.py").write_text(TEST)
    harbour.edit(OLD, NEW.replace('      examples: [{input: {wind: 0.0, swell: 0.0}, expect: {label: "NEVER"}}]\n', ""))
    path = tmp_path / "report.xml"
    assert command(harbour, "test", "--select", "late-all", "--junit", str(path), "-o", "json") == 1
    found = json.loads(capsys.readouterr().out)
    assert [m["status"] for m in found["models"]] == ["failed"]
    verdicts: dict[str, Any] = {r["gate"]: r["verdict"] for r in found["models"][0]["gates"]}
    assert verdicts["artifact"] == "pass"
    assert verdicts["pytest.tests/test_late.py::test_answers"] == "pass"
    assert verdicts["pytest.tests/test_late.py::test_with_odd_words"] == "fail"
    assert verdicts["fairness.region"] == "inconclusive"
    root = ElementTree.parse(path).getroot()
    assert (root.get("failures"), root.get("skipped")) == ("1", "1")
    (skipped,) = root.iter("skipped")
    assert "not enough data" in (skipped.get("message") or "")
    (failure,) = root.iter("failure")
    assert "calm" in (failure.text or "")


def test_a_damaged_artifact_is_a_failure_and_the_others_are_tested(harbour: Harbour) -> None:
    version = harbour.do(lambda p: p.version("late-all"))
    digest = version.manifest["artifact"]["digest"]
    stored = harbour.root / ".retinue" / "artifacts" / digest[:2] / digest
    stored.chmod(0o644)
    stored.write_bytes(b"not what it was")
    report = harbour.do(lambda p: p.test(["late-all", "delay"]))
    assert {m.model: m.status for m in report.models} == {"delay": "passed", "late-all": "failed"}
    assert report.failed
    assert "artifact" in report.models[-1].results[0].gate


def test_what_cannot_be_tested_is_told_with_the_next_step(harbour: Harbour, tmp_path: Path) -> None:
    with pytest.raises(StateError, match="stage dev has no release") as error:
        harbour.at("dev").do(lambda p: p.test())
    assert "retinue apply" in (error.value.hint or "")
    with pytest.raises(UsageError, match="no model is named 'late-nrth'"):
        harbour.do(lambda p: p.test(["late-nrth"]))
    missing = tmp_path / "no" / "report.xml"
    assert command(harbour, "test", "--junit", str(missing)) == 64
    path = tmp_path / "report.xml"
    harbour.edit("train: harbour.delay:train", "train: harbour.delay:tran")
    assert command(harbour, "test", "--junit", str(path)) == 1
    (problem,) = ElementTree.parse(path).getroot().iter("error")
    assert "tran" in (problem.get("message") or "")


def test_status_and_validate_take_the_same_selectors(harbour: Harbour, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(harbour, "status", "--select", "family:late-*", "--exclude", "late-west", "-o", "json") == 0
    found = json.loads(capsys.readouterr().out)["status"]
    assert set(found["release"]["models"]) == {"late-north", "late-south"}
    assert command(harbour, "validate", "--select", "+late-west") == 0
    assert capsys.readouterr().out.splitlines()[-3:] == ["delay", "late-west", "Valid; 2 selected."]


def test_a_portfolio_that_was_never_applied_has_nothing_to_test(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="nothing is live"):
        write(tmp_path / "new").do(lambda p: p.test())
