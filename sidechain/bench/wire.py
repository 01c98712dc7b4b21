"""Clients for measuring: a socket, a prepared request, the reply's first and last bytes.

They cost some ten microseconds a request, so that what is measured is the node.
"""

import json
import socket
import threading
import time
from base64 import b64encode
from collections.abc import Sequence
from typing import Any

TIMEOUT_S = 600
USER = "bench"
PASSWORD = "bench"


class RequestFailed(Exception):
    """The node refused what the load says is valid, or did not answer."""


class Wire:
    """One keep-alive connection to a node's JSON-RPC port."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._rest = b""
        login = b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        self._head = (
            "POST / HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            f"Authorization: Basic {login}\r\n"
            "Content-Type: application/json\r\nContent-Length: "
        ).encode()

    def __enter__(self) -> "Wire":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def call(self, method: str, *params: Any) -> Any:
        """Run a method and return its result. Raises RequestFailed."""
        reply = json.loads(self.post(request(method, *params)))
        if reply["error"] is not None:
            raise RequestFailed(f"{method}: {reply['error']}")
        return reply["result"]

    def post(self, body: bytes) -> bytes:
        """Send one request and return the body of the reply."""
        self._socket.sendall(b"%b%d\r\n\r\n%b" % (self._head, len(body), body))
        data = self._rest
        while b"\r\n\r\n" not in data:
            data += self._receive()
        head, _, rest = data.partition(b"\r\n\r\n")
        length = next(
            int(line.split(b":")[1])
            for line in head.split(b"\r\n")
            if line.lower().startswith(b"content-length:")
        )
        pieces, have = [rest], len(rest)
        while have < length:
            pieces.append(self._receive())
            have += len(pieces[-1])
        whole = b"".join(pieces)
        self._rest = whole[length:]
        return whole[:length]

    def _receive(self) -> bytes:
        piece = self._socket.recv(262_144)
        if not piece:
            raise RequestFailed("the node closed the connection")
        return piece


def request(method: str, *params: Any) -> bytes:
    """A JSON-RPC 1.0 request."""
    return json.dumps({"method": method, "params": params, "id": 1}).encode()


def batch_request(method: str, params: Sequence[str]) -> bytes:
    """One request for every parameter, in one body."""
    calls = [{"method": method, "params": [each], "id": n} for n, each in enumerate(params)]
    return json.dumps(calls).encode()


def post_all(port: int, clients: int, bodies: Sequence[bytes]) -> float:
    """Send all requests, dealt out to some clients; seconds from the first to the last reply.

    Raises:
        RequestFailed: a reply tells of an error.
    """
    faults: list[bytes] = []

    def run(own: Sequence[bytes]) -> None:
        with Wire(port) as wire:
            wire.call("getblockcount")
            ready.wait()
            for body in own:
                reply = wire.post(body)
                if b'"error":null' not in reply:
                    faults.append(reply)
                    return

    ready = threading.Barrier(clients + 1)
    threads = [threading.Thread(target=run, args=(bodies[n::clients],)) for n in range(clients)]
    for thread in threads:
        thread.start()
    ready.wait()
    begun_s = time.perf_counter()
    for thread in threads:
        thread.join()
    took_s = time.perf_counter() - begun_s
    if faults:
        raise RequestFailed(faults[0][:300].decode(errors="replace"))
    return took_s
