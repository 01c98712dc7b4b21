"""A real `sidechaind` process for tests, and a parent node that says what it is told to."""

import asyncio
import base64
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import Any, Self

import aiohttp
from aiohttp import web

START_TIMEOUT_S = 60
END_TIMEOUT_S = 60
USER, PASSWORD = "u", "p"


class Daemon:
    """One process; `start` waits until it prints the port it chose."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.options = options
        self.process: asyncio.subprocess.Process | None = None
        self.port = 0
        self.printed = ""

    @asynccontextmanager
    async def running(self, *, ready: bool = True) -> AsyncIterator[Self]:
        """The started daemon; ended at the end, if the test has not.

        Args:
            ready: wait until it answers requests.
        """
        await self.start()
        try:
            if ready:
                await self.ready()
            yield self
        finally:
            await self.end()

    async def spawn(self) -> asyncio.subprocess.Process:
        """Start the process without waiting for anything."""
        self.process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "sidechain.daemon",
            f"-datadir={self.folder}",
            "-rpcport=0",
            "-printtoconsole=0",
            f"-rpcuser={USER}",
            f"-rpcpassword={PASSWORD}",
            *self.options,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "HOME": str(self.folder)},
        )
        return self.process

    async def start(self) -> None:
        """Start the process and learn its port."""
        process = await self.spawn()
        assert process.stdout is not None
        async with asyncio.timeout(START_TIMEOUT_S):
            line = (await process.stdout.readline()).decode()
        if not line.startswith("rpcport="):
            code, errors = await self.ended()
            raise AssertionError(f"sidechaind ended with {code}: {line}{errors}")
        self.port = int(line.partition("=")[2])

    async def ready(self) -> None:
        """Wait until it answers requests."""
        async with asyncio.timeout(START_TIMEOUT_S):
            while True:
                try:
                    await self.call("getblockcount")
                except DaemonError as error:
                    assert error.code == -28
                    await asyncio.sleep(0.05)
                else:
                    return

    async def end(self, number: int = signal.SIGTERM) -> int:
        """End the process with a signal; its exit code."""
        assert self.process is not None
        if self.process.returncode is None:
            with suppress(ProcessLookupError):
                self.process.send_signal(number)
        return (await self.ended())[0]

    async def ended(self) -> tuple[int, str]:
        """Exit code and what it wrote to the standard error."""
        assert self.process is not None
        async with asyncio.timeout(END_TIMEOUT_S):
            _, errors = await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode, errors.decode()

    async def call(self, method: str, *params: Any) -> Any:
        """One RPC; raises DaemonError with the error object."""
        reply = await self.post({"method": method, "params": list(params), "id": 1})
        if reply["error"] is not None:
            raise DaemonError(reply["error"]["code"], reply["error"]["message"])
        return reply["result"]

    async def post(self, body: Any) -> Any:
        """Post a request as it is."""
        text = json.dumps(body).encode()
        login = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        async with aiohttp.ClientSession(headers={"Authorization": f"Basic {login}"}) as session:
            url = f"http://127.0.0.1:{self.port}/"
            async with session.post(url, data=BytesIO(text)) as response:
                return await response.json(content_type=None)


class DaemonError(Exception):
    """An error reply: code and message."""

    @property
    def code(self) -> int:
        return int(self.args[0])

    @property
    def message(self) -> str:
        return str(self.args[1])


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that another process does."""
    async with asyncio.timeout(END_TIMEOUT_S):
        while True:
            if condition():
                return
            await asyncio.sleep(0.05)


class ScriptedParent:
    """An HTTP server that answers JSON-RPC from a function; a parent stand-in for unit tests."""

    def __init__(self, answer: Callable[[str, list[Any]], Any]) -> None:
        """
        Args:
            answer: result of a method; an `RpcReply` exception is the error reply.
        """
        self._answer = answer
        self._runner: web.AppRunner | None = None
        self.port = 0
        self.calls: list[str] = []

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post("/", self._handle)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        assert site._server is not None
        self.port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    @property
    def options(self) -> list[str]:
        """What tells a daemon to use this parent."""
        return [
            f"-mainchainrpcport={self.port}",
            "-mainchainrpcuser=x",
            "-mainchainrpcpassword=y",
        ]

    async def _handle(self, request: web.Request) -> web.Response:
        asked = await request.json()
        self.calls.append(asked["method"])
        try:
            found = self._answer(asked["method"], asked["params"])
        except RpcReply as error:
            body = {"result": None, "error": {"code": error.args[0], "message": error.args[1]}}
            return web.json_response(body, status=500)
        return web.json_response({"result": found, "error": None, "id": 1})


class RpcReply(Exception):
    """An error reply of a scripted parent: code and message."""
