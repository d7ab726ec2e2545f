"""A catalog with two proposals and five people, and everything that may be asked of it."""

from __future__ import annotations

import itertools
import json
import re
import urllib.parse
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from catalog.served import Documents, PublishedRun, Server

from offbragg.catalog.client import connect
from offbragg.catalog.named_keys import NamedKeys
from offbragg.catalog.passwords import hash_password
from offbragg.catalog.volumes import publish_volume, volume_key
from offbragg.files.volume_writer import write_volume
from offbragg.grid import Grid
from offbragg.sample import Sample
from offbragg.volume import Volume

SERVE = """
import json, sys, time
from pathlib import Path
from offbragg.catalog import volume_watch
from offbragg.catalog.server import serve
volume_watch.EVERY = 0.2
directory, root, ready, parent, port = sys.argv[1:]
base = Path(directory).parent
def look():
    return json.loads((base / "look.json").read_text().replace("1700000000.0", str(time.time())))
serve(Path(directory), [Path(root)], ready=Path(ready), parent=int(parent), port=int(port),
      look=look, people=base / "people.toml")
"""
PASSWORD = "long enough to be one"
NAMES = ("ada", "bob", "eve", "mallory", "carol", "olga", "stan")
"""Two of A, two of B, one of both, the operator, and staff."""

PEOPLE = """
[people.ada]
password = "{hash}"
oidc = "ada-at-the-provider"
[people.bob]
[people.eve]
[people.mallory]
[people.carol]
[people.olga]
role = "operator"
[people.stan]
role = "staff"
password = "{hash}"
[groups]
diffuse = ["bob", "carol"]
[proposals."2026-A"]
members = ["@diffuse"]
scientists = ["ada"]
[proposals."2026-B"]
members = ["eve", "mallory", "carol"]
"""
LATER = 4e9


@dataclass
class OwnedRun(PublishedRun):
    """A run with frames, of a proposal."""

    proposal: str = ""
    word: str = ""

    @property
    def start(self) -> dict[str, Any]:
        start = super().start
        start["sample"] = {**start["sample"], "name": self.word}
        start["series"] = {**start["series"], "uid": f"series-{self.word}"}
        return {**start, "proposal": self.proposal}


@dataclass
class Owned:
    """What one proposal has in the catalog, all of whose names are known before it is there."""

    server: Server
    cat: Any
    proposal: str
    word: str
    """In every text of it; no other proposal's has it."""
    first: int
    """Scan id of its first run."""
    uids: list[str] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    runs: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder = self.server.root / self.word
        self.uids = [str(uuid.uuid4()) for _ in range(3)]

    def publish(self) -> None:
        """Make three runs, of which one has frames, and a volume of that one."""
        uid = self.uids[0]
        run = OwnedRun(
            self.folder / "swept", client=self.cat, uid=uid, proposal=self.proposal,
            word=self.word, scan_id=self.first, began=1.7e9 + self.first,
        )  # fmt: skip
        run.begin()
        run.create_scan_file()
        run.store(*range(10))
        run.monitor_counted(list(range(10)))
        run.announce(10)
        run.finish()
        run.open()
        assert run.feed()
        run.journal.close()
        assert run.scan is not None
        scan = run.scan.path
        self.runs.append(run)
        for i, uid in enumerate(self.uids[1:], 1):
            one = Documents(
                self.cat, self.folder / f"counted-{i}", time=1.7e9 + self.first + i,
                scan_id=self.first + i, proposal=self.proposal, purpose="calibration",
                sample={"name": self.word, "label": "c1"}, plan_name=f"count_{self.word}",
                temperature={"setpoint": 50.0 + self.first + i}, note=f"about {self.word}",
            )  # fmt: skip
            one.uid = one.start["uid"] = uid
            one.journal.close()
            one = _renamed(one, uid)
            one.stream({"x": [1.0, 2.0], self.word: [3, 4]}).stop().publish()
            one.journal.close()
        self.keys.append(self.publish_volume(scan.with_name(f"{self.word}.h5"), self.uids[:1]))

    @property
    def volume(self) -> str:
        """The key that its volume will have."""
        folder = self.folder / "swept" / "experiment"
        return volume_key(next(iter(folder.rglob("f1.h5"))).with_name(f"{self.word}.h5"))

    def publish_volume(self, path: Path, runs: Sequence[str]) -> str:
        host, port = self.server.url.removeprefix("http://").split(":")
        record = {"inputs": [{"run": run, "file": "f1.h5"} for run in runs]}
        made = write_volume(path, made_volume(self.word), record)
        return publish_volume(made, host=host, port=int(port), key=self.server.key, timeout=30)

    @property
    def secrets(self) -> list[str]:
        """What nobody else may be told."""
        return [self.word, self.proposal, *self.uids, *self.keys, *(u[:8] for u in self.uids)]


