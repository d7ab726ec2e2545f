"""What tests of both ends need."""

from __future__ import annotations

from pathlib import Path

import pytest
from far_host import Far


@pytest.fixture
def far(tmp_path: Path) -> Far:
    return Far(tmp_path)
