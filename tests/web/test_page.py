"""The page as such: who gets in, what it may load, and that it survives its server."""

from __future__ import annotations

import pytest

VIEWS = ("experiment", "now", "volume", "frames", "runs")

pytestmark = pytest.mark.web


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_is_shown_without_any_error(page, view):
    page.goto(f"/live#/{view}")
    page.wait_for_selector("main")

    assert page.title()
