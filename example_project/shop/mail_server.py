"""The mail provider: a real SMTP server that can be made to time out while it runs.

    python -m example_project.shop.mail_server DIRECTORY [--port N]

    DIRECTORY/mode           `ok`, or `time out`: it accepts connections and says nothing more. Read at each connection:
                             echo "time out" > DIRECTORY/mode
    DIRECTORY/calls.jsonl    one line for each connection: {"answered": true}
    DIRECTORY/mailbox.jsonl  one line for each recipient of each accepted letter: {"to", "message_id", "subject"}

It prints `listening on HOST:PORT` when it is ready, and ends on SIGTERM. It must not know Celery.
"""

from __future__ import annotations

import argparse
import asyncio
import email
import json
import signal
from pathlib import Path
from typing import Any

from aiosmtpd.smtp import SMTP, Envelope, Session

__all__ = ["OK", "TIME_OUT", "Provider"]

OK, TIME_OUT = "ok", "time out"
_LOOK_AGAIN = 0.1


class Provider:
    """What the server does with a connection and a letter.

    Args:
        directory: where the mode is read, and calls and letters are written.
    """

    def __init__(self, directory: Path) -> None:
        self._mode = directory / "mode"
        self._calls = directory / "calls.jsonl"
        self._mailbox = directory / "mailbox.jsonl"

    async def handle_EHLO(
        self, server: SMTP, session: Session, envelope: Envelope, hostname: str, responses: list[str]
    ) -> list[str]:
        """Answer the client's first words, or keep silent until it has gone or the mode is `ok` again."""
        answers = self._answers()
        _append(self._calls, {"answered": answers})
        while not self._answers():
            await asyncio.sleep(_LOOK_AGAIN)
        session.host_name = hostname
        return responses

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        """Put a letter into the mailbox."""
        letter = email.message_from_bytes(envelope.original_content or b"")
        for recipient in envelope.rcpt_tos:
            entry = {"to": recipient, "message_id": letter["Message-ID"], "subject": letter["Subject"]}
            _append(self._mailbox, entry)
        return "250 Accepted"

    def _answers(self) -> bool:
        return not self._mode.exists() or self._mode.read_text().strip() != TIME_OUT


def _append(path: Path, entry: dict[str, Any]) -> None:
    with path.open("a") as file:
        file.write(json.dumps(entry) + "\n")


async def _serve(directory: Path, port: int) -> None:
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    provider = Provider(directory)
    server = await loop.create_server(lambda: SMTP(provider, hostname="mail.example.com"), "127.0.0.1", port)
    host, bound = server.sockets[0].getsockname()[:2]
    print(f"listening on {host}:{bound}", flush=True)
    await stopped.wait()
    server.close()


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--port", type=int, default=0, help="default: a free one")
    wanted = parser.parse_args()
    wanted.directory.mkdir(parents=True, exist_ok=True)
    asyncio.run(_serve(wanted.directory, wanted.port))


if __name__ == "__main__":
    main()
