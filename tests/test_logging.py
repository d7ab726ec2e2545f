"""Every log call of the package can be printed, with whatever it is given."""

from __future__ import annotations

import ast
import io
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from offbragg.errors import DeviceError
from offbragg.ledger import FrameStatus
from offbragg.printable import PrintableFormatter

ROOT = Path(__file__).parents[1]
PACKAGES = (ROOT / "src" / "offbragg", ROOT / "sim_iocs")
LEVELS = ("debug", "info", "warning", "error", "exception", "critical", "log")
PLACEHOLDER = re.compile(r"%(?:%|(?:\((?P<key>\w+)\))?[-+ #0]*\d*(?:\.\d+)?(?P<kind>[a-zA-Z]))")

NUMBERS = (7, True, np.int64(7), np.int32(7), np.intp(7), np.uint8(7), np.bool_(True))
REALS = (*NUMBERS, 7.5, np.float64(7.5), np.float32(7.5), np.array(7.5), np.array(7))
ANYTHING = (
    *REALS, None, "text", np.str_("text"), b"bytes", Path("/a/b"), DeviceError("first\nthen"),
    FrameStatus.MISSING, [1, "two"], {"three": 3}, np.array([1.0, 2.0]), range(3), object(),
)  # fmt: skip
REPRESENTATIVES = {
    **dict.fromkeys("dixXou", (*NUMBERS, 7.0, np.float64(7.0))),
    **dict.fromkeys("feEgG", REALS),
    **dict.fromkeys("sra", ANYTHING),
}


@dataclass(frozen=True)
class LogCall:
    """A call of a logger in our sources."""

    where: str
    message: str | None
    """None if it is not written at the call."""
    n_arguments: int

    @property
    def kinds(self) -> str:
        found = PLACEHOLDER.finditer(self.message or "")
        return "".join(match["kind"] for match in found if match["kind"])


def is_logger(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id.strip("_").lower() in ("log", "logger")


def log_calls() -> Iterator[LogCall]:
    for package in PACKAGES:
        for path in sorted(package.rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                    continue
                if node.func.attr not in LEVELS or not is_logger(node.func.value):
                    continue
                message, *rest = node.args[1:] if node.func.attr == "log" else node.args
                text = message.value if isinstance(message, ast.Constant) else None
                where = f"{path.relative_to(ROOT)}:{node.lineno}"
                yield LogCall(where, text, len(rest))


@pytest.fixture(scope="module")
def calls() -> list[LogCall]:
    return list(log_calls())


def formatted(message: str, *arguments: object) -> str:
    record = logging.LogRecord("offbragg", logging.INFO, "", 0, message, arguments, None)
    return PrintableFormatter("%(message)s").format(record)


def test_the_log_calls_are_found(calls):
    files = {call.where.partition(":")[0] for call in calls}

    assert {
        "src/offbragg/followers/sweep_stacker.py",
        "src/offbragg/devices/pilatus_files.py",
    } <= files
    assert len(calls) > 50


def check(call: LogCall) -> None:
    if call.message is None:
        assert call.n_arguments == 0, f"{call.where}: arguments for a message that is not there"
        return
    assert len(call.kinds) == call.n_arguments, f"{call.where}: {call.message!r}"
    columns = [REPRESENTATIVES[kind] for kind in call.kinds]
    for turn in range(max(map(len, columns), default=1)):
        arguments = [column[turn % len(column)] for column in columns]
        shown = formatted(call.message, *arguments)
        assert "%" not in shown.replace("%)", ""), f"{call.where}: {shown}"


def test_each_log_call_prints_whatever_its_placeholders_may_be_given(calls):
    for call in calls:
        check(call)


@pytest.mark.parametrize("value", REALS, ids=repr)
def test_numbers_stay_numbers_also_those_of_numpy(value):
    assert formatted("%.2f at frame %d", value, np.int64(3)) == f"{float(value):.2f} at frame 3"


NASTY = "a\x1b[2J\nb"


@pytest.mark.parametrize(
    "value", [NASTY, np.str_(NASTY), Path(NASTY), NASTY.encode(), [NASTY]], ids=repr
)
def test_text_of_any_kind_stays_on_its_line_and_is_shown_not_acted_upon(value):
    for message in ("%s", "%r"):
        shown = formatted(message, value)

        assert shown.isprintable()
        assert shown.count("\n") == 0


def test_named_arguments_are_formatted_as_others_are():
    record = logging.LogRecord(
        "offbragg", logging.INFO, "", 0, "%(n)d of %(name)s", ({"n": np.int64(2), "name": "\x1b"},),
        None,
    )  # fmt: skip

    assert PrintableFormatter("%(message)s").format(record) == "2 of \\x1b"


def test_a_record_that_cannot_be_printed_would_fail_a_test(unprinted):
    handler = logging.StreamHandler(io.StringIO())
    handler.setFormatter(PrintableFormatter())

    handler.handle(logging.LogRecord("x", logging.INFO, "", 0, "%d frames", ("many",), None))

    (text,) = unprinted
    unprinted.clear()
    assert "'%d frames' with ('many',) cannot be printed" in text
