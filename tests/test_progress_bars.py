"""Bars are drawn at a terminal only, one for each step that has begun."""

from __future__ import annotations

import io
import sys

from offbragg.cli.terminal import progress, progress_of_steps


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_step_has_its_bar_once_it_has_begun(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")

    with progress_of_steps("reducing", "writing", quiet=False) as (reducing, writing):
        reducing(2, 2)
        first = terminal.getvalue()
        writing(1, 4)

    assert "writing" not in first
    assert "reducing" in terminal.getvalue()
    assert "writing" in terminal.getvalue()
    assert "25%" in terminal.getvalue()


def test_without_a_terminal_or_where_it_is_unwanted_nothing_is_drawn(monkeypatch, capsys):
    with progress("reducing", quiet=False) as step:
        step(1, 2)
    monkeypatch.setattr(sys, "stderr", Terminal())
    with progress_of_steps("reducing", "writing", quiet=True) as (reducing, writing):
        reducing(1, 2)
        writing(1, 2)

    assert sys.stderr.getvalue() == ""
    assert capsys.readouterr().err == ""
