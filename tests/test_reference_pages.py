"""The reference pages that are made of the code."""

from __future__ import annotations

from pathlib import Path

import pytest


def test_the_page_of_the_commands_shows_which_arguments_repeat(monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("sphinx")
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "docs" / "_ext")
    from offbragg_reference import command_line

    page = "\n".join(command_line("offbragg.cli"))

    assert "$ offbragg reduce [OPTIONS] FILE…\n" in page
    assert "$ offbragg verify [OPTIONS] [FILE|UID…]\n" in page
    assert "$ offbragg plot [OPTIONS] VOLUME [PLANE]\n" in page
    assert "| `FILE…` | **required** | Scan files; with --again, one volume file. |" in page