def _renamed(one: Documents, uid: str) -> Documents:
    made = Documents(one.client, one.root.with_name(f"{one.root.name}-j"),
                     **{**one.start, "uid": uid})  # fmt: skip
    made.uid = uid
    return made


def made_volume(word: str) -> Volume:
    grid = Grid((0, 0, 0), (9, 9, 9), (2, 2, 2))
    counts = np.random.default_rng(len(word)).poisson(9.0, grid.shape).astype(float)
    sample = Sample(word, "c1", lattice=(4.0, 4.0, 4.0, 90.0, 90.0, 90.0))
    return Volume(counts, np.ones(grid.shape), grid, sample=sample)


@dataclass
class World:
    """The catalog, its people with a key for each, and the two proposals."""

    server: Server
    mine: Owned
    theirs: Owned
    keys: dict[str, str]

    @classmethod
    def make(cls, base: Path, database: str | None = None) -> World:
        (base / "data").mkdir(parents=True)
        people = base / "people.toml"
        people.write_text(PEOPLE.format(hash=hash_password(PASSWORD)))
        people.chmod(0o600)
        (base / "look.json").write_text(json.dumps(look("", "")))
        program = SERVE
        if database is not None:
            program = SERVE.replace("look=look,", f"look=look, database={database!r},")
        server = Server.start(base / "catalog", base / "data", program=program)
        cat = connect(server.url, server.key)
        named = NamedKeys(server.directory, server.key)
        keys = {
            name: named.create(f"of {name}", scope="annotate", ends=LATER, person=name)
            for name in NAMES
        }
        mine = Owned(server, cat, "2026-A", "alabaster", 100)
        theirs = Owned(server, cat, "2026-B", "bismuthine", 200)
        return cls(server, mine, theirs, keys)

    def client(self, name: str) -> httpx.Client:
        headers = {"Authorization": f"Apikey {self.keys[name]}"}
        return httpx.Client(base_url=self.server.url, headers=headers, timeout=60)


def look(run: str, volume: str) -> dict[str, Any]:
    """Return what a beamline does that measures a run."""
    named = {"uid": run, "sample": f"sample of {run}"} if run else None
    return {
        "time": 1.7e9, "beamline": "test",
        "engine": {"state": "measuring" if run else "idle", "since": 1.0, "plan": "secret plan",
                   "run": named, "series": None, "waits": [],
                   "values": {"temperature": {"value": 77.7, "time": 1.7e9}}},
        "frames": {"run": run, "n": 9, "stored": 4, "behind": 1} if run else None,
        "live": {"volume": volume, "state": "growing"} if volume else {},
        "stacker": True, "backlog": {"runs": 3, "frames": 5},
        "disks": [{"paths": ["/somewhere"]}],
        "alarms": [{"what": "stall", "severity": "major", "since": 1.0, "reason": f"of {run}"}],
        "host": {"load": 1.0},
    }  # fmt: skip


# -- what may be asked -----------------------------------------------------------------------------

RUN = ("", "/primary", "/primary/internal", "/primary/internal/angle", "/primary/pilatus_image",
       "/streams", "/streams/primary", "/nothing")  # fmt: skip
