"""Pieces of files, compressed for the link: the far disk holds the same bytes as the near one.

Zstandard at its level 1 needs fewer bytes for a CBF than the chunks of a scan file do, and takes
any other file, too; `docs/reference/performance.md` has both.
"""

from __future__ import annotations

import zstandard

from offbragg.errors import TransferError

_LEVEL = 1
_WORTH = 0.95  # of the bytes: a piece that stays larger goes as it is


class Packer:
    """Pack pieces; a compressor is used again."""

    def __init__(self) -> None:
        self._compressor = zstandard.ZstdCompressor(level=_LEVEL)

    def pack(self, content: bytes) -> bytes | None:
        """Return the content in fewer bytes; None if it does not get smaller."""
        packed = self._compressor.compress(content)
        return packed if len(packed) <= _WORTH * len(content) else None


class Unpacker:
    """Unpack pieces that came from elsewhere."""

    def __init__(self) -> None:
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=1 << 21)

    def unpack(self, packed: bytes, size: int) -> bytes:
        """Return the content of a piece.

        Raises
        ------
        TransferError
            If it does not unpack to exactly ``size`` bytes; no more memory is taken.
        """
        try:
            stated = zstandard.get_frame_parameters(packed).content_size
            if stated != size:
                raise TransferError(f"a packed piece has {stated} bytes, not {size}")
            return self._decompressor.decompress(packed)
        except zstandard.ZstdError as error:
            raise TransferError(f"a piece cannot be unpacked: {error}") from None
