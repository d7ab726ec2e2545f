"""Pilatus CBF files: one byte-offset compressed frame with a miniCBF header.

Everything that a file says about its own size is checked against the file before anything
is allocated. The pixels are decoded by fabio; the checksum, which fabio and DIALS leave
unused, decides whether they are believed.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from offbragg.errors import FrameError, IncompleteFrame, RejectedFrame
from offbragg.files.compressed import MOST_UNPACKED, check_surplus, is_packed, unpacked
from offbragg.frame import Frame

_MAGIC = b"###CBF"
_STARTER = b"\x0c\x1a\x04\xd5"
_SECTION = b"--CIF-BINARY-FORMAT-SECTION--"
_SECTION_END = b"--CIF-BINARY-FORMAT-SECTION----"
_HEADER_LIMIT = 16 << 20  # bytes of text before the pixels; real ones have 1 to 10 thousand
_CONVERSIONS = re.compile(r'conversions\s*=\s*"?([\w-]+)', re.IGNORECASE)
_ELEMENT_TYPE = re.compile(r'X-Binary-Element-Type:\s*"([^"\r\n]{0,60})"', re.IGNORECASE)
_PROMISES = re.compile(
    r"X-Binary-(Size|Size-Fastest-Dimension|Size-Second-Dimension|Number-of-Elements)"
    r":\s*(\d{1,15})\b",
    re.IGNORECASE,
)
_CONTENT_MD5 = re.compile(r"Content-MD5:[ \t]*(?:\r?\n[ \t]+)?([^\s;]*)", re.IGNORECASE)
_DATA_NAME = re.compile(r"^data_(\S{1,255})\s*$", re.MULTILINE)
_PIXEL_LIMIT = 1 << 26  # six times a Pilatus 6M
_BLOCK = 1 << 16
_HEAD = 1 << 13  # bytes; most headers fit
_BEHIND = 8192  # bytes behind the pixels that are looked through for the section's end
_MOST_PER_PIXEL = 15  # bytes
_TAIL = bytes(range(1, 15))


def read_cbf(path: Path | str, *, number: int, shape: tuple[int, int] | None = None) -> Frame:
    """Read one CBF file; see `offbragg.files.read_frame`."""
    path = Path(path)
    with path.open("rb") as raw:
        return read_cbf_from(raw, path, number=number, shape=shape)


def read_cbf_from(
    raw: IO[bytes], path: Path, *, number: int, shape: tuple[int, int] | None = None
) -> Frame:
    """Read a CBF file that is open; its path says how it is packed."""
    where = f"frame {number}: {path.name}"
    with unpacked(raw, path, where=where) as file:
        before, rest = _header(file, where)
        text, section = _split(before)
        rows, columns, size = _promised(section, where, shape)
        if is_packed(path):
            _check_unpacked(size, where)
        stream = rest + file.read(max(0, size + _BEHIND - len(rest)))
        if is_packed(path):
            check_surplus(file, where=where)
    found = _section(memoryview(stream), text, section, (rows, columns, size), where)
    if found.declared is not None:
        found.believe(hashlib.md5(found.packed, usedforsecurity=False).digest(), where)
    return Frame(
        number=number,
        counts=_decode(found.packed, rows * columns, where).reshape(rows, columns),
        header=header_of(text),
        md5=None if found.declared is None else found.declared.hex(),
        verified=found.declared is not None,
    )


def read_cbf_head(path: Path) -> tuple[dict[str, Any], tuple[int, int]]:
    """Read the header of a CBF file, with its ``data_name``, and what shape it promises."""
    with path.open("rb", buffering=0) as raw, unpacked(raw, path, where=path.name) as file:
        text, section = _split(_header(file, path.name, block=_HEAD)[0])
    rows, columns, _ = _promised(section, path.name, None)
    return header_of(text), (rows, columns)


def header_of(text: str) -> dict[str, Any]:
    """Read what stands before the pixels of a CBF file: the header, with its ``data_name``."""
    header = parse_minicbf_header(text)
    if name := _DATA_NAME.search(text):
        header["data_name"] = name[1]  # a camserver names it after the file that it writes
    return header


def read_packed_cbf(file: IO[bytes], *, where: str, shape: tuple[int, int]) -> bytes:
    """Read as much of an unpacked CBF file of a known shape as matters, to be decoded later.

    Raises
    ------
    RejectedFrame
        If it claims, or has, more than a frame of this shape can.
    """
    head = file.read(_BLOCK)
    _check_magic(head[: len(_MAGIC)], where)
    most = most_bytes(shape)
    end = promised_end(head)
    wanted = most if end is None else end
    if wanted > most:
        return head  # `binary_section` finds the lie in it
    found = head + file.read(max(0, wanted - len(head)))
    check_surplus(file, where=where)
    return found


def _check_unpacked(size: int, where: str) -> None:
    if size > MOST_UNPACKED:
        raise RejectedFrame(
            f"{where} claims {size} bytes of pixels: of a packed file at most {MOST_UNPACKED} "
            "are believed"
        )


@dataclass(frozen=True, slots=True)
class BinarySection:
    """The compressed pixels of a CBF file, all of them, and what is declared of them."""

    text: str
    """Of the file before its binary section."""
    shape: tuple[int, int]
    packed: memoryview
    declared: bytes | None
    ended: bool

    def believe(self, md5: bytes, where: str) -> None:
        """Refuse the section unless its MD5 is the declared one."""
        if self.declared is None or md5 == self.declared:
            return
        if not self.ended:
            raise IncompleteFrame(f"{where} is being written: its binary section has no end yet")
        raise RejectedFrame(
            f"{where} does not have the checksum that it declares (MD5 {self.declared.hex()}): "
            "copy it again from its source"
        )


def binary_section(
    file: memoryview, *, where: str, shape: tuple[int, int] | None = None
) -> BinarySection:
    """Find the pixels in a CBF file that is in memory.

    Parameters
    ----------
    file
        The file, or its first `most_bytes`.
    where
        What messages begin with.
    shape
        As in `offbragg.files.read_frame`.

    Raises
    ------
    IncompleteFrame, RejectedFrame
        As `offbragg.files.read_frame` does. The checksum and the pixels are not looked at.
    """
    _check_magic(bytes(file[: len(_MAGIC)]), where)
    head = bytes(file[:_BLOCK])
    if (at := head.find(_STARTER)) < 0:
        head = bytes(file[: _HEADER_LIMIT + _BLOCK])
        at = head.find(_STARTER)
    if at < 0:
        if len(file) > _HEADER_LIMIT:
            raise RejectedFrame(f"{where} has no pixels in its first {_HEADER_LIMIT} bytes")
        raise IncompleteFrame(f"{where} ends in its header, after {len(file)} bytes")
    text, section = _split(head[:at])
    promised = _promised(section, where, shape)
    start = at + len(_STARTER)
    stream = file[start : start + promised[2] + _BEHIND]
    return _section(stream, text, section, promised, where)


def declared_md5(path: Path) -> str | None:
    """Read the MD5 that a file declares for its pixels, hex; nothing else of it is looked at.

    Returns
    -------
    md5
        None if there is none in its first 64 kB, as in a TIFF; empty if it is not an MD5.
    """
    try:
        with path.open("rb") as raw, unpacked(raw, path, where=path.name) as file:
            head = file.read(_BLOCK)
    except FrameError:
        return ""
    declared = re.search(rb"Content-MD5:[ \t]*(?:\r?\n[ \t]+)?([^\s;]*)", head, re.IGNORECASE)
    try:
        return None if declared is None else base64.b64decode(declared[1], validate=True).hex()
    except ValueError:
        return ""


def most_bytes(shape: tuple[int, int]) -> int:
    """Return the limit on the bytes of a file that has frames of this shape."""
    return _HEADER_LIMIT + _BLOCK + _MOST_PER_PIXEL * shape[0] * shape[1] + _BEHIND


def promised_end(head: bytes) -> int | None:
    """Read from the beginning of a file how many of its bytes are needed; None if unknown."""
    at = head.find(_STARTER)
    size = re.search(rb"X-Binary-Size:\s*(\d{1,15})\b", head[: max(at, 0)], re.IGNORECASE)
    return None if size is None else at + len(_STARTER) + int(size[1]) + _BEHIND


def _section(
    stream: memoryview, text: str, section: str, promised: tuple[int, int, int], where: str
) -> BinarySection:
    rows, columns, size = promised
    if len(stream) < size:
        raise IncompleteFrame(f"{where} has {len(stream)} of {size} bytes of pixels")
    ended = _SECTION_END in bytes(stream[size:])
    declared = _content_md5(section, where)
    if declared is None and not ended:
        raise IncompleteFrame(f"{where} has neither a checksum nor the end of its binary section")
    return BinarySection(text, (rows, columns), stream[:size], declared, ended)


def _check_magic(head: bytes, where: str) -> None:
    if head != _MAGIC[: len(head)]:
        raise RejectedFrame(f"{where} is not a CBF file: it begins with {head!r}")


def _split(before: bytes) -> tuple[str, str]:
    """Text before the binary section, and that section's own header."""
    text, _, section = before.rpartition(_SECTION)
    return text.decode("latin-1"), section.decode("latin-1")


