"""Bodies that come compressed: kombu unpacks each as it arrives, and a few hundred bytes may be gigabytes.

Owns how much may come out, for the ways of compressing that kombu itself has (zlib, which it calls gzip, bzip2, lzma,
zstd; not brotli, nor what an application has registered). What is larger is not unpacked: kombu then hands the message
on as one that it cannot read, with its body as it came.
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
    """A body is larger than `dead_letter.max_decompressed` once it is unpacked."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self.limit = limit

    def __str__(self) -> str:
        return f"the body is over {self.limit:,} bytes once it is decompressed (dead_letter.max_decompressed)"


class _Bounded:
    """In the place of one of kombu's functions: gives what it gives, as long as that is small enough.

    Args:
        whole: kombu's function; it is asked where there is an error to raise, which is kombu's own then.
        stream: makes what unpacks one stream, and can be stopped.
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
            except Exception:  # noqa: BLE001 each library has its own; up to here it is small
                return self._whole(body)
            room -= len(part)
            if room < 0:
                raise BodyTooLarge(self.limit)
            unpacked.append(part)
            if not stream.eof:
                return self._whole(body)  # it ends too early
            # what follows a zlib stream is not looked at, as kombu's function does not
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
    """Unpack, in this process, no body beyond so many bytes; of several applications the largest limit counts.

    Args:
        limit: the setting `dead_letter.max_decompressed`.
    """
    for content_type in compression.encoders():
        decoder = compression.get_decoder(content_type)
        for bounded in _BOUNDED:
            if decoder is bounded or decoder is bounded._whole:
                bounded.limit = max(bounded.limit, limit)
                compression.register(compression.get_encoder(content_type)[0], bounded, content_type)
