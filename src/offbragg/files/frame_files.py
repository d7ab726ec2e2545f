"""Where the frame files of a run are: by its documents, or in the run's own folder.

A RunEngine that dies between arming the detector and its first ``stream_resource`` leaves no word
of where the frames are, and the camera server writes every one of them. The folder is known all
the same: it is named after the run's uid, and the descriptor of the frames may have its path.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote, urlparse

from offbragg.errors import MetadataError, RejectedFrame
from offbragg.sample import check_component

FRAME_SEQUENCES = ("multipart/related;type=image/x-cbf", "multipart/related;type=image/tiff")

_LONGEST_NAME = 255  # characters that a file system takes
_TEMPLATE = re.compile(r"(?:[^{}]|\{\{|\}\})*\{:0?\d{0,2}d\}(?:[^{}]|\{\{|\}\})*")
_FRAME = re.compile(r"(.*?)(\d{1,18})\.(cbf|tiff?)")
_MOST_NAMES = 5  # of files that are listed in a message


class FrameFiles:
    """Where the frames of one sweep are, from its ``stream_resource``.

    Parameters
    ----------
    doc
        The document.
    root
        What the frames must lie below, every name on the way being a plain one; None if anything
        is believed.

    Raises
    ------
    RejectedFrame
        If they do not.
    """

    def __init__(self, doc: Mapping[str, Any], root: Path | None = None) -> None:
        self.directory = Path(unquote(urlparse(str(doc["uri"])).path))
        self.template: str = str(doc["parameters"]["template"]).lstrip("/")
        self._root = None if root is None else root.resolve()
        single = doc["parameters"].get("n_frames") == 1
        if not _TEMPLATE.fullmatch(self.template) and not (single and _is_a_name(self.template)):
            raise RejectedFrame(
                f"the frames are called {self.template!r}: one {{:05d}}, and no other braces, "
                "stands for their number"
            )
        self.first: int = doc["parameters"].get("first_number", 0)  # in the name of frame 0
        self.began: float | None = doc["parameters"].get("exposure_started")
        if root is not None:
            self._check(root)

    def path(self, number: int) -> Path:
        """Return where a frame's file is, or will be."""
        return self.directory / self.template.format(self.first + number)

    def holds(self, path: Path) -> bool:
        """Return whether a file lies where frames may, with every link on the way followed."""
        return self._root is None or path.resolve().is_relative_to(self._root)

    def _check(self, root: Path) -> None:
        place = f"frames in {str(self.directory)!r}"
        try:
            inside = self.holds(self.directory)
            below = root if self.directory.is_relative_to(root) else root.resolve()
            parts = self.directory.relative_to(below).parts
            for name in (*parts, self.template.format(self.first)):
                check_component(name, place, longest=_LONGEST_NAME)
        except (ValueError, OSError, MetadataError, RuntimeError) as error:
            inside, why = False, str(error) if isinstance(error, MetadataError) else ""
        else:
            why = ""
        if not inside:
            raise RejectedFrame(why or f"{place} are not below {root}: they are not read")

    def others(self, n_frames: int) -> list[str]:
        """List frame files beside those of the sweep: more than it has, or of another name."""
        own = {self.template.format(self.first + number) for number in range(n_frames)}
        return sorted(name for name, *_ in _frames_in(self.directory) if name not in own)

    def exposure_began(self, number: int, sweep: Any, written: float) -> float:
        """When the exposure of a frame began, POSIX s.

        From when the detector was armed where that is known, else from when the file was
        written.
        """
        if self.began is not None:
            return self.began + number * sweep.period
        return written - sweep.exposure


def _is_a_name(template: str) -> bool:
    """Return whether a template has no field, and so names one file."""
    return re.fullmatch(r"(?:[^{}]|\{\{|\}\})+", template) is not None


def frame_files(
    start: Mapping[str, Any],
    documents: Iterable[tuple[str, Mapping[str, Any]]],
    search: Path | None = None,
) -> FrameFiles | None:
    """Find where the frame files of a run are, or were; None if they are not known.

    Parameters
    ----------
    start, documents
        Of the run.
    search
        Where its folder is looked for if no document names it.
    """
    descriptors: list[Mapping[str, Any]] = []
    for name, doc in documents:
        if name == "stream_resource" and doc.get("mimetype") in FRAME_SEQUENCES:
            return FrameFiles(doc)
        if name == "descriptor":
            descriptors.append(doc)
    files: Any = start.get("files")  # of a folder that was stacked without a run
    if isinstance(files, dict) and {"directory", "template"} <= files.keys():
        directory = Path(str(cast(dict[str, Any], files)["directory"]))
        return FrameFiles({"uri": directory.as_uri(), "parameters": files})  # with first_number
    return find_run_folder(start, descriptors, search)


