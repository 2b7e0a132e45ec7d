"""A Google Cloud Storage on loopback, in memory: as much of its XML interface as obstore asks."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

MODIFIED = "Sat, 28 Nov 2026 12:00:00 GMT"
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


class Gcs(ThreadingHTTPServer):
    """`objects` by their keys; `pieces` of uploads by their ids; `asked` are the heads that came."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: dict[str, bytes] = {}
        self.pieces: dict[str, dict[int, bytes]] = {}
        self.asked: list[tuple[str, str, dict[str, str]]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Gcs

    def _handle(self) -> None:
        parts = urlsplit(self.path)
        _, _, key = unquote(parts.path).removeprefix("/").partition("/")
        query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        self.server.asked.append((self.command, self.path, dict(self.headers)))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if not key:
            self._say(200, self._listed(query.get("prefix", "")))
        elif "uploads" in query or "uploadId" in query:
            self._piece(key, query, body)
        elif self.command == "PUT":
            self.server.objects[key] = body
            self._say(200, b"", self._tags(key))
        elif key not in self.server.objects:
            self._say(404, b"<Error><Code>NoSuchKey</Code></Error>")
        elif self.command == "DELETE":
            del self.server.objects[key]
            self._say(204, b"")
        else:
            self._send(key)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _handle  # noqa: N815  # http.server's names

    def _send(self, key: str) -> None:
        content, tags = self.server.objects[key], self._tags(key)
        if self.headers.get("If-Match", tags["ETag"]) != tags["ETag"]:
            self._say(412, b"<Error><Code>PreconditionFailed</Code></Error>")
            return
        found = _RANGE.fullmatch(self.headers.get("Range", ""))
        if found is None:
            self._say(200, content, tags)
            return
        start, last = int(found[1]), min(int(found[2] or len(content)), len(content) - 1)
        told = {"Content-Range": f"bytes {start}-{last}/{len(content)}"}
        self._say(206, content[start : last + 1], tags | told)

    def _piece(self, key: str, query: dict[str, str], body: bytes) -> None:
        if self.command == "POST" and "uploads" in query:
            self.server.pieces[key] = {}
            told = f"<Bucket>b</Bucket><Key>{escape(key)}</Key><UploadId>{escape(key)}</UploadId>"
            self._say(200, f"<InitiateMultipartUploadResult>{told}</InitiateMultipartUploadResult>".encode())
        elif self.command == "PUT":
            self.server.pieces[key][int(query["partNumber"])] = body
            self._say(200, b"", {"ETag": f'"{len(body)}"'})
        else:
            pieces = self.server.pieces.pop(key)
            self.server.objects[key] = b"".join(pieces[number] for number in sorted(pieces))
            told = f"<ETag>{self._tags(key)['ETag']}</ETag>"
            self._say(200, f"<CompleteMultipartUploadResult>{told}</CompleteMultipartUploadResult>".encode())

    def _listed(self, prefix: str) -> bytes:
        entries = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{len(content)}</Size>"
            f"<LastModified>2026-11-28T12:00:00.000Z</LastModified><ETag>{self._tags(key)['ETag']}</ETag></Contents>"
            for key, content in sorted(self.server.objects.items())
            if key.startswith(prefix)
        )
        return f"<ListBucketResult>{entries}<IsTruncated>false</IsTruncated></ListBucketResult>".encode()

    def _tags(self, key: str) -> dict[str, str]:
        digest = hashlib.sha256(self.server.objects[key]).hexdigest()[:16]
        return {"ETag": f'"{digest}"', "Last-Modified": MODIFIED, "x-goog-generation": "1"}

    def _say(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *arguments: object) -> None:
        """Says nothing."""


@contextmanager
def running() -> Iterator[Gcs]:
    """One, until the block ends."""
    with Gcs() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()
