"""One catalog for the tests of the client, in a process of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from remote.home import Home

import offbragg
from offbragg.remote.connection import Connection


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    made = Home.create(tmp_path_factory.mktemp("home"))
    yield made
    made.beamline.end()


@pytest.fixture(scope="session")
def catalog(home: Home) -> Iterator[Connection]:
    connection = offbragg.connect(home.beamline.url, home.beamline.reading_key)
    yield connection
    connection.close()
