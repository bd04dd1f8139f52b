"""A message's body as the bytes that were published, whatever the client library made of them.

Pure: no connection. It must not know what is in a body.
"""

from __future__ import annotations

from typing import Any

__all__ = ["as_published"]


def as_published(body: Any, encoding: Any) -> bytes:
    """A message's body as the bytes that were published.

    The AMQP client hands out text wherever the content encoding fits, so the encoding takes it back.

    Args:
        body: as the message has it; what is neither text nor bytes is taken for empty.
        encoding: the message's content encoding; one that does not fit counts as UTF-8.
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
