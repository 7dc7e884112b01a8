"""Verdicts as JUnit XML, which CI services show as test results."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from liederiv.files import write_atomically
from liederiv.testing.verdicts import Verdict

__all__ = ["write_junit"]

# What XML 1.0 cannot hold, even escaped.
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write_junit(
    path: Path, model: str, verdicts: Sequence[Verdict], seconds: float, *, stopped: str = ""
) -> Path:
    """Write one test case per verdict: failures, and errors for what was not measured.

    Args:
        path: of the XML file.
        model: name of what was judged.
        verdicts: the test cases.
        seconds: that the measurement took.
        stopped: why the gate ended without all verdicts; becomes one more test case, an error.
    """
    counts = {
        "tests": len(verdicts) + bool(stopped),
        "failures": sum(v.state == "broken" for v in verdicts),
        "errors": sum(v.state == "not measured" for v in verdicts) + bool(stopped),
        "skipped": 0,
    }
    totals = {k: str(n) for k, n in counts.items()} | {"time": f"{seconds:.3f}"}
    root = ElementTree.Element("testsuites", totals)
    suite = ElementTree.SubElement(root, "testsuite", {"name": "liederiv gate"} | totals)
    for v in verdicts:
        attributes = {
            "classname": f"liederiv.gate.{model}",
            "name": v.name if math.isnan(v.limit) else f"{v.name} ≤ {v.limit:g} {v.unit}",
        }
        case = ElementTree.SubElement(suite, "testcase", _clean(attributes | {"time": "0"}))
        if v.state == "broken":
            ElementTree.SubElement(
                case, "failure", _clean({"type": "EquivarianceError", "message": v.reason})
            )
        elif v.state == "not measured":
            ElementTree.SubElement(
                case, "error", _clean({"type": "NotMeasured", "message": v.reason})
            )
        else:
            ElementTree.SubElement(case, "system-out").text = _clean({"": v.reason})[""]
    if stopped:
        attributes = {
            "classname": f"liederiv.gate.{model}",
            "name": "the gate",
            "time": "0",
        }
        case = ElementTree.SubElement(suite, "testcase", _clean(attributes))
        ElementTree.SubElement(case, "error", _clean({"type": "Stopped", "message": stopped}))
    ElementTree.indent(root)
    tree = ElementTree.ElementTree(root)
    return write_atomically(
        path, lambda file: tree.write(file, encoding="utf-8", xml_declaration=True)
    )


def _clean(attributes: dict[str, str]) -> dict[str, str]:
    return {k: _FORBIDDEN.sub("?", v) for k, v in attributes.items()}
