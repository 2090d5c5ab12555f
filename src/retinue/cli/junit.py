"""The verdicts of `retinue test` as JUnit XML, as CI systems read it: a suite per model, a case per gate. No I/O."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from retinue.core.gates import GateResult, describe

if TYPE_CHECKING:
    from retinue.control.live_tests import LiveReport, ModelVerdict
    from retinue.core.errors import RetinueError

_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit(report: LiveReport) -> str:
    """The report as one document."""
    suites = [_suite(report, verdict) for verdict in report.models]
    return _document(f"{report.portfolio} {report.stage} release {report.release}", suites, report.seconds)


def junit_of_error(portfolio: str, error: RetinueError) -> str:
    """A document for a run that ended before any model was tested: one case, with every problem found."""
    suite = ElementTree.Element("testsuite", {"name": _clean(portfolio), "time": "0.000"})
    case = ElementTree.SubElement(suite, "testcase", {"classname": _clean(portfolio), "name": "plan", "time": "0.000"})
    problems: Sequence[RetinueError] = getattr(error, "problems", None) or (error,)
    body = ElementTree.SubElement(case, "error", {"type": type(error).__name__, "message": _clean(error.message)})
    body.text = _clean("\n".join(f"{p}\n{p.hint}" if p.hint else str(p) for p in problems))
    return _document(portfolio, [suite], 0.0)


def _document(name: str, suites: Sequence[ElementTree.Element], seconds: float) -> str:
    root = ElementTree.Element("testsuites", {"name": _clean(name)})
    root.extend(suites)
    for suite in suites:
        for count, value in _counts(suite).items():
            suite.set(count, str(value))
    for count, value in _counts(root).items():
        root.set(count, str(value))
    root.set("time", f"{seconds:.3f}")
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _counts(element: ElementTree.Element) -> dict[str, int]:
    found = {"tests": len(list(element.iter("testcase")))}
    for name, kind in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        found[name] = len(list(element.iter(kind)))
    return found


def _suite(report: LiveReport, verdict: ModelVerdict) -> ElementTree.Element:
    attributes = {"name": _clean(verdict.model), "timestamp": report.started.removesuffix("Z")}
    suite = ElementTree.Element("testsuite", {**attributes, "time": f"{verdict.seconds:.3f}"})
    properties = ElementTree.SubElement(suite, "properties")
    for name, value in (("stage", report.stage), ("release", report.release), ("version", verdict.version or "")):
        ElementTree.SubElement(properties, "property", {"name": name, "value": str(value)})
    for result in verdict.results:
        _case(suite, verdict.model, result)
    if verdict.error is not None:
        case = _named(suite, verdict.model, "gates")
        message = {"type": type(verdict.error).__name__, "message": _clean(verdict.error.message)}
        body = ElementTree.SubElement(case, "error", message)
        body.text = _clean(f"{verdict.error}\n{verdict.error.hint or ''}".strip())
    elif not verdict.results:
        ElementTree.SubElement(_named(suite, verdict.model, "live"), "skipped", {"message": _clean(verdict.text)})
    return suite


def _named(suite: ElementTree.Element, model: str, name: str) -> ElementTree.Element:
    return ElementTree.SubElement(
        suite, "testcase", {"classname": _clean(model), "name": _clean(name), "time": "0.000"}
    )


def _case(suite: ElementTree.Element, model: str, result: GateResult) -> None:
    case = _named(suite, model, result.gate)
    text = _clean(describe(result))
    if result.verdict == "fail":
        ElementTree.SubElement(case, "failure", {"type": "gate", "message": text}).text = _clean(result.detail or text)
    elif result.verdict == "inconclusive":
        message = text if "not enough data" in text else f"not enough data: {text}"
        ElementTree.SubElement(case, "skipped", {"message": message})
    else:
        ElementTree.SubElement(case, "system-out").text = text


def _clean(text: str) -> str:
    """Without the characters that XML cannot hold; a test's message may have any."""
    return _NOT_XML.sub("\ufffd", text)
