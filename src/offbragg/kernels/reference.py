"""What the kernels do, in NumPy and the standard library: slow, plain, and the same bytes.

This is what the C is held against, and what is there where it was not compiled. To be fast
without it, use fabio, hashlib and HDF5's own filter, as `offbragg.files` does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer

OK, TRUNCATED, SURPLUS, OVERFLOW, BAD_SIZE, BAD_BLOCK, BAD_LZ4, BAD_SUM = range(8)

_BLOCK = 8192  # bytes, as bitshuffle has it
_ROW, _RUN = 4, 6  # bytes of a row of a brick, and of the shortest run
_MOST_BLOCK = 16384  # pixels of a block that is read

TILE = 16  # pixels along a tile
_MEDIAN_OF_20 = 9  # twentieths: the median is taken a little below the middle
_LIMITS = np.iinfo(np.int32)


def decode(stream: Buffer, out: NDArray[np.int32]) -> tuple[int, int]:
    """Decode byte-offset steps into ``out``; say how it went and how many pixels are right."""
    data = np.frombuffer(memoryview(stream), np.uint8)
    pixels, n = out.reshape(-1), out.size
    escapes = np.append(np.flatnonzero(data == 0x80), data.size)
    at = done = last = 0
    while done < n:
        # single bytes up to the next escape
        stop = int(escapes[np.searchsorted(escapes, at)])
        steps = data[at : min(stop, at + n - done)].view(np.int8)
        if steps.size:
            values = last + np.cumsum(steps, dtype=np.int64)
            wrong = np.flatnonzero((values > _LIMITS.max) | (values < _LIMITS.min))
            right = int(wrong[0]) if wrong.size else steps.size
            pixels[done : done + right] = values[:right]
            done, at = done + right, at + right
            if wrong.size:
                return OVERFLOW, done
            last = int(values[-1])
            continue
        if at == data.size:
            return TRUNCATED, done
        for size in (2, 4, 8):
            at += size // 2
            bytes_of_step = data[at : at + size].tobytes()
            if len(bytes_of_step) < size:
                return TRUNCATED, done
            step = int.from_bytes(bytes_of_step, "little", signed=True)
            if step != -(1 << (8 * size - 1)):
                break
        at += size
        last += step
        if not _LIMITS.min <= last <= _LIMITS.max:
            return OVERFLOW, done
        pixels[done] = last
        done += 1
    return (OK if at == data.size else SURPLUS), done


def bitshuffle(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Transpose the bits of a multiple of 8 values: plane by plane, lowest bit first."""
    octets = values.astype(values.dtype.newbyteorder("<")).view(np.uint8)
    bits = np.unpackbits(octets.reshape(-1, values.itemsize), axis=1, bitorder="little")
    return np.packbits(bits.T, axis=1, bitorder="little")