def _header(file: IO[bytes], where: str, *, block: int = _BLOCK) -> tuple[bytes, bytes]:
    """Everything before the pixels, and those bytes of them that came with it."""
    head = file.read(block)
    _check_magic(head[: len(_MAGIC)], where)
    blocks, length, tail = [head], len(head), b""
    while _STARTER not in tail + blocks[-1]:
        if length > _HEADER_LIMIT:
            raise RejectedFrame(f"{where} has no pixels in its first {length} bytes")
        tail = blocks[-1][-len(_STARTER) + 1 :]
        blocks.append(file.read(block))
        if not blocks[-1]:
            raise IncompleteFrame(f"{where} ends in its header, after {length} bytes")
        length += len(blocks[-1])
    before, _, rest = b"".join(blocks).partition(_STARTER)
    return before, rest


def _promised(section: str, where: str, shape: tuple[int, int] | None) -> tuple[int, int, int]:
    """Rows, columns and compressed size, if the file's promises agree with each other."""
    kind = _CONVERSIONS.search(section)
    if kind is None or kind[1].upper() != "X-CBF_BYTE_OFFSET":
        raise RejectedFrame(
            f"{where} is compressed as {kind[1] if kind else 'nothing named'}: "
            "only x-CBF_BYTE_OFFSET is read"
        )
    element = _ELEMENT_TYPE.search(section)
    if element is not None and element[1].lower() != "signed 32-bit integer":
        raise RejectedFrame(
            f"{where} has pixels of type {element[1]!r}: only signed 32-bit integers are read"
        )

    promises: dict[str, str] = {}
    for found in _PROMISES.finditer(section):
        promises.setdefault(found[1].lower(), found[2])  # the first one counts

    def promise(name: str) -> int:
        if name.lower() not in promises:
            raise RejectedFrame(f"{where} does not say X-Binary-{name}")
        return int(promises[name.lower()])

    size = promise("Size")
    columns, rows = promise("Size-Fastest-Dimension"), promise("Size-Second-Dimension")
    if shape is not None and (rows, columns) != tuple(shape):
        raise RejectedFrame(
            f"{where} has {rows} rows × {columns} columns: expected {shape[0]} × {shape[1]}"
        )
    elements = promise("Number-of-Elements")
    if elements != rows * columns:
        raise RejectedFrame(f"{where} claims {elements} pixels in {rows} rows × {columns} columns")
    if not 0 < elements <= _PIXEL_LIMIT:
        raise RejectedFrame(f"{where} claims {elements} pixels: 1 to {_PIXEL_LIMIT} are believed")
    # byte-offset: a pixel takes 1 byte at least, 1 + 2 + 4 + 8 at most
    if not elements <= size <= _MOST_PER_PIXEL * elements:
        raise RejectedFrame(f"{where} claims {elements} pixels in {size} bytes: that cannot be")
    return rows, columns, size


