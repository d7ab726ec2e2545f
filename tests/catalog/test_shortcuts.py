"""The shortcuts change no answer: Tiled and FastAPI without them are the witness."""

from __future__ import annotations

import re
import subprocess
import sys

import httpx
import pytest
from catalog.served import SERVE, Server

# only read, so a second server does no harm
THE_LONG_WAY = f"""import contextlib
from offbragg.catalog import server, shortcuts
server._alone = contextlib.nullcontext
shortcuts.take = lambda: None
{SERVE}"""


@pytest.fixture(scope="module")
def long_way(server, whole, tmp_path_factory):
    """A server of the same catalog without them."""
    directory = tmp_path_factory.mktemp("long") / "catalog"
    directory.symlink_to(server.directory)
    started = Server.start(directory, server.root, program=THE_LONG_WAY)
    yield started
    started.end()


@pytest.mark.parametrize(
    "address",
    [
        "metadata/",
        "metadata/raw",
        "metadata/raw/{uid}",
        "metadata/raw/{uid}/primary",
        "metadata/raw/{uid}/primary/{image}?include_data_sources=true",
        "metadata/raw/{uid}/primary/internal",
        "metadata/raw/{uid}/primary/internal/angle",
        "metadata/raw/{uid}/primary/nothing",
        "metadata/raw/{uid}/nothing/{image}",
        "metadata/raw/nothing",
        "metadata/nothing/{uid}",
        "metadata//raw//{uid}/",
        "search/raw?page[limit]=2&sort=-",
        "search/raw/{uid}/primary",
        "search/raw/{uid}/nothing",
        "array/full/raw/{uid}/primary/{image}?slice=2,0:3,0:3&format=application/json",
        "array/full/raw/{uid}/primary/internal/angle?format=application/json",
        "array/block/raw/{uid}/primary/{image}?block=1,0,0",
        "array/full/raw/{uid}/primary?slice=0",
        "table/full/raw/{uid}/primary/internal?format=text/csv",
        "container/full/raw/{uid}/primary/internal?format=application/json",
    ],
)
def test_an_answer_is_the_same(server, long_way, whole, address):
    primary = whole.client[whole.uid]["primary"]
    image = next(k for k, v in primary.metadata["data_keys"].items() if v.get("external"))
    answers = []
    for one in (server, long_way):
        asked = f"{one.url}/api/v1/{address.format(uid=whole.uid, image=image)}"
        answer = httpx.get(asked, headers={"Authorization": f"Apikey {one.key}"}, trust_env=False)
        body = re.sub(rb"127\.0\.0\.1:\d+", b"", answer.content)
        if answer.is_error:
            body = sorted(body)  # it may name the members of a set, in any order
        answers.append((answer.status_code, answer.headers["content-type"], body))
    assert answers[0] == answers[1]


def test_each_is_there_to_be_taken():
    """Else this version of FastAPI, or Tiled, has the long way only."""
    taken = """
from offbragg.catalog import tiled_patches as shortcuts
shortcuts.take()
from fastapi.dependencies import utils
from tiled.catalog import adapter
from tiled.server import router, schemas
for shortcut in utils.get_dependant, router.get_entry, adapter.node_from_segments:
    assert shortcut.__wrapped__, shortcut
assert len(shortcuts._kept) == 1 + len(schemas.resource_links_type_by_structure_family)
"""
    subprocess.run([sys.executable, "-c", taken], check=True)
