"""A message's body as the bytes that were published, though the client library may have decoded them.

Pure: no connection. It must not know what is in a body.
"""

from __future__ import annotations

from typing import Any

__all__ = ["as_published"]


def as_published(body: Any, encoding: Any) -> bytes:
    """A message's body as the bytes that were published.

    The AMQP client decodes a body into text wherever the content encoding allows it; this function encodes it again.

    Args:
        body: as the message has it. A body that is neither text nor bytes counts as empty.
        encoding: the message's content encoding. An encoding that does not fit the body counts as UTF-8.
    """
    if not isinstance(body, str):
        return bytes(body) if isinstance(body, (bytes, bytearray, memoryview)) else b""
    try:
        made = body.encode(encoding)
        if made.decode(encoding) == body:
            return made
    except (LookupError, TypeError, ValueError):
        pass
    return body.encode("utf-8", "surrogatepass")
