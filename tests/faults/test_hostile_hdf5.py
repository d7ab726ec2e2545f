"""HDF5 files that lead out of the served directory, or nowhere."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import httpx
import numpy as np
import pytest
from catalog.served import Server
from faults.hostile import KINDS, LENGTH, NAMES, SECRET, Places, hostile_files, leaks, shape_of
from measured import Measured
from PIL import Image
from tiled.adapters.hdf5 import HDF5_DATASET, SWMR_DEFAULT, h5open
from tiled.structures.array import ArrayStructure, BuiltinDtype
from tiled.structures.core import StructureFamily
from tiled.structures.data_source import Asset, DataSource, Management
from tiled.utils import BrokenLink

from offbragg.catalog import readable as readable_module
from offbragg.catalog.client import connect
from offbragg.catalog.consolidators import frames_structure
from offbragg.catalog.images import IMAGES
from offbragg.catalog.inside import check_hdf5, opened
from offbragg.catalog.readable import Readable
from offbragg.catalog.served import ConfinedAdapter
from offbragg.cli import main
from offbragg.errors import CatalogError, ReductionError, ScanFileError
from offbragg.files.root import open_below
from offbragg.files.scan_file import ScanFile
from offbragg.files.volume_file import read_volume
from offbragg.workflows.choices import Choices
from offbragg.workflows.reduce import reduce_files


@pytest.fixture
def places(tmp_path) -> tuple[Path, Path]:
    """A served directory with a file, and a secret beside it."""
    served, secret = tmp_path / "served", tmp_path / "secret"
    served.mkdir()
    secret.mkdir()
    (secret / "key").write_bytes(b"top secret" * 100)
    for place in (served, secret):
        with h5py.File(place / "good.h5", "w") as file:
            file["data"] = np.arange(10)
    return served, secret


def external_link(file, secret):
    file["data"] = h5py.ExternalLink(str(secret / "good.h5"), "/data")


def external_link_up(file, secret):
    file["data"] = h5py.ExternalLink("../secret/good.h5", "/data")


def external_link_in_a_group_behind_a_soft_link(file, secret):
    file["other/link"] = h5py.ExternalLink(str(secret / "good.h5"), "/")
    file["data"] = h5py.SoftLink("/other/link/data")


def external_storage(file, secret):
    file.create_dataset("data", (1000,), "u1", external=[(str(secret / "key"), 0, 1000)])


def virtual_inside(file, secret):
    layout = h5py.VirtualLayout((10,), "i8")
    layout[:] = h5py.VirtualSource("good.h5", "data", (10,))
    file.create_virtual_dataset("data", layout)


def external_link_inside_by_its_whole_path(file, secret):
    served = Path(file.filename).parent
    file["data"] = h5py.ExternalLink(str(served / "good.h5"), "/data")


def external_storage_inside(file, secret):
    file.create_dataset("data", (10,), "u1", external=[("good.h5", 0, 10)])


def virtual(file, secret):
    layout = h5py.VirtualLayout((10,), "i8")
    layout[:] = h5py.VirtualSource(str(secret / "good.h5"), "data", (10,))
    file.create_virtual_dataset("data", layout)


def by_way_of_a_good_file(file, secret):
    with h5py.File(Path(file.filename).with_name("way.h5"), "w") as way:
        way["data"] = h5py.ExternalLink(str(secret / "good.h5"), "/data")
    file["data"] = h5py.ExternalLink("way.h5", "/data")


def through_a_symbolic_link(file, secret):
    Path(file.filename).with_name("innocent.h5").symlink_to(secret / "good.h5")
    file["data"] = h5py.ExternalLink("innocent.h5", "/data")


def soft_links_in_circles(file, secret):
    file["data"] = h5py.SoftLink("/other")
    file["other"] = h5py.SoftLink("/data")


def external_links_in_circles(file, secret):
    name = Path(file.filename).name
    file["data"] = h5py.ExternalLink(name, "/data")


@pytest.mark.parametrize(
    "make",
    [
        external_link, external_link_up, external_link_in_a_group_behind_a_soft_link,
        external_storage, external_storage_inside, virtual, virtual_inside,
        by_way_of_a_good_file, external_link_inside_by_its_whole_path, through_a_symbolic_link,
        soft_links_in_circles, external_links_in_circles,
    ],
)  # fmt: skip
@pytest.mark.parametrize("asked", ["/data", "/"])
def test_what_leads_out_or_nowhere_is_refused_by_name(places, make, asked):
    served, secret = places
    with h5py.File(served / "bad\x1b[2J.h5", "w") as file:
        make(file, secret)

    with pytest.raises(CatalogError) as refused:
        check_hdf5(served / "bad\x1b[2J.h5", [served], names=[asked])

    assert ".h5" in str(refused.value)
    assert "\x1b" not in str(refused.value)


@pytest.mark.parametrize(
    ("shape", "dtype", "chunks"),
    [((10**10,), "<i4", None), ((4 * 10**8,), "<i4", (4 * 10**8,)), ((10**12,), "u1", (1,)),
     ((1000, 10**6), "<f8", (1, 1)), ((200_000,), h5py.string_dtype(), (1000,))],
)  # fmt: skip
@pytest.mark.parametrize("asked", ["/data", "/"])
def test_what_cannot_be_read_in_parts_is_refused_by_name(places, shape, dtype, chunks, asked):
    served, _ = places
    with h5py.File(served / "absurd.h5", "w") as file:
        file.create_dataset("data", shape, dtype, chunks=chunks)

    with pytest.raises(CatalogError, match=r"absurd.h5: /data is not read: it (lies in|has) "):
        check_hdf5(served / "absurd.h5", [served], names=[asked])


@pytest.mark.parametrize("shape", [None, (), (0, 5), (3600, 4362, 4148)])
def test_what_is_empty_or_large_in_good_pieces_is_read(places, shape):
    served, _ = places
    with h5py.File(served / "good.h5", "w") as file:
        if shape is None:
            file["data"] = h5py.Empty("<i4")
        else:
            file.create_dataset("data", shape, "<u4", chunks=(1, *shape[1:]) if shape else None,
                                maxshape=(None, *shape[1:]) if shape else None)  # fmt: skip

    check_hdf5(served / "good.h5", [served], names=["/data"])


def test_a_group_that_holds_itself_is_refused(places):
    served, _ = places
    with h5py.File(served / "loop.h5", "w") as file:
        file["a/b/c"] = 1
        file["a/b/again"] = file["a"]

    with pytest.raises(CatalogError, match="circles"):
        check_hdf5(served / "loop.h5", [served])


def test_few_groups_with_many_names_each_are_refused_and_not_walked_for_ever(places, monkeypatch):
    """Ten names for each of 30 groups, each in the one before: 10^30 ways, and no circle."""
    served, _ = places
    monkeypatch.setattr("offbragg.catalog.inside._MOST_OBJECTS", 2000)
    with h5py.File(served / "laughs.h5", "w", libver="latest") as file:
        group = file["/"]
        for _ in range(30):
            below = group.create_group("0")
            for name in range(1, 10):
                group[str(name)] = below
            group = below

    with pytest.raises(CatalogError, match=r"laughs.h5: .* is not read: there are more than 2,000"):
        check_hdf5(served / "laughs.h5", [served])


def test_one_dataset_of_many_names_is_refused(places, monkeypatch):
    served, _ = places
    monkeypatch.setattr("offbragg.catalog.inside._MOST_OBJECTS", 20)
    with h5py.File(served / "many.h5", "w", libver="latest") as file:
        file["0"] = 1
        for name in range(1, 25):
            file[str(name)] = file["0"]

    with pytest.raises(CatalogError, match="there are more than 20 objects"):
        check_hdf5(served / "many.h5", [served])


def test_a_file_that_links_to_very_many_is_refused_before_all_are_open(places, monkeypatch):
    served, _ = places
    monkeypatch.setattr("offbragg.catalog.inside._MOST_LINKED", 3)
    with h5py.File(served / "wrapper.nxs", "w") as file:
        for number in range(5):
            shutil.copy(served / "good.h5", served / f"f{number}.h5")
            file[f"f{number}"] = h5py.ExternalLink(f"f{number}.h5", "/data")

    with pytest.raises(CatalogError, match="links to more than 3 files"):
        check_hdf5(served / "wrapper.nxs", [served])


def test_links_that_stay_inside_work(places):
    served, _ = places
    with h5py.File(served / "wrapper.nxs", "w") as file:
        file["entry/data"] = h5py.ExternalLink("good.h5", "/data")
        file["entry/same"] = h5py.SoftLink("/entry/data")
        file["entry/again"] = h5py.SoftLink("data")

    check_hdf5(served / "wrapper.nxs", [served])
    for name in ("data", "same", "again"):
        check_hdf5(served / "wrapper.nxs", [served], names=[f"/entry/{name}"])


@pytest.mark.parametrize("name", ["../secret/key", "out/key", "deep/../../secret/key", "loop/x"])
def test_a_path_that_leads_out_is_refused(places, name):
    served, secret = places
    (served / "out").symlink_to(secret)
    (served / "deep").mkdir()
    (served / "loop").symlink_to(served / "loop")

    with pytest.raises(CatalogError, match="is not read"):
        Readable([served]).open(served / name)


def test_a_symbolic_link_that_stays_inside_is_followed(places):
    served, _ = places
    (served / "link.h5").symlink_to(served / "good.h5")

    assert Readable([served]).real(served / "link.h5") == served / "good.h5"


@pytest.mark.parametrize("locking", [None, False])
def test_a_file_that_the_process_reads_already_is_looked_at_in_the_same_way(places, locking):
    """HDF5 refuses a second opening that asks for other locks than the first one."""
    served, _ = places
    adapter = ConfinedAdapter(Adapter, "application/x-hdf5", Readable([served]))
    path = served / "good.h5"

    with h5py.File(path, "r", libver="latest", swmr=True, locking=locking):
        made = adapter.from_catalog(Source(path), None, dataset="data", swmr=True, locking=locking)

    assert made.read() == "read"


def test_a_file_without_options_for_opening_is_read_by_several_at_once(places):
    served, _ = places
    adapter = ConfinedAdapter(Adapter, "application/x-hdf5", Readable([served]))
    path = served / "good.h5"

    with h5open(path, "data", swmr=SWMR_DEFAULT, libver="latest"):  # as Tiled has it open
        made = adapter.from_catalog(Source(path), None, dataset="data")

    assert made.read() == "read"


@pytest.mark.parametrize("address", ["FILE://localhost{}", " file:{}", "s3:/{}", "duckdb://{}"])
@pytest.mark.parametrize(
    "mimetype", ["application/x-hdf5", "application/x-zarr", "application/x-parquet", "image/tiff"]
)
def test_an_address_that_is_written_otherwise_does_not_lead_out(places, address, mimetype):
    """Tiled takes FILE: for a file, too, and checks no other scheme."""
    served, secret = places
    adapter = ConfinedAdapter(Adapter, mimetype, Readable([served]))
    asset = SimpleNamespace(data_uri=address.format(secret / "good.h5"))

    with pytest.raises(CatalogError, match="is not read"):
        adapter.from_catalog(SimpleNamespace(assets=[asset]), None)


class Adapter:
    """What Tiled would read with."""

    structure_family = StructureFamily.container

    @classmethod
    def from_catalog(cls, source, node, **parameters):
        return cls()

    def structure(self):
        return None

    def read(self):
        return "read"


class Source:
    """What the catalog knows of a file."""

    def __init__(self, path):
        self.assets = [SimpleNamespace(data_uri=path.as_uri())]


# -- every kind of file, read as the server reads ---------------------------------------------

READ = """
import json, os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import h5py
import numpy as np
from faults.hostile import Places, hostile_files, leaks
from tiled.adapters.hdf5 import HDF5Adapter
from offbragg.catalog.inside import confine_hdf5
from offbragg.catalog.readable import Readable
base = Path(sys.argv[2])
places = Places(base / "served", base / "secret", base / "cwd")
os.chdir(places.cwd)
paths = sorted(places.served.glob("*_*.h5"))
leak, answers = 0, {}
for path in paths:
    if "pipe" not in path.name:  # else HDF5 waits for ever
        with h5py.File(path) as file:
            leak += leaks(file["data"][()].tobytes())
