"""A catalog as a facility runs it: PostgreSQL, several processes, nginx with TLS before them."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import tomli_w
from runs import wait_until

SNIPPET = Path(__file__).parents[1] / "docs" / "snippets" / "nginx.conf"
NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
OPENSSL = shutil.which("openssl")
READERS = 2


def why_not() -> str:
    """Return why nginx with TLS cannot be run here; empty if it can."""
    lacking = [name for name, found in (("nginx", NGINX), ("openssl", OPENSSL)) if found is None]
    return f"{' and '.join(lacking)} not found: apt-get install nginx openssl" if lacking else ""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return listening.getsockname()[1]


def certificates(folder: Path) -> Path:
    """Make an authority and a certificate of 127.0.0.1, ``server.pem``; return the authority's."""
    assert OPENSSL is not None
    folder.mkdir(parents=True)
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    authority = ("-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2")
    signed = ("-x509", *key, "-keyout", "server.key", "-out", "server.pem", "-days", "2")
    for arguments in (
        (*authority, "-subj", "/CN=our own authority"),
        (*signed, "-subj", "/CN=catalog", "-CA", "ca.pem", "-CAkey", "ca.key",
         "-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=CA:FALSE"),
    ):  # fmt: skip
        subprocess.run([OPENSSL, "req", *arguments], cwd=folder, check=True, capture_output=True)
    return folder / "ca.pem"


def configuration(folder: Path, *, port: int, writer: int, readers: list[int]) -> str:
    """Return the documented configuration with the ports and paths of a test."""
    text = SNIPPET.read_text()
    for before, after in {
        "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
        "diffuse.example.org": "127.0.0.1",
        "127.0.0.1:8000": f"127.0.0.1:{writer}",
        "127.0.0.1:8001": f"127.0.0.1:{readers[0]}",
        "127.0.0.1:8002": f"127.0.0.1:{readers[1]}",
        "/etc/ssl/certs/offbragg.pem": f"{folder}/tls/server.pem",
        "/etc/ssl/private/offbragg.key": f"{folder}/tls/server.key",
        "/var/log/nginx/": f"{folder}/",
    }.items():
        assert before in text, before
        text = text.replace(before, after)
    temporary = "".join(
        f"{kind}_temp_path {folder}/{kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    who = "user root;\n" if os.geteuid() == 0 else ""
    return (
        f"{who}daemon off;\nmaster_process on;\nworker_processes 1;\npid {folder}/nginx.pid;\n"
        f"error_log {folder}/nginx-start.log;\nevents {{}}\nhttp {{\n{temporary}{text}\n}}\n"
    )


@dataclass
class Facility:
    """The processes, by name: ``writer``, ``reader 0``, ``reader 1``, ``nginx``."""

    root: Path
    database: str
    port: int = field(default_factory=free_port)
    ports: list[int] = field(default_factory=lambda: [free_port() for _ in range(1 + READERS)])
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("experiment", "frames", "journal", "log"):
            (self.root / name).mkdir(parents=True)
        self.authority = certificates(self.root / "tls")
        self.toml = self.write_toml("beamline.toml", "catalog")

    def write_toml(self, name: str, catalog: str) -> Path:
        folders = ("experiment", "frames", "journal", "log")
        paths = {each: str(self.root / each) for each in folders}
        content = {
            "beamline_id": "simulated", "baseline": [], "devices": {}, "per_frame": {},
            "paths": {**paths, "catalog": str(self.root / catalog)},
            "catalog": {
                "port": self.ports[0], "database": self.database, "address": self.url,
                "trusted_proxies": ["127.0.0.1"],
            },
        }  # fmt: skip
        file = self.root / name
        file.write_text(tomli_w.dumps(content))
        return file

    @property
    def url(self) -> str:
        """Where people find the catalog."""
        return f"https://127.0.0.1:{self.port}"

    @property
    def direct(self) -> list[str]:
        """The addresses behind nginx; the first one writes."""
        return [f"http://127.0.0.1:{port}" for port in self.ports]

    @property
    def key(self) -> str:
        return (self.root / "catalog" / "key").read_text().strip()

    def log(self, name: str) -> Path:
        return self.root / f"{name.replace(' ', '-')}.log"

    def serve(self, name: str, *options: str, toml: Path | None = None) -> None:
        """Start a process of the catalog without waiting for it."""
        ready = self.log(name).with_suffix(".ready")
        command = [sys.executable, "-m", "offbragg", "serve", "--beamline", str(toml or self.toml),
                   "--with-parent", str(os.getpid()), "--ready", str(ready), *options]  # fmt: skip
        with self.log(name).open("ab") as log:
            self.processes[name] = subprocess.Popen(command, stdout=log, stderr=log)

    def start(self) -> None:
        """Start all at once: the readers wait for the one that writes."""
        self.serve("writer")
        for i, port in enumerate(self.ports[1:]):
            self.serve(f"reader {i}", "--reader", str(port))
        file = self.root / "nginx.conf"
        file.write_text(
            configuration(self.root, port=self.port, writer=self.ports[0], readers=self.ports[1:])
        )
        assert NGINX is not None
        with self.log("nginx").open("ab") as log:
            self.processes["nginx"] = subprocess.Popen(
                [NGINX, "-c", str(file), "-p", str(self.root)], stdout=log, stderr=log
            )
        for name in ("writer", "reader 0", "reader 1"):
            self.wait(name)

    def wait(self, name: str) -> None:
        """Wait until a process answers."""
        process, ready = self.processes[name], self.log(name).with_suffix(".ready")
        wait_until(lambda: ready.exists() or process.poll() is not None, 300.0, name)
        assert process.poll() is None, self.log(name).read_text()

    def kill(self, name: str) -> None:
        process = self.processes.pop(name)
        process.kill()
        process.wait(30)
        self.log(name).with_suffix(".ready").unlink(missing_ok=True)

    def close(self) -> None:
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=30)
            if process.poll() is None:
                process.kill()
                process.wait(30)


@contextlib.contextmanager
def facility(root: Path, database: str) -> Iterator[Facility]:
    """Run all of it within a ``with``."""
    made = Facility(root, database)
    try:
        made.start()
        yield made
    finally:
        made.close()
