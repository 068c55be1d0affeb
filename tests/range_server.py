"""A web server for one folder that answers ranges, as a process of its own: GDAL waits for answers with Python's lock.

    python range_server.py FOLDER

It prints its port, and on stderr each request in a line: method, path, range, status.
"""

from __future__ import annotations

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Handler(BaseHTTPRequestHandler):
    """Files of `folder`; of one called `broken...` the third quarter fails."""

    protocol_version = "HTTP/1.1"
    folder: Path

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, *_arguments: object) -> None:
        pass

    def _answer(self) -> None:
        path = self.path.partition("?")[0]
        file = self.folder / path.lstrip("/")
        asked = self.headers.get("Range")
        if not file.is_file():
            return self._send(404, b"", {})
        content = file.read_bytes()
        headers = {"Accept-Ranges": "bytes"}
        if asked is None:
            return self._send(200, content, headers)
        first, _, last = asked.removeprefix("bytes=").partition("-")
        start, stop = int(first), min(int(last or len(content) - 1) + 1, len(content))
        if file.name.startswith("broken") and len(content) < 2 * stop < 3 * len(content) // 2:
            return self._send(500, b"", {})
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(content)}"
        return self._send(206, content[start:stop], headers)

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        # One write a line: print() writes word by word, and the lines of two threads would mix.
        sys.stderr.write(f"{self.command} {self.path} {self.headers.get('Range')} {status}\n")
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)


if __name__ == "__main__":
    Handler.folder = Path(sys.argv[1])
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_address[1], flush=True)
    server.serve_forever()