confine_hdf5(Readable([places.served]))
for path in paths:
    for asked in ("/data", "/"):
        try:
            found = HDF5Adapter.from_uris(f"file://localhost{path}", dataset=asked)
            if asked == "/":
                found = found["data"]
            answers[f"{path.stem} {asked}"] = repr(np.asarray(found.read()))
        except Exception as error:
            answers[f"{path.stem} {asked}"] = f"{type(error).__name__}: {error}"
print(json.dumps([leak, answers]))
"""


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> Places:
    """More than 200 kinds of files below a served directory, and secrets outside."""
    places = Places.make(tmp_path_factory.mktemp("hostile"))
    assert sum(1 for _ in hostile_files(places)) > 200
    return places


def test_no_kind_of_file_leads_out_and_each_is_refused_by_name(hostile):
    for path in sorted(hostile.served.glob("*_*.h5")):
        with (
            pytest.raises((CatalogError, BrokenLink), match=r"is (not read|missing)"),
            opened(Readable([hostile.served]), path, swmr=False, locking=None) as finder,
        ):
            finder.node("/data")
        if path.stem.endswith("plainly"):
            with (
                contextlib.suppress(CatalogError),  # one that leads to nothing has no values
                opened(Readable([hostile.served]), path, swmr=False, locking=None) as finder,
            ):
                assert HDF5_DATASET not in finder.node("/").tree().values()


@pytest.mark.slow
def test_no_kind_of_file_is_read_by_tiled(hostile):
    done = subprocess.run(
        [sys.executable, "-c", READ, str(Path(__file__).parents[1]), str(hostile.served.parent)],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr

    leaked, answers = json.loads(done.stdout)

    assert leaked > 220  # as HDF5 itself reads them; or these are no attacks
    assert len(answers) > 400
    for what, answer in answers.items():
        assert answer.startswith(("CatalogError", "BrokenLink")), (what, answer)


# -- and over HTTP ------------------------------------------------------------------------------

ROUTES = [
    "metadata/{}", "metadata/{}?include_data_sources=true", "search/{}", "search-deep/{}",
    "distinct/{}?metadata=true&structure_families=true&specs=true",
    "array/full/{}", "array/full/{}?slice=0:5", "array/full/{}?format=json",
    "array/full/{}?format=csv", "array/full/{}?slice=::2", "array/block/{}?block=0",
    "array/block/{}?block=0&slice=0:3", "container/full/{}", "container/full/{}?format=json",
    "container/full/{}?format=application/x-hdf5", "node/full/{}", "node/full/{}?format=json",
    "table/full/{}", "table/partition/{}?partition=0", "awkward/full/{}", "awkward/buffers/{}",
    "ragged/full/{}", "revisions/{}", "asset/bytes/{}?id=1", "asset/manifest/{}?id=1",
]  # fmt: skip
OTHERS = ["zarr/v2/{}/.zarray", "zarr/v2/{}/0", "zarr/v2/{}", "zarr/v3/{}/zarr.json",
          "zarr/v3/{}/c/0", "zarr/v3/{}", "files/{}", "files/{}/f1.h5"]  # fmt: skip
ASKED = [f"/api/v1/{route}" for route in ROUTES] + [f"/{route}" for route in OTHERS]
FEW = [f"/api/v1/{route}" for route in (
    "metadata/{}", "array/full/{}", "array/block/{}?block=0", "container/full/{}"
)]  # fmt: skip
AT_ONCE = 8  # requests that are on their way: a client thinks while the server does


class Site:
    """A catalog that serves one directory, and was started in another one that holds secrets."""

    def __init__(self, places: Places) -> None:
        base = places.served.parent
        self.places = places
        self.server = Server.start(base / "catalog", places.served, cwd=places.cwd)
        self.runs = connect(self.server.url, self.server.key)
        self.http = httpx.Client(
            base_url=self.server.url,
            headers={"Authorization": f"Apikey {self.server.key}"},
            timeout=60,
        )

    def register(
        self,
        name: str,
        path: Path,
        shape: tuple[int, ...] | None,
        *,
        mimetype: str = "application/x-hdf5",
        dtype: str = "<i8",
        **parameters: Any,
    ) -> None:
        """Register a file as an array; without a shape as a container of what is in it."""
        structure = None
        family = StructureFamily.container if shape is None else StructureFamily.array
        if shape is not None:
            kind = BuiltinDtype.from_numpy_dtype(np.dtype(dtype))
            structure = ArrayStructure(kind, tuple((n,) for n in shape), shape)
        if mimetype == "application/x-offbragg-frames":
            family, structure = StructureFamily.table, frames_structure(["angle"])
        sequence = mimetype.startswith("multipart")
        asset = Asset(
            data_uri=f"file://localhost{path}",
            is_directory=False,
            parameter="data_uris" if sequence else "data_uri",
            num=0 if sequence else None,
        )
        source = DataSource(
            structure_family=family, structure=structure, mimetype=mimetype,
            parameters=parameters, assets=[asset], management=Management.external,
        )  # fmt: skip
        self.runs.new(family, [source], key=name)

    def ask(self, name: str, routes: list[str]) -> list[str]:
        """Ask for a node; return what should not be: a secret in an answer, or a failure."""
        answers = [self.http.get(route.format(f"raw/{name}")) for route in routes]
        return [
            f"{answer.status_code} {answer.url}"
            for answer in answers
            if leaks(answer.content) or answer.status_code >= 500
        ]

    def pages(self, route: str) -> Iterator[httpx.Response]:
        """Ask for all that is in the catalog, page by page."""
        following = f"/api/v1/{route}/raw?page[limit]=100&include_data_sources=true"
        while following:
            answer = self.http.get(following)
            yield answer
            following = answer.json()["links"]["next"]


class Caller:
    """Asks as httpx does, at a tenth of its cost."""

    def __init__(self, site: Site) -> None:
        url = site.http.base_url
        self._connection = HTTPConnection(url.host, url.port, timeout=60)
        self._headers = {"Authorization": site.http.headers["Authorization"]}

    def get(self, path: str) -> tuple[int, bytes]:
        """Return the status and the body."""
        self._connection.request("GET", path, headers=self._headers)
        answer = self._connection.getresponse()
        return answer.status, answer.read()

    def close(self) -> None:
        self._connection.close()


@pytest.fixture(scope="module")
def site(hostile) -> Iterator[Site]:
    made = Site(hostile)
    yield made
    made.http.close()
    made.server.end()


def test_a_route_that_was_never_tried_fails_this_test(site):
    paths = site.http.get("/openapi.json").json()["paths"]
    served = {
        path.split("/{")[0].removeprefix("/api/v1/")
        for path, methods in paths.items()
        if "get" in methods and "{path}" in path
    }

    others = ("/zarr", "/ui", "webhooks/")
    untried = {name for name in served if not any(route.startswith(name) for route in ROUTES)}
    assert {name for name in untried if not name.startswith(others)} == set()


def test_over_http_no_kind_leads_out(site):
    """Every kind, every spelling; each route for some of them, and for all of them in `slow`."""
    kinds = list(KINDS)
    names = [f"{kinds[i % len(kinds)]}_{name}_plainly" for i, name in enumerate(NAMES)]
    for number, name in enumerate(names):
        site.register(name, site.places.served / f"{name}.h5", shape_of(name), dataset="/data")
        assert site.ask(name, ASKED if number < 2 else FEW) == []
    name = "external-link-to-group_working-directory_plainly"
    site.register("all", site.places.served / f"{name}.h5", None)
    assert site.ask("all", ASKED) == []
    assert site.ask("all/data", FEW) == []


@pytest.mark.slow
@pytest.mark.timeout(3600)  # 24,000 requests
def test_over_http_no_file_of_all_kinds_leads_out(site):
    """Every file, as an array and as a container, over every route."""
    paths = sorted(site.places.served.glob("*_*.h5"))

    def ask(path: Path) -> tuple[Counter[int], list[str]]:
        array, container = f"all-{path.stem}-array", f"all-{path.stem}-container"
        site.register(array, path, shape_of(path.stem), dataset="/data")
        site.register(container, path, None)
        # what is below an array is not looked for before the array was refused
        routes = {array: ASKED, container: ASKED, f"{container}/data": ASKED, f"{array}/data": FEW}
        statuses: Counter[int] = Counter()
        wrong: list[str] = []
        with contextlib.closing(Caller(site)) as caller:
            for node, asked in routes.items():
                for route in asked:
                    status, content = caller.get(route.format(f"raw/{node}"))
                    statuses[status] += 1
                    if leaks(content) or status >= 500:
                        wrong.append(f"{status} {node} {route}")
        return statuses, wrong

    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = list(pool.map(ask, paths))
    pages = [page for route in ("search", "search-deep") for page in site.pages(route)]

    assert [what for _, wrong in found for what in wrong] == []
    assert not any(leaks(page.content) or page.is_error for page in pages)
    print(f"{len(paths)} files: {sum((one for one, _ in found), Counter())}")


def test_over_http_what_is_in_the_file_is_read(site):
    site.register("good", site.places.served / "good.h5", (LENGTH,), dataset="/data")
    site.register("all of it", site.places.served / "good.h5", None)

    one = site.http.get("/api/v1/array/full/raw/good")
    other = site.http.get("/api/v1/array/full/raw/all of it/data")

    assert one.content == other.content == np.arange(LENGTH, dtype="<i8").tobytes()


@pytest.mark.parametrize("name", ["compound", "text", "type", "longer", "reference"])
def test_over_http_what_is_not_as_the_catalog_has_it_is_refused_in_words(site, name):
    """Whoever may write below a root can replace a file that is in the catalog."""
    path = site.places.served / f"other-{name}.h5"
    with h5py.File(path, "w") as file:
        file["longer"] = np.arange(3.0)
        file["compound"] = np.zeros(LENGTH, [("a", "i4"), ("b", "f8")])
        file["text"] = np.array(["a"] * LENGTH, h5py.string_dtype())
        file["type"] = np.dtype("i4")
        file["reference"] = np.array([file["longer"].ref] * LENGTH, h5py.ref_dtype)
    site.register(f"other-{name}", path, (LENGTH,), dataset=f"/{name}")

    answer = site.http.get(f"/api/v1/array/full/raw/other-{name}")

    assert answer.status_code == 403, answer.text
    assert "is not read: it does not hold what" in answer.json()["detail"]


@pytest.mark.parametrize("route", ["node/full", "search"])
def test_over_http_attributes_that_are_no_text_are_refused_in_words(site, route):
    path = site.places.served / f"attributes-{route[:4]}.h5"
    with h5py.File(path, "w") as file:
        file["data"] = np.arange(3.0)
        file.attrs["a"] = file["data"].attrs["a"] = np.bytes_(b"\xff\xfe")
    site.register(f"attributes-{route[:4]}", path, None)

    answer = site.http.get(f"/api/v1/{route}/raw/attributes-{route[:4]}")

    assert answer.status_code == 403, answer.text
    assert "is not read: it holds what cannot be sent" in answer.json()["detail"]


# -- a path that changes after it was looked at -------------------------------------------------


def test_a_file_that_becomes_a_link_before_it_is_opened_is_refused(places, monkeypatch):
    served, secret = places
    path = served / "good.h5"

    def swap_and_open(root, relative):
        path.unlink()
        path.symlink_to(secret / "good.h5")
        return open_below(root, relative)

    monkeypatch.setattr(readable_module, "open_below", swap_and_open)

    with pytest.raises(CatalogError, match=r"good\.h5 is not read"):
        Readable([served]).open(path)


def test_a_directory_that_becomes_a_link_before_it_is_opened_is_refused(places, monkeypatch):
    served, secret = places
    (served / "deep").mkdir()
    (served / "deep" / "good.h5").write_bytes(b"")

    def swap_and_open(root, relative):
        (served / "deep").rename(served / "gone")
        (served / "deep").symlink_to(secret)
        return open_below(root, relative)

    monkeypatch.setattr(readable_module, "open_below", swap_and_open)

    with pytest.raises(CatalogError, match=r"good\.h5 is not read"):
        Readable([served]).open(served / "deep" / "good.h5")


def test_a_pipe_is_refused_and_not_waited_for(hostile):
    with pytest.raises(CatalogError, match="not a regular file"):
        Readable([hostile.served]).open(hostile.served / "pipe.h5")


def image(kind: str) -> Callable[[Path, int], None]:
    def make(path: Path, value: int) -> None:
        Image.fromarray(np.full((8, 8), value, np.uint8)).save(path, kind)

    return make


def hdf5(path: Path, value: int) -> None:
    with h5py.File(path, "w") as file:
        file["data"] = np.full((8, 8), value, np.uint8)


@pytest.mark.parametrize(
    ("make", "mimetype", "parameters"),
    [
        (hdf5, "application/x-hdf5", {"dataset": "/data"}),
        (image("TIFF"), "image/tiff", {}),
        (image("TIFF"), "multipart/related;type=image/tiff", {}),
        (image("JPEG"), "image/jpeg", {}),
    ],
)
def test_over_http_a_path_that_is_swapped_all_the_time_is_never_the_other_file(
    site, tmp_path, make, mimetype, parameters
):
    name = f"swapped-{mimetype.replace('/', '-')}"
    path = site.places.served / name
    make(tmp_path / "right", 7)
    make(tmp_path / "secret", 111)
    path.write_bytes((tmp_path / "right").read_bytes())
    shape = (1, 8, 8) if mimetype.startswith("multipart") else (8, 8)
    site.register(name, path, shape, mimetype=mimetype, dtype="|u1", **parameters)
    over = threading.Event()

    def swap() -> None:
        right, link = path.with_name(f"{name}.right"), path.with_name(f"{name}.link")
        while not over.is_set():
            right.write_bytes((tmp_path / "right").read_bytes())
            right.replace(path)
            link.symlink_to(tmp_path / "secret")
            link.replace(path)

    swapping = threading.Thread(target=swap)
    swapping.start()
    answers = [site.http.get(f"/api/v1/array/full/raw/{name}") for _ in range(25)]
    over.set()
    swapping.join()

    right = [answer for answer in answers if answer.status_code == 200]
    assert {answer.content for answer in right} <= {bytes([7]) * 64}
    assert {answer.status_code for answer in answers} <= {200, 403}


def test_an_image_that_names_others_is_read_alone(site, tmp_path):
    """OME-TIFF has its frames in several files, wherever it says that they are."""
    import tifffile

    ome = """<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"
    UUID="urn:uuid:1"><Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8"
    SizeX="8" SizeY="8" SizeZ="1" SizeC="1" SizeT="2"><Channel ID="Channel:0:0"/>
    <TiffData FirstT="0" IFD="0"><UUID FileName="x">urn:uuid:1</UUID></TiffData>
    <TiffData FirstT="1" IFD="0"><UUID FileName="{}">urn:uuid:2</UUID></TiffData>
    </Pixels></Image></OME>"""
    secret = tmp_path / "secret.ome.tif"
    tifffile.imwrite(secret, np.full((8, 8), 111, np.uint8))
    path = site.places.served / "several.ome.tif"
    tifffile.imwrite(path, np.full((8, 8), 7, np.uint8), description=ome.format(secret),
                     metadata=None)  # fmt: skip
    assert 111 in tifffile.imread(path)  # whoever gives it a name reads the other one
    for name, mimetype in (
        ("several", "image/tiff"),
        ("sequence", "multipart/related;type=image/tiff"),
    ):
        for shape in ((8, 8), (2, 8, 8), (1, 2, 8, 8)):
            key = f"{name}-{len(shape)}"
            site.register(key, path, shape, mimetype=mimetype, dtype="|u1")

            assert bytes([111]) * 8 not in site.http.get(f"/api/v1/array/full/raw/{key}").content


def deflated_tiff(path: Path) -> None:
    """Four million pixels of nothing in a few kB."""
    import tifffile

    tifffile.imwrite(path, np.zeros((2000, 2000), np.uint8), compression="deflate")


def wide_jpeg(path: Path) -> None:
    image("JPEG")(path, 7)
    raw = bytearray(path.read_bytes())
    at = raw.index(b"\xff\xc0") + 5  # height and width
    raw[at : at + 4] = b"\xff\xff\xff\xff"
    path.write_bytes(raw)


def rubbish(path: Path) -> None:
    path.write_bytes(b"II*\0\x08\0\0\0\xff\xff" + bytes(range(256)))


@pytest.mark.parametrize("decode", ["image/tiff", "image/jpeg"])
@pytest.mark.parametrize("make", [deflated_tiff, wide_jpeg, rubbish])
def test_an_image_that_cannot_or_must_not_be_decoded_is_refused_by_name(
    places, make, decode, monkeypatch
):
    """Whoever may write below a root could else take all of the server's memory."""
    monkeypatch.setattr("offbragg.catalog.images.ANSWER", 1_000_000)
    path = places[0] / "image"
    make(path)

    with pytest.raises(CatalogError, match="image is not read: it "):
        IMAGES[decode](Readable([places[0]]), path)


