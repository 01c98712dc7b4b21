"""A small blocking JSON-RPC client, apart from the one under test."""

import base64
import http.client
import json
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any


class Refused(Exception):
    """The server's error reply."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{message} ({code})")
        self.code = code
        self.message = message


class NoAnswer(Exception):
    """Nobody listens, or the connection broke."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back over HTTP."""

    status: int
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Rpc:
    """One server on loopback; every call takes a connection of its own."""

    port: int
    cookie: Path
    path: str = "/"
    timeout_s: float = field(default=30)

    def call(self, method: str, *params: Any) -> Any:
        """Run one method.

        Raises:
            Refused: its error reply. NoAnswer: none.
        """
        request = {"jsonrpc": "1.0", "id": 1, "method": method, "params": params}
        try:
            secret = self.cookie.read_bytes().strip()
            reply = self.post(json.dumps(request).encode(), authorization(secret))
            answer = json.loads(reply.body, parse_float=Decimal)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise NoAnswer(f"{method} on port {self.port}: {error!r}") from error
        if answer.get("error") is not None:
            raise Refused(answer["error"]["code"], answer["error"]["message"])
        return answer["result"]

    def post(self, body: bytes, headers: dict[str, str] | None = None) -> Reply:
        """Send any bytes as a request body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=self.timeout_s)
        try:
            connection.request("POST", self.path, body, headers or {})
            response = connection.getresponse()
            return Reply(response.status, response.read())
        finally:
            connection.close()

    def answers(self) -> bool:
        """Whether a method runs there."""
        try:
            self.call("help")
        except Refused:
            return True
        except NoAnswer:
            return False
        return True


def authorization(secret: bytes) -> dict[str, str]:
    """HTTP headers of basic authentication with `user:password`."""
    return {"Authorization": "Basic " + base64.b64encode(secret).decode()}


def sats(amount: Decimal | int | str) -> int:
    """A bitcoin amount in satoshis, exactly."""
    scaled = Decimal(amount) * 100_000_000
    if scaled != int(scaled):
        raise ValueError(f"{amount} is finer than a satoshi")
    return int(scaled)