def _length(more: int) -> bytes:
    return b"\xff" * (more // 255) + bytes([more % 255])


def _sequence(literals: bytes, distance: int = 0, length: int = 4) -> bytes:
    n, more = len(literals), length - 4
    token = bytes([(min(n, 15) << 4) | min(more, 15)])
    text = token + (_length(n - 15) if n >= 15 else b"") + literals
    if not distance:
        return text  # the last one
    return text + distance.to_bytes(2, "little") + (_length(more - 15) if more >= 15 else b"")


def _same(text: bytes, p: int, m: int, end: int) -> int:
    n = 0
    while p + n < end and text[p + n] == text[m + n]:
        n += 1
    return n


def compress_planes(planes: NDArray[np.uint8]) -> bytes:
    """Make one LZ4 block of bit planes; lz4_block.c has the reasons."""
    count, plane = planes.shape
    text, size = planes.tobytes(), planes.size
    written = _written(planes)
    there = written * plane
    last_end = there if written < count else size - 5
    last_start = there - 5 if written < count else size - 12
    out, anchor, ip, seen = bytearray(), 0, 0, dict[int, int]()

    def look(p: int) -> str:
        here = planes[p]
        near = np.count_nonzero(here[1:] == here[:-1])
        above = np.count_nonzero(here == planes[p - 1]) if p else 0
        if above == plane:
            return "repeat"
        return "noise" if near * 3 < plane and above * 3 < plane else "search"

    def place(at: int) -> int:
        six = int.from_bytes(text[at : at + 6], "little") << 16
        return (six * 0x9E3779B185EBCA87 % (1 << 64)) >> 53

    p = -1
    while (p := p + 1) < written:
        end = (p + 1) * plane
        if ip >= end:
            continue
        kind = look(p)
        if kind == "repeat":
            while p + 1 < written and look(p + 1) == "repeat":
                p, end = p + 1, end + plane
            if end == there and written < count:
                break
            stop = min(end, last_end)
            if ip < last_start and stop - ip >= 4:
                out += _sequence(text[anchor:ip], plane, stop - ip)
                anchor = stop
        elif kind == "search":
            stop = min(end, last_start)
            while ip < stop:
                six, key = text[ip : ip + 6], place(ip)
                m, seen[key] = seen.get(key, -1), ip
                if m < 0 or text[m : m + 6] != six:
                    m = ip - plane
                    if m < 0 or text[m : m + 6] != six:
                        ip += 1
                        continue
                length = 6 + _same(text, ip + 6, m + 6, last_end)
                back = 0
                while ip - back > anchor and m > back and text[ip - back - 1] == text[m - back - 1]:
                    back += 1
                out += _sequence(text[anchor : ip - back], ip - m, length + back)
                anchor = ip = ip + length
                if ip + 4 <= there:
                    seen[place(ip - 2)] = ip - 2
        ip = max(ip, end)
    if written == count:
        return bytes(out + _sequence(text[anchor:size]))
    out += _sequence(text[anchor:ip], plane, size - 5 - ip)
    return bytes(out + _sequence(text[there - 5 : there]))


def _written(planes: NDArray[np.uint8]) -> int:
    """Return the number of planes that are written; those after them repeat the last one."""
    written, plane = planes.shape
    if plane >= 16:
        while written > 1 and np.array_equal(planes[written - 1], planes[written - 2]):
            written -= 1
    return written


def compress_runs(planes: NDArray[np.uint8]) -> bytes:
    """Make one LZ4 block of the bit planes of cells; lz4_runs.c has the reasons."""
    count, plane = planes.shape
    flat, size = planes.reshape(-1), planes.size
    written = _written(planes)
    there = written * plane
    end, last = (there, there) if written < count else (size - 5, size - 12)
    distances, text = (plane, 2 * plane, 3 * plane, _ROW), flat.tobytes()
    lengths = np.zeros((len(distances), size + 1), np.intp)  # how far each run goes on
    for found, distance in zip(lengths, distances, strict=True):
        for at in range(end - 1, distance - 1, -1):
            found[at] = found[at + 1] + 1 if text[at] == text[at - distance] else 0
    out, anchor = bytearray(), 0
    begins = np.flatnonzero(lengths[:, :last].max(axis=0) >= _RUN)
    while (place := np.searchsorted(begins, anchor)) < begins.size:
        at = int(begins[place])
        if written < count and at + lengths[0, at] == there:
            out += _sequence(text[anchor:at], plane, size - 5 - at)
            return bytes(out + _sequence(text[there - 5 : there]))
        way = int(lengths[:, at].argmax())
        out += _sequence(text[anchor:at], distances[way], int(lengths[way, at]))
        anchor = at + int(lengths[way, at])
    if written == count:
        return bytes(out + _sequence(text[anchor:size]))
    out += _sequence(text[anchor:there], plane, size - 5 - there)
    return bytes(out + _sequence(text[there - 5 : there]))


def encode(
    values: NDArray[Any], compress: Callable[[NDArray[np.uint8]], bytes] = compress_planes
) -> bytes:
    """Compress values of 4 or 8 bytes to a chunk of HDF5's bitshuffle filter, LZ4 inside."""
    flat = values.reshape(-1)
    out = bytearray(flat.nbytes.to_bytes(8, "big") + _BLOCK.to_bytes(4, "big"))
    whole, step = flat.size & ~7, _BLOCK // flat.itemsize
    for start in range(0, whole, step):
        block = compress(bitshuffle(flat[start : min(start + step, whole)]))
        out += len(block).to_bytes(4, "big") + block
    return bytes(out) + flat[whole:].astype(flat.dtype.newbyteorder("<")).tobytes()


def encode_cells(cells: NDArray[Any]) -> bytes:
    """Compress cells, and put their checksum behind them."""
    text = encode(cells, compress_runs)
    return text + fletcher32(text).to_bytes(4, "little")


def fletcher32(data: bytes) -> int:
    """Return the checksum that HDF5's filter 3 appends to a chunk."""
    words = np.frombuffer(data + bytes(len(data) % 2), ">u2").astype(np.int64)
    if not words.any():
        return 0
    total = sums = 0
    for piece in (words[at : at + 360] for at in range(0, words.size, 360)):
        sums += piece.size * total + int(piece @ np.arange(piece.size, 0, -1))
        total += int(piece.sum())
    return (sums % 65535 or 65535) << 16 | (total % 65535 or 65535)


def bitunshuffle(planes: NDArray[np.uint8]) -> NDArray[np.signedinteger[Any]]:
    """Make values of their 32 or 64 bit planes, the inverse of `bitshuffle`."""
    bits = np.unpackbits(planes, axis=1, bitorder="little")
    pixels = np.packbits(np.ascontiguousarray(bits.T), axis=1, bitorder="little")
    return pixels.view(f"<i{len(planes) // 8}").reshape(-1)


def decompress(block: bytes, size: int) -> bytes | None:
    """Decode an LZ4 block that makes ``size`` bytes; None if it does not."""
    out, at = bytearray(), 0

    def length_from(nibble: int) -> int:
        nonlocal at
        length = nibble
        while nibble == 15:
            if at == len(block):
                return size + 1
            length, at = length + block[at], at + 1
            if block[at - 1] != 255:
                break
        return length

    while at < len(block):
        token, at = block[at], at + 1
        literals = length_from(token >> 4)
        if literals > min(len(block) - at, size - len(out)):
            return None
        out += block[at : at + literals]
        at += literals
        if at == len(block):
            return bytes(out) if len(out) == size else None
        distance, at = int.from_bytes(block[at : at + 2], "little"), at + 2
        if at > len(block):
            return None
        length = length_from(token & 15) + 4
        if not 0 < distance <= len(out) or length > size - len(out):
            return None
        pattern = bytes(out[-distance:])
        out += (pattern * (length // distance + 1))[:length]
    return None


def decode_chunk(chunk: Buffer, n: int, first: int, out: NDArray[Any]) -> tuple[int, int]:
    """Decode pixels from ``first`` on of a chunk of ``n``; say how it went and how many are right.

    They are integers of 4 or 8 bytes. Only those blocks are decoded that hold some of them.
    """
    data, pixels, width = bytes(memoryview(chunk)), out.reshape(-1), out.itemsize
    last, whole, done = first + pixels.size, n & ~7, 0
    if len(data) < 12:
        return TRUNCATED, 0
    if int.from_bytes(data[:8], "big") != width * n:
        return BAD_SIZE, 0
    block, odd = divmod(int.from_bytes(data[8:12], "big"), width)
    if not 0 < block <= 4 * _MOST_BLOCK // width or block % 8 or odd:
        return BAD_BLOCK, 0
    at = 12
    for start in range(0, whole, block):
        stop = min(start + block, whole)
        size, at = int.from_bytes(data[at : at + 4], "big"), at + 4
        if at > len(data) or size > len(data) - at:
            return TRUNCATED, done
        if start < last and stop > first:
            planes = decompress(data[at : at + size], width * (stop - start))
            if planes is None:
                return BAD_LZ4, done
            made = bitunshuffle(np.frombuffer(planes, np.uint8).reshape(8 * width, -1))
            part = made[max(first - start, 0) : min(last, stop) - start]
            pixels[done : done + part.size] = part
            done += part.size
        at += size
    rest = data[at : at + width * (n - whole)]
    if len(rest) < width * (n - whole):
        return TRUNCATED, done
    if last > whole:
        made = np.frombuffer(rest, f"<i{width}")[max(first - whole, 0) : last - whole]
        pixels[done:] = made
        done = pixels.size
    return (OK if at + len(rest) == len(data) else SURPLUS), done


def decode_cells(chunk: Buffer, n: int, first: int, out: NDArray[Any]) -> tuple[int, int]:
    """Do the same with a chunk that has its checksum behind it."""
    data = bytes(memoryview(chunk))
    if len(data) < 4:
        return TRUNCATED, 0
    if fletcher32(data[:-4]) != int.from_bytes(data[-4:], "little"):
        return BAD_SUM, 0
    return decode_chunk(data[:-4], n, first, out.view(f"i{out.itemsize}"))


def md5(buffers: Sequence[Buffer]) -> list[bytes]:
    """MD5 of each buffer."""
    return [hashlib.md5(buffer, usedforsecurity=False).digest() for buffer in buffers]


def strips(
    data: Buffer,
    offsets: NDArray[np.uint64],
    lengths: NDArray[np.uint64],
    *,
    big_endian: bool,
    out: NDArray[np.int32],
) -> bool:
    """Put strips one behind the other into ``out``; say whether they fit."""
    text, words = memoryview(data).cast("B"), out.reshape(-1)
    ends = [int(o) + int(n) for o, n in zip(offsets, lengths, strict=True)]
    if any(end > len(text) for end in ends) or sum(map(int, lengths)) != 4 * words.size:
        return False
    pixels = b"".join(text[int(o) : end] for o, end in zip(offsets, ends, strict=True))
    words[:] = np.frombuffer(pixels, ">i4" if big_endian else "<i4")
    return True


def tiles(
    counts: NDArray[np.int32],
    number: NDArray[np.int32],
    middle: NDArray[np.int32],
    highest: NDArray[np.int32],
) -> None:
    """Find medians of tiles, and the highest count of each column of a band of tiles."""
    (down, across), half = number.shape, TILE // 2
    some, top = counts[::2, ::2], np.iinfo(np.int32).max
    sampled = np.full((down * half, across * half), -1, np.int32)
    sampled[: some.shape[0], : some.shape[1]] = some
    inside = sampled.reshape(down, half, across, half).swapaxes(1, 2)
    values = inside.reshape(down, across, half * half).view(np.uint32)  # negative ones come last
    values.sort(axis=-1)
    number[...] = np.count_nonzero(values < top, axis=-1)
    ranked = np.take_along_axis(values, (number * _MEDIAN_OF_20 // 20)[..., None], -1)[..., 0]
    middle[...] = np.where(number > 0, ranked, 0)
    for band, out in enumerate(highest):
        counts[band * TILE : (band + 1) * TILE].max(axis=0, out=out, initial=-1)


# ---- CRC-64/XZ -------------------------------------------------------------------------

_POLY = 0xC96C5795D7870F42  # bit 63 is x^0
_ONES = (1 << 64) - 1
_LANES = 4096


def crc64(data: Buffer, before: int = 0) -> int:
    """CRC of many lanes at once, eight bytes of each in a step, and then of the lanes together."""
    octets = np.frombuffer(memoryview(data), np.uint8)
    value, words = before, octets.size // (8 * _LANES)
    if words:
        tables, length = _wide_tables(), 8 * words
        lanes = octets[: length * _LANES].view("<u8").reshape(_LANES, words)
        crcs = np.full(_LANES, _ONES, np.uint64)
        for column in np.ascontiguousarray(lanes.T):
            parts = (crcs ^ column).view(np.uint16).reshape(-1, 4)
            crcs = np.take(tables[0], parts[:, 0])
            for table, part in zip(tables[1:], parts.T[1:], strict=True):
                crcs ^= np.take(table, part)
        octets = octets[length * _LANES :]
        crcs ^= np.uint64(_ONES)
        while crcs.size > 1:
            crcs = _moved(crcs[::2], length) ^ crcs[1::2]
            length *= 2
        value = crc64_combine(value, int(crcs[0]), length)
    value ^= _ONES
    for octet in octets.tobytes():
        value = _TABLE[(value ^ octet) & 0xFF] ^ (value >> 8)
    return value ^ _ONES


def crc64_combine(first: int, second: int, length: int) -> int:
    """CRC of two parts, from those of each and the length of the second, bytes."""
    return _multiply(_power(8 * length), first) ^ second


def _multiply(a: int, b: int) -> int:
    product = 0
    while a:
        if a >> 63:
            product ^= b
        a = (a << 1) & _ONES
        b = (b >> 1) ^ (_POLY if b & 1 else 0)
    return product


def _power(n: int) -> int:
    """x^n mod P."""
    product, square = 1 << 63, 1 << 62
    while n:
        if n & 1:
            product = _multiply(square, product)
        square = _multiply(square, square)
        n >>= 1
    return product


def _moved(crcs: NDArray[np.uint64], length: int) -> NDArray[np.uint64]:
    """Multiply each by x^(8 length)."""
    factor, moved = _power(8 * length), np.zeros_like(crcs)
    for bit in range(64):  # bit 63 is x^0
        moved ^= (crcs >> np.uint64(63 - bit) & np.uint64(1)) * np.uint64(factor)
        factor = (factor >> 1) ^ (_POLY if factor & 1 else 0)
    return moved


def _make_table() -> list[int]:
    table: list[int] = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (_POLY if value & 1 else 0)
        table.append(value)
    return table


_TABLE = _make_table()


@cache
def _wide_tables() -> NDArray[np.uint64]:
    """Return what each of the four 16-bit parts of a word leaves, eight bytes on."""
    single = [np.array(_TABLE, np.uint64)]  # a byte that n bytes follow
    for _ in range(7):
        last = single[-1]
        single.append(single[0][last & np.uint64(0xFF)] ^ (last >> np.uint64(8)))
    low, high = np.arange(1 << 16) & 0xFF, np.arange(1 << 16) >> 8
    return np.array([single[7 - 2 * k][low] ^ single[6 - 2 * k][high] for k in range(4)])