VOLUME = ("", "/intensity", "/levels", "/levels/2", "/nothing")
OURS_OF_RUNS = (
    "/runs/{uid}", "/runs/{begin}", "/runs/{scan}", "/runs/{uid}/ledger", "/runs/{uid}/frames",
    "/runs/{uid}/frames/0?format=npy", "/runs/{uid}/frames/last", "/runs/{scan}/frames/0",
    "/runs/{begin}/ledger", "/runs/{uid}/frames?index=0:2&roi=0:9,0:9&format=json",
    "/runs?before={uid}", "/volumes?run={uid}", "/volumes?run={begin}", "/files/{uid}",
    "/files/{uid}/f1.h5", "/files/{uid}/{word}.h5", "/files/{uid}/f1.h5.sha256",
    "/runs?scan_id={scan}", "/runs?text={uid}", "/runs/{uid}/notes",
)  # fmt: skip
OURS_OF_VOLUMES = (
    "/volumes/{key}/plane?plane=hk0.5", "/volumes/{key}/plane?plane=hk0.5&format=json",
    "/volumes/{key}/line?line=h00", "/volumes/{key}/box?box=0:1,0:1,0:1",
    "/volumes/{key}/why?hkl=1,1,1", "/view/{key}",
)  # fmt: skip
OURS_OF_WORDS = (
    "/runs?sample={word}", "/runs?sample={word}*", "/runs?text={word}", "/runs?plan=count_{word}",
    "/runs?proposal={proposal}", "/series/series-{word}", "/series/series-{word}/order",
    "/runs?series=series-{word}", "/volumes?sample={word}", "/volumes?series=series-{word}",
)  # fmt: skip
OURS = (
    "/runs", "/runs?limit=1", "/runs?since=0", "/runs?temperature=0:500", "/runs?status=success",
    "/runs?purpose=calibration", "/runs/zzzzz", "/series", "/series/latest", "/series/latest/order",
    "/series/day-2023-11-15", "/series/day-2023-11-14", "/volumes", "/volumes?state=finished",
    "/now", "/now/history", "/me", "/", "/api/v1/", "/healthz", "/favicon.ico", "/docs",
    "/redoc", "/openapi.json", "/tiled-ui-settings", "/ui/", "/static/none", "/view/v/none/x",
    "/docs/oauth2-redirect", "/runs?status=running",
)  # fmt: skip
SEARCHES = (
    'filter[eq][condition][key]=sample.name&filter[eq][condition][value]="{word}"',
    'filter[eq][condition][key]=start.sample.name&filter[eq][condition][value]="{word}"',
    'filter[eq][condition][key]=start.uid&filter[eq][condition][value]="{uid}"',
    'filter[eq][condition][key]=start.proposal&filter[eq][condition][value]="{proposal}"',
    'filter[like][condition][key]=start.plan_name&filter[like][condition][pattern]="%{word}%"',
    'filter[regex][condition][key]=start.plan_name&filter[regex][condition][pattern]="{word}"',
    "filter[fulltext][condition][text]={word}",
    "filter[lookup][condition][key]={uid}",
    'filter[keys_filter][condition][keys]=["{uid}"]',
    'filter[contains][condition][key]=runs&filter[contains][condition][value]="{uid}"',
    'filter[in][condition][key]=start.scan_id&filter[in][condition][value]=[{scan}]',
    'filter[comparison][condition][key]=start.scan_id&filter[comparison][condition][operator]="ge"'
    "&filter[comparison][condition][value]={scan}",
    "sort=-start.time", "sort=start.scan_id", "sort=", "sort=-", "fields=count", "fields=none",
    "fields=", "page[limit]=1", "page[offset]=1", "page[offset]=3&page[limit]=1",
    "page[cursor]=5", "page[cursor]=30", "fields=count&sort=-time", "max_depth=3",
    "include_data_sources=true", "select_metadata={{a:start.sample}}", "omit_links=true",
)  # fmt: skip
DISTINCT = "metadata=start.proposal&metadata=start.sample.name&counts=true&specs=true"