def test_what_consists_of_many_files_is_read_only_where_the_catalog_keeps_it(site, tmp_path):
    """Each piece of a Zarr array is a file, and may be a link."""
    import zarr

    path = site.places.served / "stolen.zarr"
    array = zarr.create_array(
        path, shape=(LENGTH,), chunks=(LENGTH,), dtype="<i8", compressors=None, filters=None
    )
    array[:] = 0
    array[0] = 1
    (chunk,) = (p for p in path.rglob("*") if p.is_file() and p.name != "zarr.json")
    chunk.unlink()
    chunk.symlink_to(site.places.secret / "raw")
    assert SECRET in zarr.open_array(path, mode="r")[:]
    site.register("stolen", path, (LENGTH,), mimetype="application/x-zarr")

    assert site.ask("stolen", ASKED) == []
    assert site.http.get("/api/v1/array/full/raw/stolen").status_code == 403


# -- files that are reduced, not served ---------------------------------------------------------


def by_external_link(file, name, other):
    file[name] = h5py.ExternalLink(str(other), name)


def by_soft_and_external_link(file, name, other):
    file["elsewhere"] = h5py.ExternalLink(str(other), "/")
    file[name] = h5py.SoftLink(f"/elsewhere{name}")


def by_virtual_dataset(file, name, other):
    with h5py.File(other) as source:
        layout = h5py.VirtualLayout(source[name].shape, source[name].dtype)
        layout[...] = h5py.VirtualSource(source[name])
    file.create_virtual_dataset(name, layout)