def _content_md5(section: str, where: str) -> bytes | None:
    found = _CONTENT_MD5.search(section)
    if found is None:
        return None
    try:
        digest = base64.b64decode(found[1], validate=True)
    except (binascii.Error, ValueError):
        digest = b""
    if len(digest) != 16:
        raise RejectedFrame(f"{where} declares the MD5 {found[1][:40]!r}: that is not a checksum")
    return digest


def _decode(packed: memoryview, elements: int, where: str) -> NDArray[np.int32]:
    # The decoder reads behind the end of a stream that ends within an escape. A tail of known
    # small steps is put there: unless it comes out whole, right behind the last pixel, the
    # stream does not hold the claimed number of pixels (an escape that swallows some of it has
    # one of these bytes as its highest, and so is none of these steps).
    # this import costs who reads no frame 0.1 s
    from fabio import compression  # pyright: ignore[reportMissingTypeStubs]

    decode = cast(Any, compression).decByteOffset
    stream = b"".join((packed, _TAIL))
    counts = np.asarray(decode(stream, elements + len(_TAIL) + 1, "int32"))
    head = counts[:elements]
    # The 32-bit decoder wraps silently, and reads an 8-byte step as one of −2³¹. From a value
    # within ±2³⁰ any such step lands outside ±2³⁰, so only then the 64-bit one is needed.
    if head.size and (head.max() >= 1 << 30 or head.min() <= -(1 << 30)):
        counts = np.asarray(decode(stream, elements + len(_TAIL) + 1, "int64"))
        head = counts[:elements]
        limits = np.iinfo(np.int32)
        if head.size and (head.max() > limits.max or head.min() < limits.min):
            raise RejectedFrame(f"{where} has pixels that do not fit in 32 bits")
    if counts.size != elements + len(_TAIL) or not np.array_equal(
        np.diff(counts[elements - 1 :]), list(_TAIL)
    ):
        raise RejectedFrame(f"{where} does not decode to the {elements} pixels that it claims")
    return head.astype(np.int32, copy=False)


