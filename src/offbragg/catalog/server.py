"""The catalog server: Tiled with a generated configuration.

One directory holds all of it: ``catalog.db`` (SQLite), ``tables.duckdb``, ``files`` and the
``key`` (mode 0600). By default the server listens on the loopback interface only. It answers no one
without a key, and reads frames only below the roots that it is given.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import logging
import os
import re
import resource
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from offbragg.catalog.configuration import catalog_key, server_configuration
from offbragg.errors import CatalogError
from offbragg.files.lock import lock
from offbragg.parent import follow_parent

if TYPE_CHECKING:
    import uvicorn
    from fastapi import FastAPI

    from offbragg.catalog.authentication import App, Receive, Scope, Send
    from offbragg.catalog.readable import Readable

_COLUMN = re.compile(r"/api/v1/array/(full|block)/.*/internal/[^/]+")
_GRACE = 2  # s that the server waits at its end for clients that still read
_THREADS = 4  # threads that read chunks
_M_MMAP_THRESHOLD = -3  # of malloc.h

_log = logging.getLogger(__name__)


def serve(
    directory: Path,
    readable: Sequence[Path],
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    ready: Path | None = None,
    parent: int | None = None,
    allow_origins: Sequence[str] = (),
    database: str = "",
    reader: bool = False,
    trusted_proxies: Sequence[str] = (),
    adopted: Sequence[Path] = (),
    look: Callable[[], dict[str, Any]] | None = None,
    people: Path | None = None,
    begun: Callable[[str], bool] = lambda uid: False,
    started: Callable[[str], None] = lambda url: None,
) -> None:
    """Run the catalog server until a signal ends it (SIGTERM, SIGINT).

    Call it in the main thread of a process of its own.

    Parameters
    ----------
    directory
        Directory of the catalog; created if necessary.
    readable
        Roots below which frames and scan files may be read.
    host, port
        Address to listen on; port 0 is any free port.
    ready
        File that is written, atomically, once requests are answered: JSON with ``url`` and ``pid``.
    parent
        Process id of the parent; the server ends when its parent is another process.
    allow_origins
        Origins whose pages may read the catalog in a browser, such as ``http://127.0.0.1:9000``.
    database
        Address of a PostgreSQL database that holds the catalog's nodes; empty: SQLite.
    reader
        Only read, beside the process that writes; needs PostgreSQL.
    trusted_proxies
        Addresses of proxies that say for whom they ask, and whether by TLS (``X-Forwarded-*``).
    adopted
        Folders of others' data: adopted frames in them are read, and nothing else.
    look
        Looks at the beamline, as `offbragg.now.BeamlineNow` does; None: the catalog serves none.
    people
        File of the people who may log in, and of their proposals; None: whoever has a key for
        reading sees everything.
    begun
        Returns whether a run with this uid is being measured.
    started
        Called with the address once requests are answered.

    Raises
    ------
    CatalogError
        If the directory or the database cannot be used, another server uses the directory or
        writes to the database, or the port is taken.
    """
    directory = directory.resolve()
    readable = [root.resolve() for root in readable]
    ready = None if ready is None else ready.resolve()
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        (directory / "files").mkdir(exist_ok=True)
        key = catalog_key(directory)
    except OSError as error:
        raise CatalogError(f"the catalog directory {directory} cannot be used: {error}") from error
    with contextlib.ExitStack() as held:
        if not reader:
            held.enter_context(_alone(directory))
        how: dict[str, Any] = {"ready": ready, "parent": parent, "allow_origins": allow_origins}
        how |= {"database": database, "look": look, "people": people, "started": started}
        how |= {"reader": reader, "trusted_proxies": trusted_proxies, "held": held, "begun": begun}
        how |= {"adopted": [folder.resolve() for folder in adopted]}
        _serve(directory, readable, key=key, host=host, port=port, **how)


def _serve(
    directory: Path,
    readable: Sequence[Path],
    *,
    key: str,
    host: str,
    port: int,
    ready: Path | None,
    parent: int | None,
    allow_origins: Sequence[str],
    database: str,
    reader: bool,
    trusted_proxies: Sequence[str],
    held: contextlib.ExitStack,
    adopted: Sequence[Path],
    look: Callable[[], dict[str, Any]] | None,
    people: Path | None,
    begun: Callable[[str], bool],
    started: Callable[[str], None],
) -> None:
    try:
        import uvicorn
        from tiled.server.app import build_app_from_config

        from offbragg.catalog import (
            checked,
            images,
            now_history,
            read_limits,
            separation,
            tiled_app,
            tiled_patches,
        )
        from offbragg.catalog import request_limits as limits
        from offbragg.catalog.admission import Admissions
        from offbragg.catalog.authentication import WrongKeys
        from offbragg.catalog.cross_origin import with_origins
        from offbragg.catalog.door import Authentication
        from offbragg.catalog.downloads import Downloads
        from offbragg.catalog.formats import register_formats
        from offbragg.catalog.frames import Frames
        from offbragg.catalog.hidden_paths import HiddenPaths
        from offbragg.catalog.login import Login
        from offbragg.catalog.named_keys import NamedKeys
        from offbragg.catalog.notes import Notes
        from offbragg.catalog.now import Now
        from offbragg.catalog.now_history import NowHistory
        from offbragg.catalog.page import Page
        from offbragg.catalog.people import PeopleFile, read_people
        from offbragg.catalog.planes import Planes
        from offbragg.catalog.questions import Questions
        from offbragg.catalog.readable import Readable
        from offbragg.catalog.route_rules import RouteRules
        from offbragg.catalog.run_files import RunFiles
        from offbragg.catalog.run_routes import RunRoutes
        from offbragg.catalog.search_index import keep_search_tables
        from offbragg.catalog.series_routes import SeriesRoutes
        from offbragg.catalog.several_processes import Reader, await_tables, writing
        from offbragg.catalog.socket_shares import SocketShares
        from offbragg.catalog.viewer import Viewer
        from offbragg.catalog.viewers import hide_from_nobody
        from offbragg.catalog.volume_watch import watch_volumes
    except (Exception, SystemExit) as error:  # a broken package may raise anything
        first = str(error).partition("\n")[0]
        raise CatalogError(
            f"the catalog cannot be served: {type(error).__name__}: {first}\n"
            "A package that it needs is absent or broken: pip install --upgrade 'offbragg[catalog]'"
        ) from error
    parts = [limits.self_test(), checked.self_test(), read_limits.self_test()]
    if people is not None:
        read_people(people)  # refuse a wrong one now
    for part in (*parts, *images.self_test(), tiled_app.self_test(), separation.self_test()):
        if not part.active:
            raise CatalogError(f"the catalog is not served: what it needs is not available\n{part}")
    if reader:
        await_tables(database)
    else:
        if database:
            held.enter_context(writing(database))
        tiled_app.create_database(database or f"sqlite:///{directory / 'catalog.db'}")
    logging.getLogger("tiled.server.app").setLevel(logging.WARNING)  # its import sets INFO
    tiled_patches.apply()
    # of a table only the database's name is kept with it: host and user may change
    os.environ["TILED_STRIP_STORAGE_URI_QUERY_ON_WRITE"] = "1"
    register_formats()
    how = {"key": key, "database": database, "reader": reader}
    configuration = server_configuration(directory, readable, **how)
    app = build_app_from_config(configuration)
    may_read = _confine(app, readable, directory / "files")
    if not reader:
        tiled_app.keep_containers(app)
        keep_search_tables(app)
        watch_volumes(app, app.state.root_tree, may_read)
    _run_in_empty(directory / "nothing")
    _share_threads()
    _release_memory()
    _allow_sockets(limits.SOCKETS)
    app.add_middleware(_ExpectedLength)
    app.add_middleware(Questions)
    tree = app.state.root_tree
    planes = Planes(Downloads(app, tree, may_read), tree, may_read)
    runs = RunRoutes(Viewer(planes, tree), tree, may_read, begun)
    sources = Readable([*readable, *adopted])
    checked.serve_adopted(sources.open)
    frames = Frames(runs, RunFiles(tree, runs.find), may_read, sources)
    kept = None if look is None else NowHistory(directory / now_history.FILE, writes=not reader)
    notes = Notes(frames, directory, runs, tree)
    whole = Now(SeriesRoutes(notes, tree, may_read, runs), look, tree, kept)
    whole.watch_with(app)
    wrong = WrongKeys()
    named, who = NamedKeys(directory, key), None if people is None else PeopleFile(people)
    hide_from_nobody()
    limited = RouteRules(limits.RequestLimits(whole))
    keyed = Authentication(limited, key, wrong, named, who)
    shared = SocketShares(keyed, Admissions(key, named, who))
    page = Page(shared, key=key, directory=directory, wrong=wrong, named=named, people=who)
    enter = Login(page, key=key, people=who, wrong=wrong)
    hiding = HiddenPaths(Reader(enter) if reader else enter, [*readable, *adopted, directory])
    config = uvicorn.Config(
        with_origins(hiding, allow_origins),
        host=host,
        port=port,
        http=limits.Connection,
        h11_max_incomplete_event_size=limits.HEAD,
        ws_max_size=limits.HEAD,
        log_config=None,
        log_level="warning",
        access_log=False,  # a key given as ?api_key= must not reach a log
        proxy_headers=bool(trusted_proxies),  # whoever sends them could count as anybody
        forwarded_allow_ips=list(trusted_proxies),
        server_header=False,
        timeout_graceful_shutdown=_GRACE,
    )

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.servers:
                url = f"http://{host}:{self.servers[0].sockets[0].getsockname()[1]}"
                if ready is not None:
                    _write_ready(ready, url=url)
                started(url)

    server = Server(config)
    if parent is not None:
        follow_parent(parent, lambda: setattr(server, "should_exit", True))
    _end_on_signals(server)
    try:
        server.run()
    except SystemExit as error:
        raise CatalogError(
            f"the catalog cannot listen on {host}:{port}\n"
            f"Is another server there? Choose another port, or 0 for any free one."
        ) from error
    finally:
        if ready is not None:
            ready.unlink(missing_ok=True)


@contextlib.contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Lock a catalog: two servers would each keep state that the other does not know."""
    descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            lock(descriptor)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise CatalogError(
                    f"the catalog directory {directory} cannot be locked: {error.strerror}\n"
                    f"Two servers would damage it. Choose a directory on a local disk."
                ) from error
            other = os.pread(descriptor, 200, 0).decode("utf-8", "replace").strip()
            raise CatalogError(
                f"the catalog {directory} is served already, by {other or 'another process'}\n"
                f"End that server first (SIGTERM), or serve another directory."
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        yield
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def _confine(app: FastAPI, roots: Sequence[Path], storage: Path) -> Readable:
    """Let the app read below its roots only, and send its refusals to clients."""
    from fastapi import Request
    from fastapi.responses import JSONResponse
    from tiled.utils import BrokenLink

    from offbragg.catalog.inside import confine_hdf5
    from offbragg.catalog.readable import Readable
    from offbragg.catalog.served import confine_adapters

    readable = Readable([*roots, storage])
    confine_hdf5(readable)
    confine_adapters(app.state.root_tree.context, readable, Readable([storage]))

    @app.exception_handler(CatalogError)
    async def refuse(request: Request, error: CatalogError) -> JSONResponse:
        _log.warning("refused: %s", error)
        return JSONResponse({"detail": str(error)}, status_code=403)

    @app.exception_handler(BrokenLink)
    async def miss(request: Request, error: BrokenLink) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, status_code=410)

    return readable


