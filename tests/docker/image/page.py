"""One page on a port, whatever is asked: `page.py PORT TEXT`."""

from __future__ import annotations

import signal
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer


class Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(sys.argv[2].encode() + b"\n")


signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # process 1 ignores it otherwise, for ten seconds
HTTPServer(("0.0.0.0", int(sys.argv[1])), Page).serve_forever()  # noqa: S104  # inside a container