def content_md5(counts: NDArray[np.int32]) -> str:
    """MD5 (hex) that a Pilatus declares for these counts.

    Byte-offset coding is unique for what a Pilatus writes, so pixels that were stored can be
    held against the checksum of the file they came from, long after that file is gone.
    """
    from fabio import compression  # pyright: ignore[reportMissingTypeStubs]

    encode = cast(Any, compression).compByteOffset
    packed = encode(np.ascontiguousarray(counts, np.int32).reshape(-1))
    return hashlib.md5(bytes(packed), usedforsecurity=False).hexdigest()


# ---- the text header -------------------------------------------------------------------

_NUMBER = r"([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)"


def _scaled(factor: float) -> Callable[[re.Match[str]], float | None]:
    def value(match: re.Match[str]) -> float | None:
        number = float(match[1]) * factor
        return number if math.isfinite(number) else None

    return value


def _pair(match: re.Match[str]) -> tuple[float, float] | None:
    pair = float(match[1]), float(match[2])
    return pair if all(map(math.isfinite, pair)) else None


def _pair_in_mm(match: re.Match[str]) -> tuple[float, float] | None:
    pair = _pair(match)
    return pair and (1e3 * pair[0], 1e3 * pair[1])


def _word(match: re.Match[str]) -> str | None:
    word = match[1].strip()
    return None if word in ("", "(nil)") else word


_LINES: dict[str, tuple[str, str, Callable[[re.Match[str]], Any]]] = {
    "detector": ("Detector", r"(.*)", _word),
    "wavelength": ("Wavelength", _NUMBER + r"\s*A", _scaled(1.0)),
    "distance": ("Detector_distance", _NUMBER + r"\s*m\b", _scaled(1e3)),
    "vertical_offset": ("Detector_Voffset", _NUMBER + r"\s*m\b", _scaled(1e3)),
    "beam_xy": ("Beam_xy", rf"\(\s*{_NUMBER}\s*,\s*{_NUMBER}\s*\)", _pair),
    "energy_range": ("Energy_range", rf"\(\s*{_NUMBER}\s*,\s*{_NUMBER}\s*\)", _pair),
    "exposure_time": ("Exposure_time", _NUMBER + r"\s*s?", _scaled(1.0)),
    "exposure_period": ("Exposure_period", _NUMBER + r"\s*s?", _scaled(1.0)),
    "dead_time": ("Tau", _NUMBER + r"\s*s?", _scaled(1.0)),
    "count_cutoff": ("Count_cutoff", _NUMBER, _scaled(1.0)),
    "threshold": ("Threshold_setting", _NUMBER + r"\s*eV", _scaled(1e-3)),
    "flux": ("Flux", _NUMBER, _scaled(1.0)),
    "filter_transmission": ("Filter_transmission", _NUMBER, _scaled(1.0)),
    "start_angle": ("Start_angle", _NUMBER, _scaled(1.0)),
    "angle_increment": ("Angle_increment", _NUMBER, _scaled(1.0)),
    "pixel_size": ("Pixel_size", rf"{_NUMBER}\s*m\s*x\s*{_NUMBER}\s*m\b", _pair_in_mm),
    "two_theta": ("Detector_2theta", _NUMBER, _scaled(1.0)),
    "polarization": ("Polarization", _NUMBER, _scaled(1.0)),
    "alpha": ("Alpha", _NUMBER, _scaled(1.0)),
    "kappa": ("Kappa", _NUMBER, _scaled(1.0)),
    "phi": ("Phi", _NUMBER, _scaled(1.0)),
    "phi_increment": ("Phi_increment", _NUMBER, _scaled(1.0)),
    "chi": ("Chi", _NUMBER, _scaled(1.0)),
    "chi_increment": ("Chi_increment", _NUMBER, _scaled(1.0)),
    "omega": ("Omega", _NUMBER, _scaled(1.0)),
    "omega_increment": ("Omega_increment", _NUMBER, _scaled(1.0)),
    "oscillation_axis": ("Oscillation_axis", r"(.*)", _word),
    "n_oscillations": ("N_oscillations", _NUMBER, _scaled(1.0)),
    "date_tag": ("DateTime", r"(.*)", _word),  # of a TIFF (`offbragg.files.tiff.with_date`)
}
# "# Keyword", "# Keyword:" and "# Keyword =" all occur
_LINE = re.compile(r"#[ \t]*(\w+)[ \t]*[:=]?[ \t]*(.{0,300})$")
_FINDERS = {
    keyword: (key, re.compile(pattern), value) for key, (keyword, pattern, value) in _LINES.items()
}
_DATE = re.compile(
    r"#[ \t]*(?:Date[ \t]*[:=]?[ \t]*)?"
    r"(\d{4}[-/:]\w{1,3}[-/:]\d{1,2}[T \t]+\d{1,2}:\d{2}:\d{2}(?:[.,]\d{1,9})?"
    r"(?:[ \t]*(?:Z\b|[-+]\d{2}:?\d{2}))?)",
    re.IGNORECASE,
)
_SENSOR = re.compile(rf"#[ \t]*(\w{{1,40}})[ \t]+sensor,[ \t]*thickness[ \t]+{_NUMBER}[ \t]*m\b")
_TEXT_LIMIT = 1 << 16
_LINE_LIMIT = 400  # characters of a line that is remembered


