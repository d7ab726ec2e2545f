"""The patches change no answer: Tiled and FastAPI without them are the witness."""

from __future__ import annotations

import re
import subprocess
import sys

import httpx
import pytest
from catalog.served import SERVE, Server

# only read, so a second server does no harm
UNPATCHED = f"""import contextlib
from offbragg.catalog import server, tiled_patches
server._alone = contextlib.nullcontext
tiled_patches.apply = lambda: None
{SERVE}"""


@pytest.fixture(scope="module")
def unpatched(server, whole, tmp_path_factory):
    """A server of the same catalog without them."""
    directory = tmp_path_factory.mktemp("unpatched") / "catalog"
    directory.symlink_to(server.directory)
    started = Server.start(directory, server.root, program=UNPATCHED)
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
def test_an_answer_is_the_same(server, unpatched, whole, address):
    primary = whole.client[whole.uid]["primary"]
    image = next(k for k, v in primary.metadata["data_keys"].items() if v.get("external"))
    answers = []
    for one in (server, unpatched):
        asked = f"{one.url}/api/v1/{address.format(uid=whole.uid, image=image)}"
        answer = httpx.get(asked, headers={"Authorization": f"Apikey {one.key}"}, trust_env=False)
        body = re.sub(rb"127\.0\.0\.1:\d+", b"", answer.content)
        if answer.is_error:
            body = sorted(body)  # it may name the members of a set, in any order
        answers.append((answer.status_code, answer.headers["content-type"], body))
    assert answers[0] == answers[1]


def test_each_patch_can_be_applied():
    """If not, requests take longer with this version of FastAPI or Tiled."""
    check = """
from offbragg.catalog import tiled_patches
tiled_patches.apply()
from fastapi.dependencies import utils
from tiled.catalog import adapter
from tiled.server import router, schemas
for patched in utils.get_dependant, router.get_entry, adapter.node_from_segments:
    assert patched.__wrapped__, patched
assert len(tiled_patches._kept) == 1 + len(schemas.resource_links_type_by_structure_family)
"""
    subprocess.run([sys.executable, "-c", check], check=True)
