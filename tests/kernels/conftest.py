"""Every level that runs here."""

from __future__ import annotations

import pytest

from offbragg import kernels


@pytest.fixture(params=kernels.available())
def level(request) -> str:
    return request.param


@pytest.fixture(params=[name for name in kernels.available() if name != "reference"])
def compiled_level(request) -> str:
    return request.param
