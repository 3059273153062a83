"""An OpenAI-compatible endpoint on this machine, for the tests of the judge: it replies as it is told."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Reply:
    """What the server sends: a completion's text, or `body` as it is. With `drip` seconds between bytes."""

    text: str = ""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    wait: float = 0.0
    drip: float = 0.0

    def payload(self) -> bytes:
        if self.body is not None:
            return self.body
        message = {"role": "assistant", "content": self.text}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        whole = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
        return json.dumps(whole).encode()


Script = Callable[[int, dict[str, Any]], Reply]


class JudgeServer:
    """`script(n, request)` says how request n, counted from 0, is answered."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.requests: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.keys: list[str] = []
        self.most_at_once = 0
        self.at_once = 0
        self.lock = threading.Lock()
        self.stopped = threading.Event()
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.http.daemon_threads = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http.server_address[1]}/v1"

    def material(self, n: int) -> str:
        """What the judge was shown in request n."""
        return str(self.requests[n]["messages"][1]["content"])


def _handler(server: JudgeServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with server.lock:
                n = len(server.requests)
                server.requests.append(request)
                server.times.append(time.monotonic())
                server.keys.append(self.headers.get("Authorization", ""))
                server.at_once += 1
                server.most_at_once = max(server.most_at_once, server.at_once)
            try:
                self._send(server.script(n, request))
            finally:
                with server.lock:
                    server.at_once -= 1

        def _send(self, reply: Reply) -> None:
            payload = reply.payload()
            server.stopped.wait(reply.wait)
            try:
                self.send_response(reply.status)
                for name, value in {"Content-Type": "application/json", **reply.headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(payload)))
                self.end_headers()
                for byte in payload if reply.drip else ():
                    self.wfile.write(bytes([byte]))
                    if server.stopped.wait(reply.drip):
                        return
                if not reply.drip:
                    self.wfile.write(payload)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True  # the client has given up

        def log_message(self, *_: object) -> None:
            pass

    return Handler


@contextmanager
def judge_server(script: Script) -> Iterator[JudgeServer]:
    """A server on a free port of the loopback interface, until the block is left."""
    server = JudgeServer(script)
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.stopped.set()
        server.http.shutdown()
        server.http.server_close()
        thread.join()


def verdict(score: Any) -> Reply:
    """A reply as it should be."""
    return Reply(json.dumps({"reason": "because", "score": score}))