def asked_of(paths: dict[str, Any], owned: Owned, key: str, uid: str, word: str) -> Iterator[str]:
    """Yield every question about a run, a volume, or words of somebody."""
    facts = {"uid": uid, "begin": uid[:8], "scan": owned.first, "key": key, "word": word,
             "proposal": owned.proposal}  # fmt: skip
    for each in (*OURS_OF_RUNS, *OURS_OF_VOLUMES, *OURS_OF_WORDS):
        yield each.format(**facts)
    nodes = [f"raw/{uid}{below}" for below in RUN]
    nodes += [f"volumes/{key}{below}" for below in VOLUME]
    for template, node in itertools.product(_of_nodes(paths), nodes):
        yield _filled(template, node)
    for where, query in itertools.product(("raw", "volumes", ""), SEARCHES[:12]):
        for route in ("search", "search-deep") if where != "volumes" else ("search",):
            text = urllib.parse.quote(query.format(**facts), safe="[]=&")
            yield f"/api/v1/{route}/{where}?{text}"


def asked_of_all(paths: dict[str, Any]) -> Iterator[str]:
    """Yield every question that names nobody's."""
    yield from OURS
    for template, node in itertools.product(_of_nodes(paths), ("", "raw", "volumes", "nothing")):
        yield _filled(template, node)
    for where, query in itertools.product(("raw", "volumes", ""), SEARCHES[12:]):
        yield f"/api/v1/search/{where}?{query.replace('{{', '{').replace('}}', '}')}"
        yield f"/api/v1/search-deep/{where}?{query.replace('{{', '{').replace('}}', '}')}"
    for where in ("raw", "volumes", ""):
        yield f"/api/v1/distinct/{where}?{DISTINCT}"
    for where, number in itertools.product(("raw", "volumes"), range(1, 25)):
        yield f"/api/v1/asset/bytes/{where}?id={number}"


def _of_nodes(paths: dict[str, Any]) -> list[str]:
    """Return the routes that the server lists and that read nodes."""
    return sorted(path for path, ways in paths.items() if "get" in ways and "{path}" in path)


def _filled(template: str, node: str) -> str:
    path = template.replace("{path}", node).replace("{block}", "0/0/0")
    more = {"array/block": "?block=0", "partition": "?partition=0", "asset": "?id=3",
            "distinct": f"?{DISTINCT}", "buffers": "?form_key=x",
            "array/full": "?slice=0:1"}  # fmt: skip
    return path + next((query for part, query in more.items() if part in path), "")


_VARY = {"date", "expires", "server-timing", "set-cookie", "x-tiled-request-id", "content-length"}
_PASSING = re.compile(r'"(time|t)": ?[0-9.]+|"sha256": (null|"[0-9a-f]+")')
"""Times, and digests of files, which are computed when somebody asks."""


def heard(answer: httpx.Response, *names: str) -> tuple[int, dict[str, str], str]:
    """Return an answer without what differs between two of the same question.

    Parameters
    ----------
    answer
        The answer.
    names
        What the question has named, which an answer may repeat.
    """
    headers = {k: v for k, v in answer.headers.items() if k not in _VARY}
    body = answer.content.decode("latin-1")
    for name in names:
        body = body.replace(name, "…")
        headers = {k: v.replace(name, "…") for k, v in headers.items()}
    if names and answer.status_code >= 400:
        headers.pop("etag", "")  # that of a body which repeats the question
    if "hdf5" in headers.get("content-type", "") or answer.url.path == "/now":
        headers.pop("etag", "")  # Tiled makes another one for each answer; the time is in ours
    if answer.url.path in ("/api/v1", "/api/v1/"):
        body, headers = "", {}  # grows with the kinds of nodes that anybody has asked for
    return answer.status_code, headers, _PASSING.sub("", body)
