"""A package index of a later day: the real one, with a newer release of every project beside it.

What installs from a complete lock takes none of them. Pages are those of the real index, whose
files keep their addresses there; each has one more wheel, of a version that no project will reach.
"""

import html
import io
import json
import os
import re
import ssl
import threading
import urllib.error
import urllib.request
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

REAL = os.environ.get("PIP_INDEX_URL", "https://pypi.org/simple").rstrip("/")
LATER = "9999.0"


class LaterIndex:
    """Serves the index on loopback, as a context manager.

    Parameters:
        url: Where it answers, as pip's and uv's index settings want it.
        asked: The projects whose page was asked for.
        taken: The projects whose release of the future was fetched.
    """

    def __init__(self) -> None:
        self.asked: set[str] = set()
        self.taken: set[str] = set()
        self._tls = ssl.create_default_context()
        index = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                status, kind, body = index.answer(self.path)
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            do_HEAD = do_GET

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/simple"

    def __enter__(self) -> "LaterIndex":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, path: str) -> tuple[int, str, bytes]:
        """The status, type and body for a path: a project's page, or one of the later wheels."""
        parts = [part for part in path.partition("?")[0].split("/") if part]
        if parts[0] == "later":
            name = _normal(parts[1].partition(f"-{LATER}")[0])
            self.taken.add(name)
            return 200, "application/octet-stream", _wheel(name)
        name = _normal(parts[-1])
        self.asked.add(name)
        request = urllib.request.Request(
            f"{REAL}/{name}/", headers={"Accept": "application/vnd.pypi.simple.v1+json"}
        )
        try:
            with urllib.request.urlopen(request, context=self._tls, timeout=60) as reply:
                files = json.load(reply)["files"]
        except urllib.error.HTTPError as e:
            return e.code, "text/plain", b""
        rows = [_row(each) for each in files]
        later = f"{name.replace('-', '_')}-{LATER}-py3-none-any.whl"
        rows.append(f'<a href="/later/{later}">{later}</a>')
        page = "<!DOCTYPE html><html><body>" + "<br/>\n".join(rows) + "</body></html>"
        return 200, "text/html", page.encode()


def _row(file: dict[str, object]) -> str:
    hashes = file.get("hashes") or {}
    assert isinstance(hashes, dict)
    digest = "".join(f"#sha256={value}" for key, value in hashes.items() if key == "sha256")
    needs = html.escape(str(file.get("requires-python") or ""))
    return f'<a href="{file["url"]}{digest}" data-requires-python="{needs}">{file["filename"]}</a>'


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _wheel(name: str) -> bytes:
    file, info = io.BytesIO(), f"{name.replace('-', '_')}-{LATER}.dist-info"
    with zipfile.ZipFile(file, "w") as wheel:
        wheel.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {LATER}\n"
        )
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    return file.getvalue()
