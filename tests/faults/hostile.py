"""HDF5 files that lead out of where they lie, in every way that HDF5 knows and some more."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

SECRET = 7_355_608_244_519  # every value of the secret
LENGTH = 10


@dataclass(frozen=True)
class Places:
    """Where files are."""

    served: Path
    """What may be read."""
    secret: Path
    """A directory beside it."""
    cwd: Path
    """Where the server was started; it holds secrets too."""

    @classmethod
    def make(cls, base: Path) -> Places:
        places = cls(base / "served", base / "secret", base / "cwd")
        for place in (places.served, places.secret, places.cwd):
            (place / "deep").mkdir(parents=True)
        values = np.full(LENGTH, SECRET, np.int64)
        for place in (places.secret, places.cwd):
            for name in ("hidden.h5", "a%b.h5", "part-0.h5", "deep/hidden.h5", "deep/part-0.h5"):
                with h5py.File(place / name, "w") as file:
                    file["data"] = values
                    file["group/data"] = file["block-0"] = values
            (place / "raw").write_bytes(values.tobytes())
        with h5py.File(places.served / "good.h5", "w") as file:
            file["data"] = np.arange(LENGTH, dtype=np.int64)
        for place in (places.served, places.cwd):  # HDF5 looks for raw data from the latter
            (place / "out").symlink_to(places.secret)
            (place / "innocent.h5").symlink_to(places.secret / "hidden.h5")
            (place / "innocent-raw").symlink_to(places.secret / "raw")
        os.mkfifo(places.served / "pipe.h5")
        return places


Name = Callable[[Places, str], str]

NAMES: dict[str, Name] = {
    "absolute": lambda places, name: str(places.secret / name),
    "doubled-slash": lambda places, name: f"/{places.secret / name}",
    "up": lambda places, name: f"../secret/{name}",
    "down-and-up": lambda places, name: f"deep/../../secret/{name}",
    "working-directory": lambda places, name: name,
    "dot-working-directory": lambda places, name: f"./{name}",
    "deep-working-directory": lambda places, name: f"deep/{name}" if name == "hidden.h5" else name,
    "by-proc": lambda places, name: f"/proc/self/cwd/{name}",
    "up-by-proc": lambda places, name: f"../cwd/{name}",
    "linked-directory": lambda places, name: f"out/{name}",
    "linked-file": lambda places, name: "innocent.h5" if name == "hidden.h5" else "innocent-raw",
    "percent": lambda places, name: "a%b.h5" if name == "hidden.h5" else name,
    "absolute-percent": lambda places, name: str(
        places.secret / ("a%b.h5" if name == "hidden.h5" else name)
    ),
    "pipe": lambda places, name: "pipe.h5",
}

Make = Callable[[h5py.Group, str, str], None]


def external_link(group: h5py.Group, name: str, target: str) -> None:
    group[name] = h5py.ExternalLink(target, "/data")


def external_link_to_group(group: h5py.Group, name: str, target: str) -> None:
    group[f"{name}-way"] = h5py.ExternalLink(target, "/group")
    group[name] = h5py.SoftLink(f"{group.name}/{name}-way/data")


def virtual(group: h5py.Group, name: str, target: str) -> None:
    layout = h5py.VirtualLayout((LENGTH,), "i8")
    layout[:] = h5py.VirtualSource(target.replace("%", "%%"), "data", (LENGTH,))
    group.create_virtual_dataset(name, layout)


def virtual_in_part(group: h5py.Group, name: str, target: str) -> None:
    layout = h5py.VirtualLayout((2 * LENGTH,), "i8")
    layout[:LENGTH] = h5py.VirtualSource("good.h5", "data", (LENGTH,))
    layout[LENGTH:] = h5py.VirtualSource(target.replace("%", "%%"), "data", (LENGTH,))
    group.create_virtual_dataset(name, layout)


def virtual_by_pattern(group: h5py.Group, name: str, target: str) -> None:
    """Blocks of a dataset without end, each in the file that the pattern names."""
    pattern = target.replace("%", "%%").replace("hidden.h5", "part-%b.h5")
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    unlimited = h5py.h5s.UNLIMITED
    into = h5py.h5s.create_simple((LENGTH,), (unlimited,))
    into.select_hyperslab((0,), (unlimited,), (LENGTH,), (LENGTH,))
    source = h5py.h5s.create_simple((LENGTH,))
    plist.set_virtual(into, pattern.encode(), b"/block-%b", source)
    h5py.h5d.create(group.id, name.encode(), h5py.h5t.STD_I64LE, into, dcpl=plist)


def external_storage(group: h5py.Group, name: str, target: str) -> None:
    files = [(target, 0, 8 * LENGTH)]
    group.create_dataset(name, (LENGTH,), "i8", external=files)


KINDS: dict[str, tuple[Make, str]] = {
    "external-link": (external_link, "hidden.h5"),
    "external-link-to-group": (external_link_to_group, "hidden.h5"),
    "virtual": (virtual, "hidden.h5"),
    "virtual-in-part": (virtual_in_part, "hidden.h5"),
    "virtual-by-pattern": (virtual_by_pattern, "hidden.h5"),
    "external-storage": (external_storage, "raw"),
}

Place = Callable[[Path, Make, str], None]


def plainly(path: Path, make: Make, target: str) -> None:
    with h5py.File(path, "w", libver="latest") as file:
        make(file, "data", target)


def behind_soft_links(path: Path, make: Make, target: str) -> None:
    with h5py.File(path, "w", libver="latest") as file:
        make(file.create_group("entry/deep"), "there", target)
        file["again"] = h5py.SoftLink("entry")
        file["data"] = h5py.SoftLink("/again/deep/there")


def by_way_of_a_good_file(path: Path, make: Make, target: str) -> None:
    """The link itself is one of those that are followed; where it leads is another."""
    way = path.with_name(f"way-{path.name}")
    plainly(way, make, target)
    with h5py.File(path, "w", libver="latest") as file:
        file["data"] = h5py.ExternalLink(way.name, "/data")


PLACES: dict[str, Place] = {
    "plainly": plainly,
    "behind-soft-links": behind_soft_links,
    "by-way-of-a-good-file": by_way_of_a_good_file,
}


def hostile_files(places: Places) -> Iterator[tuple[str, Path]]:
    """Make every kind of file; each has a dataset /data that leads out."""
    for (kind, (make, name)), (spelling, spell), (where, put) in itertools.product(
        KINDS.items(), NAMES.items(), PLACES.items()
    ):
        path = places.served / f"{kind}_{spelling}_{where}.h5"
        put(path, make, spell(places, name))
        yield path.stem, path


def shape_of(name: str) -> tuple[int, ...]:
    """Return the shape that a client would ask for."""
    return (2 * LENGTH if name.startswith("virtual-in-part") else LENGTH,)


def leaks(answer: bytes) -> bool:
    """Whether an answer holds a secret, as bytes or in words."""
    return np.int64(SECRET).tobytes() in answer or str(SECRET).encode() in answer
