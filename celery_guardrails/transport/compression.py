"""Compressed bodies: kombu decompresses each as it arrives, and a few hundred bytes may become gigabytes.

Owns the limit on the result, for the compressions that kombu itself has (zlib, which it calls gzip, bzip2, lzma, zstd;
not brotli, nor a compression that an application has registered). A larger body is not decompressed: kombu then passes
the message on as unreadable, with its body as it came.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable
from typing import Any

from kombu import compression

__all__ = ["BodyTooLarge", "bound_unpacking"]

_Unpack = Callable[[bytes], bytes]


class BodyTooLarge(ValueError):
    """A body is larger than `dead_letter.max_decompressed` once it is decompressed."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self.limit = limit

    def __str__(self) -> str:
        return f"the body is over {self.limit:,} bytes once it is decompressed (dead_letter.max_decompressed)"


class _Bounded:
    """Replaces one of kombu's functions: gives the same result, as long as the result is small enough.

    Args:
        whole: kombu's function. It is called for a broken body, so that the error is kombu's own.
        stream: makes a decompressor of one stream, which can be stopped.
    """

    def __init__(self, whole: _Unpack, stream: Callable[[], Any]) -> None:
        self._whole = whole
        self._stream = stream
        self.limit = 0

    def __call__(self, body: bytes) -> bytes:
        room, rest, unpacked = self.limit, body, list[bytes]()
        while rest:
            stream = self._stream()
            try:
                part = stream.decompress(rest, room + 1)
            except Exception:  # noqa: BLE001 each library has errors of its own; up to here the result is small
                return self._whole(body)
            room -= len(part)
            if room < 0:
                raise BodyTooLarge(self.limit)
            unpacked.append(part)
            if not stream.eof:
                return self._whole(body)  # the stream is cut short
            # bytes behind a zlib stream are ignored, as kombu's function ignores them
            rest = b"" if self._whole is zlib.decompress else stream.unused_data
        return b"".join(unpacked) if unpacked else self._whole(body)


_BOUNDED = [
    _Bounded(zlib.decompress, zlib.decompressobj),
    _Bounded(bz2.decompress, bz2.BZ2Decompressor),
    _Bounded(lzma.decompress, lzma.LZMADecompressor),
]
_zstd = getattr(compression, "zstd", None)  # Python 3.14's own, or backports.zstd where that is installed
if _zstd is not None:
    _BOUNDED.append(_Bounded(_zstd.decompress, _zstd.ZstdDecompressor))


def bound_unpacking(limit: int) -> None:
    """Decompress no body beyond so many bytes in this process; of several applications the largest limit counts.

    Args:
        limit: the setting `dead_letter.max_decompressed`.
    """
    for content_type in compression.encoders():
        decoder = compression.get_decoder(content_type)
        for bounded in _BOUNDED:
            if decoder is bounded or decoder is bounded._whole:
                bounded.limit = max(bounded.limit, limit)
                compression.register(compression.get_encoder(content_type)[0], bounded, content_type)