def find_run_folder(
    start: Mapping[str, Any],
    descriptors: Iterable[Mapping[str, Any]],
    search: Path | None,
    root: Path | None = None,
) -> FrameFiles | None:
    """Find the folder of a run whose documents do not say where its frames are.

    The folder has the first eight characters of the run's uid as its name, and "-2" … after them
    if there was one of that name. A descriptor may have its path in the detector's configuration,
    as the detector's computer sees it.

    Parameters
    ----------
    start, descriptors
        Of the run.
    search
        The directory that such folders are in; without it only the descriptors tell.
    root
        As of `FrameFiles`.

    Returns
    -------
    files
        None if the folder is missing or holds no frame yet.

    Raises
    ------
    RejectedFrame
        If it is not below the root.
    """
    stem = str(start["uid"])[:8]
    named = re.compile(re.escape(stem) + r"(?:-(\d{1,3}))?")
    places = list(_configured(descriptors, named, search))
    if search is not None:
        places += _folders(search, named)
    for place in places:
        if place.is_dir():
            return _in_folder(place, start, root)
    return None


def is_own_folder(directory: Path, start: Mapping[str, Any]) -> bool:
    """Whether a folder is named after a run, so that all that is in it belongs to this run."""
    return directory.name.startswith(str(start["uid"])[:8])


def describe_others(files: FrameFiles, start: Mapping[str, Any], n_frames: int) -> str:
    """Name the frame files in a run's own folder that are not of its sweep; empty without any."""
    if not is_own_folder(files.directory, start):
        return ""
    others = files.others(n_frames)
    if not others:
        return ""
    names = ", ".join(others[:_MOST_NAMES]) + (" …" if len(others) > _MOST_NAMES else "")
    what = "frame file is" if len(others) == 1 else "frame files are"
    return (
        f"{len(others)} more {what} in the run's folder, and not among the {n_frames} of its "
        f"sweep: {names} ({files.directory})"
    )


def _configured(
    descriptors: Iterable[Mapping[str, Any]], named: re.Pattern[str], search: Path | None
) -> Iterator[Path]:
    """Return the paths that configurations have and that end in the run's folder."""
    for doc in descriptors:
        configuration: dict[str, Any] = doc.get("configuration") or {}
        for values in configuration.values():
            data: dict[str, Any] = values.get("data") or {}
            for value in data.values():
                if not isinstance(value, str) or not named.fullmatch(Path(value).name):
                    continue
                parts = [part for part in Path(value).parts if part not in ("/", "..")]
                if search is not None:  # the same folder as this host sees it
                    yield from (search.joinpath(*parts[-n:]) for n in range(1, len(parts) + 1))
                if Path(value).is_absolute():
                    yield Path(value)


def _folders(search: Path, named: re.Pattern[str]) -> list[Path]:
    """Return the folders of a name; the last one that was made first."""
    found: list[tuple[int, str]] = []
    try:
        with os.scandir(search) as entries:
            for entry in entries:
                if match := named.fullmatch(entry.name):
                    found.append((int(match[1] or 1), entry.path))
    except OSError:
        return []
    return [Path(path) for _, path in sorted(found, reverse=True)]


def _in_folder(directory: Path, start: Mapping[str, Any], root: Path | None) -> FrameFiles | None:
    """Find what the frames in a folder are called: most of them, if it holds several kinds."""
    detector: dict[str, Any] = start.get("detector") or {}
    expected = f"{directory.name}_", str(detector.get("format", "cbf"))
    kinds: dict[tuple[str, str], list[str]] = {}
    for _, prefix, digits, suffix in _frames_in(directory):
        kinds.setdefault((prefix, suffix), []).append(digits)
    if not kinds:
        return None
    kind = expected if expected in kinds else max(kinds, key=lambda kind: len(kinds[kind]))
    prefix, suffix = kind
    name = prefix.replace("{", "{{").replace("}", "}}")
    parameters = {"template": f"{name}{{:0{min(map(len, kinds[kind]))}d}}.{suffix}"}
    return FrameFiles({"uri": directory.absolute().as_uri(), "parameters": parameters}, root)


def _frames_in(directory: Path) -> Iterator[tuple[str, str, str, str]]:
    """Return name, and what is before, in and after the number, of each frame file in a folder."""
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                if match := _FRAME.fullmatch(entry.name):
                    yield entry.name, match[1], match[2], match[3]
    except OSError:
        return