def by_external_storage(file, name, other):
    with h5py.File(other) as source:
        shape, dtype = source[name].shape, source[name].dtype
    size = max(int(np.prod(shape)) * dtype.itemsize, 1)
    file.create_dataset(name, shape, dtype, external=[(str(other), 0, size)])


BORROWED = [
    (by_external_link, "/entry/data/data"),
    (by_soft_and_external_link, "/entry/frames/status"),
    (by_virtual_dataset, "/entry/data/data"),
    (by_external_storage, "/entry/data/data"),
]


def borrow(path: Path, name: str, borrowing: Callable[[Any, str, Path], None]) -> Path:
    """Let a file have a dataset from another one, its own copy."""
    other = path.with_name(f"other-{path.name}")
    shutil.copy(path, other)
    with h5py.File(path, "r+", libver=("v110", "v110")) as file:
        del file[name]
        borrowing(file, name, other)
    return path


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> tuple[Path, Path]:
    """A scan file, and a volume of it."""
    path = Measured(n_frames=3, step=1.0).write(tmp_path_factory.mktemp("measured"))
    volume = path.with_name("volume.h5")
    reduce_files([path], Choices(), out=volume)
    return path, volume


@pytest.fixture
def typed(monkeypatch, capsys) -> Callable[..., tuple[int, str]]:
    """Type a command; gives its exit code and what it says."""

    def run(*words: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["offbragg", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.err + printed.out

    return run


@pytest.mark.parametrize(("borrowing", "name"), BORROWED)
def test_a_scan_file_that_has_its_frames_from_another_file_is_not_read(
    measured, tmp_path, typed, borrowing, name
):
    path = borrow(Path(shutil.copy(measured[0], tmp_path / "f1.h5")), name, borrowing)

    for words in (["reduce", path], ["index", path], ["verify", path]):
        code, output = typed(*words)

        assert code != 0, words
        assert "Traceback" not in output
        assert "f1.h5" in output
    assert not list(tmp_path.glob("volume*"))
    with pytest.raises(ScanFileError, match="is not read"), ScanFile.open(path) as scan:
        _ = scan.stack, scan.ledger


@pytest.mark.parametrize("borrowing", [borrowing for borrowing, _ in BORROWED])
def test_a_volume_that_has_its_sums_from_another_file_is_not_read(
    measured, tmp_path, typed, borrowing
):
    path = Path(shutil.copy(measured[1], tmp_path / "v.h5"))
    borrow(path, "/entry/volume/counts", borrowing)

    code, output = typed("plot", path)

    assert code == 10
    assert "is not read" in output
    with pytest.raises(ReductionError, match="is not read"):
        read_volume(path)
