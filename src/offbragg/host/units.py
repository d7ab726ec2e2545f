"""Systemd units and a Containerfile that run what ``offbragg up`` runs.

Under systemd each service is a unit of its own: systemd is the supervisor then, and a second one
below it would hide what ends and why. A container has no systemd, so there it is ``offbragg up``.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from offbragg.beamline.config import Beamline
from offbragg.errors import ConfigError
from offbragg.host.children import STOP_TIMEOUT
from offbragg.host.services import Service
from offbragg.host.supervisor import USER_ERRORS

_HEAD = "# Written by offbragg units"
_CONSTRAINTS_HEAD = "# Known-good versions of everything that offbragg installs"
_RESTART_SEC = 5  # between two starts of a unit; systemd grows it from version 254 on only


def units(config: Beamline, services: Sequence[Service], *, user: str) -> dict[str, str]:
    """Return the texts of the units by their file names: one per service, and a target of all.

    Parameters
    ----------
    config
        The beamline; its name is in the names of the units, so that two can be on one host.
    services
        What to run.
    user
        As whom.
    """
    slug = re.sub(r"[^A-Za-z0-9_.-]", "_", config.beamline_id)
    target = f"offbragg-{slug}.target"
    names = {service.name: f"offbragg-{slug}-{service.name}.service" for service in services}
    files = {target: _target(config, target, list(names.values()))}
    for service in services:
        files[names[service.name]] = _service(config, service, target=target, user=user)
    return files


def _target(config: Beamline, target: str, names: Sequence[str]) -> str:
    return f"""\
{_HEAD} (offbragg {_version()}): all services of one beamline.
# sudo cp offbragg-* /etc/systemd/system/ && sudo systemctl daemon-reload
# sudo systemctl enable --now {target}
# All of it is restarted and ended by this name, too; {names[0]} is one alone.
[Unit]
Description=offbragg, beamline {_escaped(config.beamline_id)}
Wants={" ".join(names)}

[Install]
WantedBy=multi-user.target
"""


def _service(config: Beamline, service: Service, *, target: str, user: str) -> str:
    arguments = [sys.executable, "-m", *service.arguments(config)]
    words = [_quoted(arguments[0]), *(_quoted(word, variables=True) for word in arguments[1:])]
    more = "".join(f"{line}\n" for line in service.unit)
    return f"""\
{_HEAD} (offbragg {_version()}), started by {target}
[Unit]
Description=offbragg {service.name}, beamline {_escaped(config.beamline_id)}: {service.what}
PartOf={target}
After=network.target time-sync.target
# not before the disks are there: else files would go into the empty mount points
RequiresMountsFor={" ".join(_quoted(str(path)) for path in _places(config))}
# tried again for ever, …
StartLimitIntervalSec=0

[Service]
User={_escaped(user)}
ExecStart={" ".join(words)}
Restart=always
RestartSec={_RESTART_SEC}
# … but for an error in the configuration: mend it, then start the unit again
RestartPreventExitStatus={" ".join(map(str, USER_ERRORS))}
KillMode=mixed
TimeoutStopSec={STOP_TIMEOUT:g}
{more}"""


def containerfile(config: Beamline, services: Sequence[Service]) -> str:
    """Return a Containerfile whose image runs ``offbragg up`` with the versions of constraints.txt.

    It is built in a folder with ``constraints.txt`` and offbragg's wheel; see `constraints`.
    """
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    mounts = " ".join(f"-v {shlex.quote(f'{path}:{path}')}" for path in _mounts(config))
    only = ",".join(service.name for service in services)
    file = config.file
    return f"""\
{_HEAD} (offbragg {_version()})
# Beside it: constraints.txt, and offbragg's wheel. In a checkout: pip wheel --no-deps -w DIR .
#   podman build -t offbragg DIR
#   podman run --init --network=host --userns=keep-id --tz=local \\
#     --restart=on-failure:5 --stop-timeout={STOP_TIMEOUT + 5:g} {mounts} offbragg
# Paths are the same inside and outside, so that {file.name} and the scan files' links hold; they
# must exist. The zone is that of the host: dates in frame headers name none. Where SELinux is on,
# add --security-opt label=disable.
FROM docker.io/library/python:{python}-slim
COPY constraints.txt offbragg-*.whl /tmp/offbragg/
RUN pip install --no-cache-dir -c /tmp/offbragg/constraints.txt \\
      "offbragg[catalog] @ file://$(echo /tmp/offbragg/offbragg-*.whl)" \\
    && rm -r /tmp/offbragg
STOPSIGNAL SIGTERM
ENTRYPOINT ["offbragg", "up"]
CMD [{", ".join(json.dumps(word) for word in ("--beamline", str(file), "--only", only))}]
"""


def constraints() -> str:
    """Return the versions of everything that offbragg installs with which it was tested.

    Raises
    ------
    ConfigError
        If the installed package lacks them.
    """
    here = Path(__file__).resolve().parents[1]
    for place in (here / "known_good", here.parents[1] / ".ci"):
        if (place / "constraints.txt").is_file():
            return (place / "constraints.txt").read_text()
    raise ConfigError(f"constraints.txt does not lie below {here}: install offbragg again")


def write(files: Mapping[str, str], directory: Path) -> list[Path]:
    """Write files into a directory; those that ``offbragg units`` wrote before are replaced.

    Raises
    ------
    ConfigError
        If a file of the same name was not written by offbragg units, or none can be written;
        nothing is written then.
    """
    paths = [directory / name for name in files]
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for path in paths:
            if path.exists() and not _is_ours(path):
                raise ConfigError(
                    f"{path} exists, and offbragg units did not write it\n"
                    "Remove it, or give another --output."
                )
        for path, text in zip(paths, files.values(), strict=True):
            path.write_text(text)
    except OSError as error:
        raise ConfigError(f"{error.filename or directory}: {error.strerror}") from error
    return paths


def _is_ours(path: Path) -> bool:
    return path.read_text(errors="replace").startswith((_HEAD, _CONSTRAINTS_HEAD))


def _places(config: Beamline) -> list[Path]:
    return sorted({config.file.resolve(), *(path.resolve() for _, path in config.paths)})


def _mounts(config: Beamline) -> list[Path]:
    """Return the directories to mount: of those that lie in each other, the outer one.

    A directory behind a link is mounted as it is named, and where it is: files name both.
    """
    named = {config.file.parent, config.file.resolve().parent, *(path for _, path in config.paths)}
    directories = sorted(named | {path.resolve() for path in named})
    return [d for d in directories if not any(o in d.parents for o in directories)]


def _escaped(text: str) -> str:
    """Write what systemd would replace (``%``), or end a line with, as it is meant."""
    return "".join(c if c.isprintable() else "_" for c in text).replace("%", "%%")


def _quoted(text: str, *, variables: bool = False) -> str:
    """Quote one word of a unit; with ``variables``, where systemd replaces ``$NAME``, too."""
    if not text.isprintable():
        raise ConfigError(f"{text!r} has a character that cannot stand in a unit of systemd")
    text = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    if variables:
        text = text.replace("$", "$$")
    return text if re.fullmatch(r"[A-Za-z0-9/_.:,=%+@-]+", text) else f'"{text}"'


def _version() -> str:
    try:
        return version("offbragg")
    except PackageNotFoundError:
        return "of an unknown version"
