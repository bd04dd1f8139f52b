"""A line of a test's own to a server that others use: what goes over it can be held, and it can be cut.

Owns the connections over it. For its clients `stop` is a broker that has died, and `pause` one that hangs; the server
itself goes on, so that no test waits until RabbitMQ has started again. Tests of what a broker does at its own end, or
keeps over it, take a private one (`own_servers`).
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from tests.port import reserve_port
from tests.shared_server import SharedServer

__all__ = ["Line"]

_T = TypeVar("_T")
_CHUNK = 65536
_BOUND = 30.0
"""Seconds for what the line's own thread does."""


class Line:
    """A port of its own, from which each connection goes on to a server; used as a `Server` is.

    Args:
        server: the server.
    """

    def __init__(self, server: SharedServer) -> None:
        self.name, self.host, self.port = server.name, "127.0.0.1", reserve_port()
        self._server = server
        self._listener: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._flows = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_forever, name="line", daemon=True)
        self._thread.start()

    @property
    def is_running(self) -> bool:
        """Whether it takes connections (it may be paused)."""
        return self._listener is not None

    def start(self) -> None:
        """Take connections, and end a pause."""
        self._server.start()
        self._do(self._start())

    def stop(self) -> None:
        """Cut every connection, and refuse new ones."""
        self._do(self._stop())

    def pause(self) -> None:
        """Hold what is sent, in both directions; connections stay open, and new ones are taken."""
        self._do(self._hold(True))

    def resume(self) -> None:
        """Let what was held go on."""
        self._do(self._hold(False))

    def close(self) -> None:
        """Cut it for good."""
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_BOUND)
        self._loop.close()

    def fresh_url(self) -> str:
        """A database or a virtual host that nobody has used, over this line."""
        return self._server.fresh_url().replace(self._address(self._server), self._address(self))

    def release(self, url: str) -> None:
        """Give back what `fresh_url` gave."""
        self._server.release(url.replace(self._address(self), self._address(self._server)))

    @staticmethod
    def _address(of: Any) -> str:
        return f"@{of.host}:{of.port}/"

    def _do(self, what: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(_BOUND)

    async def _start(self) -> None:
        self._flows.set()
        if self._listener is None:
            self._listener = await asyncio.start_server(self._take, self.host, self.port)

    async def _stop(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()
        self._flows.set()
        for writer in list(self._open):
            writer.transport.abort()
        while self._open:
            await asyncio.sleep(0.005)

    async def _hold(self, held: bool) -> None:
        if held:
            self._flows.clear()
        else:
            self._flows.set()

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        beyond: asyncio.StreamWriter | None = None
        try:
            await self._flows.wait()
            answers, beyond = await asyncio.open_connection(self._server.host, self._server.port)
            self._open.add(beyond)
            await asyncio.gather(self._pass(reader, beyond), self._pass(answers, writer))
        except OSError:  # one end is gone
            pass
        finally:
            for end in (writer, beyond):
                if end is not None:
                    end.transport.abort()
                    self._open.discard(end)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on what comes, then that its end has come."""
        while chunk := await reader.read(_CHUNK):
            await self._flows.wait()
            writer.write(chunk)
            await writer.drain()
        await self._flows.wait()
        with suppress(OSError, RuntimeError):  # the other end is gone already
            writer.write_eof()
