"""Model files of other programs, found out by what they hold and not by their names.

Each becomes the document that a model in JSON is (see `Geometry.from_model`). One in JSON may take
what it does not have from one of the others: ``{"from": "calibration.poni", …}``.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np

from offbragg.errors import ConfigError, GeometryError
from offbragg.files.model_dials import is_dials, read_dials
from offbragg.files.model_imgcif import MAGIC, read_imgcif
from offbragg.files.model_nxrefine import ROTATION, read_nxrefine
from offbragg.files.model_pyfai import MOUNT, is_pyfai, read_pyfai
from offbragg.files.model_ub import with_UB
from offbragg.files.model_xds import is_xds, read_xds

_HDF5 = b"\x89HDF\r\n\x1a\n"
_MOST_HEADER = 1 << 20  # bytes before the pixels of a CBF file
_MOST = 64 * 1024 * 1024  # bytes; a refined .expt of a long sweep has a crystal for each frame


def read_document(path: Path) -> tuple[str, Any]:
    """Read a model file of any format.

    Returns
    -------
    text
        All that was read, also of the file that it takes the rest from.
    document
        As in JSON.

    Raises
    ------
    ConfigError
        If it cannot be read, or is not a model of one panel, one goniometer and one sweep.
    """
    text, document = _read(path, {})
    if not isinstance(document, dict):
        return text, document
    own = cast(dict[str, Any], document)
    if "from" in own:
        other = own.pop("from")
        if not isinstance(other, str) or not other:
            raise ConfigError(f"{path} has from {other!r:.200}: it must be the name of a file")
        source = path.parent / other
        more, rest = _read(source, own)
        if not isinstance(rest, dict) or "from" in rest:
            raise ConfigError(f"{source} is not a model from which {path} can take the rest")
        own.pop(ROTATION, None)
        text, own = text + more, _merged(own, cast(dict[str, Any], rest), path, source)
    if "UB" in own:
        with _named(path):
            own = with_UB(own)
    return text, own


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Name the file in errors, and make one of ours of whatever a broken file leads to."""
    try:
        yield
    except GeometryError as error:
        raise ConfigError(f"{path}: {error}") from error
    except (
        AttributeError, LookupError, TypeError, ValueError, OverflowError, np.linalg.LinAlgError
    ) as error:  # fmt: skip
        raise ConfigError(
            f"{path} is not a model of a sweep: {type(error).__name__}, {str(error)[:150]}"
        ) from error


def _read(path: Path, own: Mapping[str, Any]) -> tuple[str, Any]:
    try:
        if path.stat().st_size > _MOST:
            raise ConfigError(
                f"{path} is not a model of a sweep: it has {path.stat().st_size / 1e6:.0f} MB"
            )
        if _begins(path, MAGIC):
            with _named(path), path.open("rb") as file:
                document = read_imgcif(file.read(_MOST_HEADER))
            return json.dumps(document), document
        if _begins(path, _HDF5):
            with _named(path):
                document = read_nxrefine(path, own)
            return json.dumps(document), document
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:  # it has the whole file within
        raise ConfigError(
            f"{path} is not a model of a sweep: it is not JSON (byte {error.start} is not text)"
        ) from None
    with _named(path):
        if is_xds(text):
            return text, read_xds(text)
        if is_pyfai(text):
            return text, read_pyfai(text, own)
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f"{path} is not a model of a sweep: it is not JSON ({str(error)[:100]}), and not of "
            "pyFAI, XDS, NXRefine or imgCIF"
        ) from error
    with _named(path):
        return text, read_dials(document) if is_dials(document) else document


def _begins(path: Path, magic: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(magic)) == magic


def _merged(own: dict[str, Any], rest: dict[str, Any], path: Path, source: Path) -> dict[str, Any]:
    """Join two documents; what both have would be a question without an answer."""
    inner: dict[str, Any] = {}
    for key in ("goniometer",):
        if isinstance(own.get(key), dict) and isinstance(rest.get(key), dict):
            inner[key] = _merged(own.pop(key), rest.pop(key), path, source)
    for key in own.keys() & rest.keys():
        if key not in MOUNT or rest.get("format") != "pyFAI":
            raise ConfigError(
                f"{path} has {key} {own[key]!r:.100}, and {source} {rest[key]!r:.100}: "
                "one of the two must go"
            )
    return own | rest | inner
