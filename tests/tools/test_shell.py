"""The shell, typed into: what the tutorial tells people to type does what it says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from runs import wait_until
from tools.typed import Terminal

from offbragg.beamline import load, make_paths
from offbragg.demo import configure
from offbragg.demo.children import Children
from offbragg.demo.scene import simulated_scene

pytestmark = pytest.mark.ioc

PAGE = Path(__file__).parents[2] / "docs" / "tutorials" / "at-the-prompt.md"


def lines_of_the_page() -> list[str]:
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


@pytest.fixture
def children(tmp_path):
    with Children(tmp_path) as children:
        yield children


def test_what_the_tutorial_says_can_be_typed(tmp_path, children):
    ready = tmp_path / "ioc.json"
    instruments = ["sim_iocs", "--port", "0", "--ready", str(ready)]
    children.start("ioc", [*instruments, "--acceleration", "60", "--temperature", "90"])
    served = children.wait_for(ready)
    file = configure(tmp_path, served, simulated_scene(served["truth"]))
    config = load(file)
    make_paths(config)
    children.start("serve", ["offbragg", "serve", "--beamline", str(file), "--ready", "c.json"])
    children.start("stack", ["offbragg", "stack", "--beamline", str(file)])
    lines = iter(lines_of_the_page())

    def upto(what: str, shell: Terminal) -> str:
        """Type the page's lines up to the one that begins so; give what that one shows."""
        for line in lines:
            said = shell.type(line)
            if line.startswith(what):
                return said
        raise AssertionError(f"the page has no line {what!r} here")

    with Terminal(file) as shell:
        assert re.match(r"no sample · (89|90)\.\d K · #0\b", shell.place)
        assert "LSMO-140" in upto("sample(", shell)
        assert shell.place.startswith("LSMO-140 · ")
        assert "2026-117" in upto("experiment(", shell)
        assert "1 sweeps, 30 frames" in upto("print(estimate", shell)

        said = upto("RE(rotation_scan", shell)
        assert "SweepError: period 0.1 s is shorter than the PILATUS3 100K allows" in said
        assert "Traceback" not in said

        said = upto("RE(rotation_scan", shell)
        assert re.search(r"#1 \w{8} · LSMO-140 · phi 0 → 15° · 30 frames · .* · success", said)
        assert " · #1" in shell.place
        wait_until(lambda: "30 stored" in shell.type("%ledger"), 30, "30 frames stored")
        assert "30 stored · " in upto("%ledger", shell)

        said = upto("RE(temperature_series", shell)
        assert len(re.findall(r"#\d+ \w{8} · LSMO-140 · 9[12] K · .* · success", said)) == 2
        assert re.match(r"LSMO-140 · 9[12]\.\d K · #3\b", shell.place)

        assert "omega" in upto("%wa", shell)
        assert "ring_current" in upto("RE(bp.scan", shell)

        shell.send("RE(rotation_scan(pilatus, phi, Sweep('phi', 0, 0.5, 100, 0.099, 0.1)))")
        wait_until(lambda: len(list(config.paths.frames.rglob("*.cbf"))) > 95, 60, "frames")
        said = shell.interrupt_twice()
        assert "RunEngineInterrupted: a plan is paused" in said
        assert "RE.resume()" in said
        assert "#5 · paused" in shell.place
        assert "AttributeError" not in shell.type("%wa")
        assert "Traceback" not in said
        upto("RE.abort", shell)
        wait_until(lambda: "missing" in shell.type("%ledger"), 30, "missing frames listed")

        assert "'LSMO-140'" in upto("cat[-1]", shell)
        wait_until(lambda: "5" in shell.type("len(cat)").split("]:")[-1], 60, "5 runs published")
        assert re.search(r"Out.*: 5", upto("len(list(db(", shell))
        assert not list(lines)

    kept = json.loads((config.paths.journal / "RE.md.json").read_text())
    assert kept["sample"]["name"] == "LSMO-140"
    assert kept["proposal"] == "2026-117"
    with Terminal(file) as shell:
        assert re.match(r"LSMO-140 · 9[12]\.\d K · #5\b", shell.place)
