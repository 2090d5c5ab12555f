"""`retinue publish`: what was trained elsewhere is handed over, planned, gated, released and kept; or refused."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.outside.test_outside import ALONE, fitted, place, to_onnx
from tests.routes.harbour import Harbour

from retinue import compose
from retinue.cli.main import run
from retinue.cli.render_version import render_version
from retinue.control.backup import restore_state, write_backup
from retinue.control.telling import told
from retinue.core.errors import PortfolioError
from retinue.core.plan import Build
from retinue.settings import load_settings

PUBLISHED = ALONE.replace("models/risk.onnx", "published")
FAMILY = """\
portfolio: harbour
models:
  "risk-{region}":
    for_each: [north, south]
    artifact: published
    task: binary
    features: {a: FP64, b: FP64}
    classes: [false, true]
"""


@pytest.fixture
def h(tmp_path: Path) -> Harbour:
    return place(tmp_path, PUBLISHED, risk_onnx=to_onnx(fitted()), other_onnx=to_onnx(fitted(shift=0.2)))


def publish(h: Harbour, capsys: pytest.CaptureFixture[str], *words: str, model: str = "risk") -> dict[str, Any]:
    """What the command says as JSON; its exit code under `code`."""
    code = run(["-f", str(h.root), "publish", model, *words, "-o", "json"])
    return {**json.loads(capsys.readouterr().out), "code": code}


def artifact(h: Harbour, name: str = "risk.onnx") -> Sequence[str]:
    return "--artifact", str(h.root / "models" / name)


@pytest.mark.e2e
def test_a_publication_is_a_change_of_the_next_plan_gated_and_released_with_what_is_claimed_of_it(
    h: Harbour, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(PortfolioError, match="nothing was published for risk yet"):
        h.plan()
    said = publish(h, capsys, *artifact(h), "--lineage", "run=airflow-812", "--reason", "nightly")
    assert (said["code"], said["recorded"], said["claimed"]) == (0, True, {"run": "airflow-812"})
    outcome = h.apply()
    assert outcome.release == 1, [m.text for m in outcome.models]
    assert h.plan().empty

    again = publish(h, capsys, *artifact(h), "--lineage", "run=airflow-812")
    assert (again["code"], again["recorded"], again["why"]) == (0, False, "nightly")
    found = h.do(lambda p: told(p.registry, p.version("risk"), p.current()))
    assert found.published is not None
    assert found.published.claimed == {"run": "airflow-812"}
    shown = render_version(found)
    assert "claimed" in shown
    assert "run airflow-812" in shown
    audit = h.do(lambda p: [row.act for row in p.registry.audit(p.name)])
    assert audit.count("publish") == 1

    (h.root / "models" / "risk.onnx").unlink()  # the bytes are Retinue's now
    assert publish(h, capsys, *artifact(h, "other.onnx"))["recorded"]
    step = next(s for s in h.plan().steps if isinstance(s, Build))
    assert [why.reason for why in step.why] == ["ARTIFACT"]
    assert h.apply().release == 2


def test_published_bytes_survive_gc_and_travel_with_a_backup(
    h: Harbour, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    digest = publish(h, capsys, *artifact(h))["digest"]
    old = publish(h, capsys, *artifact(h, "other.onnx"))["digest"]
    publish(h, capsys, *artifact(h))

    with_state = compose.open_state(load_settings(h.root, {}))
    collector = compose.open_collector(with_state.settings, with_state.registry, "2030-01-01T00:00:00.000000Z")
    assert digest in collector.dump.published()
    assert old not in collector.dump.published()
    file = tmp_path / "all.tar"
    write_backup(compose.open_dump(with_state.registry), with_state.artifacts, with_state.settings, file,
                 journal=False, made={"retinue": "1", "who": "ann", "created": "2026-01-01T00:00:00Z"})  # fmt: skip
    with_state.close()
    (tmp_path / "new").mkdir()
    other = compose.open_state(load_settings(tmp_path / "new", {}))
    restore_state(compose.open_dump(other.registry), other.artifacts, other.settings, file, force=False)
    assert other.registry.published("harbour")["risk"].digest == digest
    assert other.artifacts.has(digest)
    other.close()


def test_each_member_of_a_family_is_published_by_its_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    h = place(tmp_path, FAMILY, a_onnx=to_onnx(fitted()), b_onnx=to_onnx(fitted(shift=0.2)))
    publish(h, capsys, *artifact(h, "a.onnx"), model="risk-north")
    publish(h, capsys, *artifact(h, "b.onnx"), model="risk-south")
    assert len({step.definition for step in h.plan().steps if isinstance(step, Build)}) == 2
    wrong = publish(h, capsys, *artifact(h, "b.onnx"), model="risk-nort")
    assert "risk-north" in wrong["error"]["hint"]


@pytest.mark.parametrize(
    ("words", "data", "said"),
    [
        (("--artifact", "gone.onnx"), b"", "is not there"),
        (("--artifact", "m.onnx"), b"", "is empty"),
        (("--artifact", "m.onnx"), pickle.dumps({"a": 1}), "is a pickle"),
        (("--artifact", "m.joblib"), b"x", "is a pickle"),
        (("--artifact", "m.bin"), b"x", "format of .* is not known"),
        (("--artifact", "m.bin", "--format", "onyx"), b"x", "there is no format onyx"),
        (("--artifact", "m.onnx"), b"garbage", "no ONNX model"),
        (("--artifact", "m.onnx"), to_onnx(fitted())[:200], "no ONNX model"),
        (("--artifact", "m.onnx"), to_onnx(fitted(), ("x1", "x2")), None),
        (("--artifact", "m.cbm"), b"CBM1", "runs in an environment"),
        (("--artifact", "m.onnx", "--lineage", "run"), to_onnx(fitted()), "is no key=value"),
        (("--artifact", "m.onnx", "--lineage", "a=1", "--lineage", "a=2"), to_onnx(fitted()), "names a twice"),
        (("--artifact", "."), b"", "is a folder"),
    ],
)
def test_what_is_no_artifact_of_the_model_is_refused_and_nothing_is_recorded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], data: bytes, said: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    h = place(tmp_path, PUBLISHED)
    monkeypatch.chdir(tmp_path)
    for name in ("m.onnx", "m.joblib", "m.bin", "m.cbm"):
        (tmp_path / name).write_bytes(data)
    answer = publish(h, capsys, *words)
    assert (answer["code"] == 0) == (said is None)
    if said is not None:
        import re

        assert re.search(said, answer["error"]["message"]), answer
        assert answer["error"]["hint"]
        assert h.do(lambda p: p.registry.published(p.name)) == {}
        assert h.do(lambda p: p.registry.audit(p.name)) == []


def test_a_model_that_is_unknown_or_has_its_artifact_elsewhere_takes_no_publication(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    h = place(tmp_path, ALONE, risk_onnx=to_onnx(fitted()))
    assert "artifact: models/risk.onnx" in publish(h, capsys, *artifact(h))["error"]["message"]
    unknown = publish(h, capsys, *artifact(h), model="risc")
    assert unknown["code"] == 64
    assert "Did you mean 'risk'" in unknown["error"]["hint"]


@pytest.mark.parametrize(
    ("name", "data"),
    [("m.cbm", b"CBM1\xff\xff\x00\x00abc"), ("m.cbm", b"x"), ("m.txt", b"tree\nversion=v4\n"), ("m.ubj", b"{L\x00"),
     ("m.json", b'{"learner": {'), ("m.skops", b"PK\x03\x04torn")],
)  # fmt: skip
def test_a_torn_file_of_a_framework_is_refused_without_its_framework(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, data: bytes
) -> None:
    text = PUBLISHED.replace("models:", "environments: {base: {requirements: envs/base.txt}}\nmodels:", 1)
    h = place(tmp_path, text.replace("    task", "    environment: base\n    task", 1))
    (tmp_path / "models" / name).write_bytes(data)
    answer = publish(h, capsys, *artifact(h, name))
    assert answer["code"] == 1
    assert "is no" in answer["error"]["message"]
    assert h.do(lambda p: p.registry.published(p.name)) == {}