def _run_in_empty(directory: Path) -> None:
    """Run in an empty directory: HDF5 and others look for relative names in the current one."""
    directory.mkdir(mode=0o500, exist_ok=True)
    os.chdir(directory)
    for kind in ("EXT", "VDS", "EXTFILE"):
        os.environ[f"HDF5_{kind}_PREFIX"] = str(directory)


def _share_threads() -> None:
    """Let all requests share a few threads that read chunks; otherwise each starts its own."""
    import dask.config

    dask.config.set(pool=ThreadPoolExecutor(_THREADS, thread_name_prefix="chunks"))


def _release_memory() -> None:
    """Release the memory of an answer when it is sent; glibc would keep it for reuse."""
    with contextlib.suppress(AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 1 << 20)


def _allow_sockets(count: int) -> None:
    """Allow enough open files for all sockets and as many files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < 2 * count:
        wanted = 2 * count if hard == resource.RLIM_INFINITY else min(2 * count, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class _ExpectedLength:
    """Returns a column with the length that the client expects, even if it has grown since.

    The client asks first for the length and then for that number of values; Tiled answers with an
    error if there are more by then.
    """

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and _COLUMN.match(scope["path"]):
            asked = dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))
            length = asked.get("expected_shape", "")
            if re.fullmatch("[0-9]{1,12}", length) and "slice" not in asked:
                more = f"&slice=0:{length}".encode()
                scope = {**scope, "query_string": scope["query_string"] + more}
        await self._app(scope, receive, send)


def _end_on_signals(server: uvicorn.Server) -> None:
    """Let a signal end the server also while uvicorn does not handle signals.

    That is before it runs, and after its graceful end, when it raises the signal once more: that
    one must not kill this process.
    """

    def end(*_: object) -> None:
        server.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)


def _write_ready(path: Path, *, url: str) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(json.dumps({"url": url, "pid": os.getpid()}) + "\n")
    part.replace(path)