def parse_minicbf_header(text: str) -> dict[str, Any]:
    r"""Read the comment lines that a Pilatus writes about an exposure.

    Parameters
    ----------
    text
        The header, lines beginning with ``#``.

    Returns
    -------
    header
        Only what is there and makes sense; nothing is invented, and ``(nil)`` and NaN are not
        there. Lengths in mm (``distance``, ``sensor_thickness``), ``wavelength`` in Å, times in
        s, angles in degree, ``threshold`` in keV, ``energy_range`` in eV, ``beam_xy`` in pixel,
        ``pixel_size`` (as camserver orders it) in mm. ``text`` has the comment lines themselves.

    Examples
    --------
    >>> parse_minicbf_header("# Wavelength 0.6889 A\r\n# Flat_field: (nil)")["wavelength"]
    0.6889
    """
    lines = text.replace("\r\n", "\n").replace("\r", "\n")
    header: dict[str, Any] = {}
    # one pass over all of it: no amount of text before a line hides what that says
    comments = _comments(lines)
    for line in comments:
        read = _read_line if len(line) <= _LINE_LIMIT else _read_line.__wrapped__
        for key, value in read(line).items():
            header.setdefault(key, [*value] if type(value) is tuple else value)
    if "date_tag" in header:
        header.setdefault("date", header["date_tag"])
    if len(lines) > 4 * _TEXT_LIMIT:
        comments = _comments(lines[: 4 * _TEXT_LIMIT])
    if comments:
        header["text"] = "\n".join(comments)[:_TEXT_LIMIT]
    return header


def _comments(lines: str) -> list[str]:
    pieces = f"\n{lines}".split("\n#")[1:]  # faster than to look at every line
    return ["#" + piece.partition("\n")[0] for piece in pieces]


@lru_cache(maxsize=256)  # frames of one sweep have the same lines, but for two or three
def _read_line(line: str) -> dict[str, Any]:
    """Read what one comment line says; a pair is a tuple."""
    match = _LINE.match(line)
    if match is None:
        return {}
    word, rest = match[1], match[2]
    if word in _FINDERS:
        key, pattern, value = _FINDERS[word]
        found = pattern.match(rest)
        known = value(found) if found else None
        return {} if known is None else {key: known}
    if word[0].isdigit() or word.lower() == "date":
        date = _DATE.match(line)
        return {"date": date[1]} if date else {}
    if rest.startswith("sensor") and (sensor := _SENSOR.match(line)):
        thickness = float(sensor[2]) * 1e3
        if math.isfinite(thickness):
            return {"sensor_material": sensor[1], "sensor_thickness": thickness}
    return {}
