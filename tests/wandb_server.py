"""A W&B server on 127.0.0.1 that takes what a run sends, as far as a run needs an answer."""

import gzip
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple


class Server(NamedTuple):
    """Where it is, and what came.

    Attributes:
        url: for `WANDB_BASE_URL`.
        runs: the variables of each request that made or changed a run.
        uploaded: by file name, the files of all runs.
    """

    url: str
    runs: list[dict[str, Any]]
    uploaded: dict[str, bytes]


@contextmanager
def wandb_server() -> Iterator[Server]:
    """Serve until the block ends."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as http:
        server = Server(f"http://127.0.0.1:{http.server_port}", [], {})
        _Handler.server_now = server
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield server
        http.shutdown()


class _Handler(BaseHTTPRequestHandler):
    server_now: Server

    def do_POST(self) -> None:
        content = self._content()
        answer = {}
        if self.path == "/graphql":
            asked = json.loads(content)
            answer = {"data": self._answer(asked["query"], asked.get("variables", {}))}
        self._reply(answer)

    def do_PUT(self) -> None:
        self.server_now.uploaded[self.path.removeprefix("/upload/")] = self._content()
        self._reply({})

    def log_message(self, *_: Any) -> None:
        """Keep the tests' output free of requests."""

    def _content(self) -> bytes:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        packed = self.headers.get("Content-Encoding") == "gzip"
        return gzip.decompress(content) if packed else content

    def _reply(self, answer: Any) -> None:
        content = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _answer(self, query: str, given: dict[str, Any]) -> dict[str, Any]:
        if "upsertBucket" in query:
            self.server_now.runs.append(given)
            entity = {"id": "entity", "name": given.get("entity") or "someone"}
            project = {"id": "project", "name": given.get("project"), "entity": entity}
            bucket = {"id": "run", "name": given.get("name"), "project": project, "config": "{}"}
            return {"upsertBucket": {"bucket": bucket, "inserted": True}}
        if "createRunFiles" in query:
            url = self.server_now.url
            files = [{"name": name, "uploadUrl": f"{url}/upload/{name}"} for name in given["files"]]
            return {"createRunFiles": {"runID": "run", "uploadHeaders": [], "files": files}}
        return {}
