"""`offbragg reduce` publishes what it makes, unless it is not wanted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from offbragg.cli import app, reduction
from offbragg.grid import Grid
from offbragg.workflows import reduce


@pytest.mark.parametrize(
    ("flags", "asked"),
    [([], True), (["--publish"], True), (["--no-publish"], False)],
    ids=["default", "publish", "no-publish"],
)
@pytest.mark.parametrize("key", ["volume-f1-0123abcd", None], ids=["there", "away"])
def test_a_volume_is_made_whether_it_is_published_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str], asked: bool, key: str | None
):
    published: list[Path] = []

    def make(group: Any, choices: Any, target: Path, **_: Any) -> Any:
        return reduce.VolumeWritten(Grid((0, 0, 0), (2, 2, 2), (1, 1, 1)), "", 0.5, 7.0)

    def publish(target: Path, beamline: Path | None) -> tuple[str | None, str]:
        published.append(target)
        return key, "not published: the catalog is away"

    monkeypatch.setattr(reduce, "reduce_to_file", make)
    monkeypatch.setattr(reduction, "publish_made", publish)
    scan = tmp_path / "f1.h5"

    plain = CliRunner().invoke(app, ["reduce", str(scan), *flags])
    machine = CliRunner().invoke(app, ["reduce", str(scan), *flags, "--json"])

    assert plain.exit_code == machine.exit_code == 0, plain.output
    assert published == [tmp_path / "volume-f1.h5"] * 2 * asked
    assert ("not published" in plain.output) == asked
    assert json.loads(machine.stdout)["volumes"][0]["published"] == (key if asked else None)
