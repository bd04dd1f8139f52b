"""The partner who receives the shop's webhooks: a small HTTP server that answers 204 to every POST.

    python -m example_project.shop.partner_server [--port N]

It prints `listening on HOST:PORT` when it is ready and `received BODY` for each webhook. It must not know Celery.
"""

from __future__ import annotations

import argparse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

__all__ = ["Partner"]


class Partner(BaseHTTPRequestHandler):
    """Accepts whatever is posted."""

    def do_POST(self) -> None:
        """Take a webhook."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        print(f"received {body.decode(errors='replace')}", flush=True)
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Stay quiet: `received` says it all."""


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=0, help="default: a free one")
    server = ThreadingHTTPServer(("127.0.0.1", parser.parse_args().port), Partner)
    host, port = server.server_address[:2]
    print(f"listening on {host!s}:{port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
