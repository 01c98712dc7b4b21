"""A real process: start, cookie, stop, signals, lock, restart, the parent's check."""

import signal
import stat
from pathlib import Path
from typing import Any

import pytest

from sidechain.api.client import RpcClient
from tests.sidechain.daemon.daemon_process import Daemon, DaemonError, RpcReply, ScriptedParent

ALONE = ("-chain=alone", "-validatepegin=0")
REGTEST_GENESIS = "0f9188f13cb7b2c71f2a335e3a4fc328bf5beb436012afca590b1a11466e2206"


async def test_node_when_started_then_answers_until_stopped(tmp_path: Path) -> None:
    async with Daemon(tmp_path, *ALONE).running() as daemon:
        assert await daemon.call("getblockcount") == 0
        assert (await daemon.call("getblockchaininfo"))["chain"] == "alone"
        assert (tmp_path / "alone" / "sidechaind.pid").read_text() == f"{daemon.process.pid}\n"
        assert not (tmp_path / "alone" / ".cookie").exists()
        assert "stopping" in await daemon.call("stop")
        code, errors = await daemon.ended()
        assert (code, errors) == (0, "")
    assert not (tmp_path / "alone" / "sidechaind.pid").exists()
    assert "Shutdown: done" in (tmp_path / "alone" / "debug.log").read_text()


@pytest.mark.slow
async def test_option_without_effect_when_given_then_only_the_log_says_so(tmp_path: Path) -> None:
    async with Daemon(tmp_path, *ALONE, "-dbcache=50").running() as daemon:
        await daemon.call("stop")
        assert await daemon.ended() == (0, "")
    log = (tmp_path / "alone" / "debug.log").read_text()
    assert log.count("Warning: option -dbcache has no effect") == 1


@pytest.mark.slow
async def test_cookie_when_there_is_no_password_then_it_lets_in(tmp_path: Path) -> None:
    async with Daemon(tmp_path, *ALONE, "-rpcpassword=").running(ready=False) as daemon:
        cookie = tmp_path / "alone" / ".cookie"
        assert stat.S_IMODE(cookie.stat().st_mode) == 0o600
        url = f"http://127.0.0.1:{daemon.port}/"
        async with RpcClient(url, cookie, retry_for_s=60) as client:
            assert await client.call("getblockcount") == 0
    assert not cookie.exists()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_node_when_signalled_then_ends_in_order(tmp_path: Path, number: int) -> None:
    daemon = Daemon(tmp_path, *ALONE)
    await daemon.start()
    await daemon.call("getblockcount")
    assert await daemon.end(number) == 0
    assert "Shutdown: done" in (tmp_path / "alone" / "debug.log").read_text()


@pytest.mark.slow
async def test_second_node_when_the_folder_is_taken_then_refused(tmp_path: Path) -> None:
    async with Daemon(tmp_path, *ALONE).running() as daemon:
        second = Daemon(tmp_path, *ALONE)
        await second.spawn()
        code, errors = await second.ended()
        assert code == 1
        assert errors == (
            f"Error: Cannot obtain a lock on directory {tmp_path}/alone. sidechaind is probably"
            " already running.\n"
        )
        assert await daemon.call("getblockcount") == 0


@pytest.mark.slow
async def test_node_when_the_genesis_options_change_then_the_folder_is_refused(
    tmp_path: Path,
) -> None:
    async with Daemon(tmp_path, *ALONE).running():
        pass
    other = Daemon(tmp_path, *ALONE, "-initialfreecoins=5")
    await other.spawn()
    code, errors = await other.ended()
    assert code == 1 and "Incorrect or no genesis block found" in errors


@pytest.mark.slow
async def test_clock_when_mocked_then_stands_still(tmp_path: Path) -> None:
    async with Daemon(tmp_path, *ALONE, "-mocktime=1700000000").running() as daemon:
        await daemon.call("setmocktime", 1_296_688_602)
        assert not (await daemon.call("getblockchaininfo"))["initialblockdownload"]
        with pytest.raises(DaemonError) as refused:
            await daemon.call("setmocktime", -1)
        assert refused.value.code == -8
        assert await daemon.call("mockscheduler", 3600) is None
        for seconds in (0, 3601):
            with pytest.raises(DaemonError) as refused:
                await daemon.call("mockscheduler", seconds)
            assert refused.value.code == -1


def parent_answers(**changes: Any) -> Any:
    known = {"getnetworkinfo": {"version": 290500, "subversion": "/Satoshi:29.5.0/"}}
    known["getblockhash"] = REGTEST_GENESIS
    known |= changes

    def answer(method: str, params: list[Any]) -> Any:
        found = known[method]
        if isinstance(found, list):
            found = found.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    return answer


@pytest.mark.slow
async def test_parent_when_it_fits_then_the_node_starts(tmp_path: Path) -> None:
    """elements/peg.md 6."""
    async with (
        ScriptedParent(parent_answers()) as parent,
        Daemon(tmp_path, "-chain=pegged", *parent.options).running(),
    ):
        assert parent.calls == ["getnetworkinfo", "getblockhash"]


@pytest.mark.slow
async def test_parent_when_warming_up_then_the_node_waits_and_says_so(tmp_path: Path) -> None:
    """elements/interfaces.md 6: RPC is reachable and answers -28."""
    ready = {"version": 290500, "subversion": "/Satoshi:29.5.0/"}
    starting = RpcReply(-28, "Loading block index…")
    answers = parent_answers(getnetworkinfo=[starting, starting, ready])
    async with (
        ScriptedParent(answers) as parent,
        Daemon(tmp_path, "-chain=pegged", *parent.options).running(ready=False) as daemon,
    ):
        with pytest.raises(DaemonError) as warming:
            await daemon.call("getblockcount")
        assert warming.value.code == -28
        await daemon.ready()
        assert parent.calls.count("getnetworkinfo") == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "options", "text"),
    [
        ({"getnetworkinfo": {"version": 160299, "subversion": "x"}}, (), "valid response"),
        ({"getblockhash": "00" * 32}, (), "valid response"),
        ({"getblockhash": RpcReply(-5, "no")}, (), "valid response"),
        (
            {"getnetworkinfo": {"version": 240000, "subversion": "/Satoshi:24/"}},
            ("-peginminheight=1", "-peginminamount=1", "-peginsubsidythreshold=1"),
            "version 25 or newer",
        ),
    ],
)
async def test_parent_when_it_does_not_fit_then_the_node_ends(
    tmp_path: Path, changes: dict[str, Any], options: tuple[str, ...], text: str
) -> None:
    async with ScriptedParent(parent_answers(**changes)) as parent:
        daemon = Daemon(tmp_path, "-chain=pegged", *parent.options, *options)
        await daemon.spawn()
        code, errors = await daemon.ended()
    assert code == 1
    assert errors.startswith("Error: ERROR: ") and text in errors


@pytest.mark.slow
async def test_stop_when_the_parent_is_still_starting_then_the_node_ends(tmp_path: Path) -> None:
    def answer(method: str, params: list[Any]) -> Any:
        raise RpcReply(-28, "Loading")

    async with ScriptedParent(answer) as parent:
        daemon = Daemon(tmp_path, "-chain=pegged", *parent.options)
        await daemon.start()
        assert await daemon.end() == 0
