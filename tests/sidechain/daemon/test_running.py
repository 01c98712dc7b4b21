"""A real process over recorded blocks: restart, reindex, notifications, Esplora, index rules."""

import shutil
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.sidechain.daemon.daemon_process import Daemon, DaemonError, until
from tests.vectors import case_bytes, chain_json

pytestmark = pytest.mark.slow

BLOCKS = 8


@pytest.fixture
def recorded_options() -> list[str]:
    options: list[str] = chain_json("params.json")["elementsd_options"]
    return [*options, "-validatepegin=0", "-txindex=1"]


async def feed(daemon: Daemon, count: int = BLOCKS) -> dict[str, Any]:
    """Submit the first recorded blocks; the entry of the last."""
    for entry in chain_json("blocks.json")[1 : count + 1]:
        await daemon.call("setmocktime", entry["json"]["time"] + 30)
        assert await daemon.call("submitblock", case_bytes(entry).hex()) is None
    last: dict[str, Any] = chain_json("blocks.json")[count]
    assert await daemon.call("getbestblockhash") == last["hash"]
    return last


async def test_chain_when_restarted_then_goes_on_where_it_stopped(
    tmp_path: Path, recorded_options: list[str]
) -> None:
    async with Daemon(tmp_path, *recorded_options).running() as daemon:
        last = await feed(daemon)
        figures = await daemon.call("gettxoutsetinfo")
    async with Daemon(tmp_path, *recorded_options).running() as daemon:
        assert await daemon.call("getbestblockhash") == last["hash"]
        again = await daemon.call("gettxoutsetinfo")
        same = ("height", "bestblock", "txouts", "hash_serialized_3", "total_amount")
        assert {key: again.get(key) for key in same} == {key: figures.get(key) for key in same}
        following = chain_json("blocks.json")[BLOCKS + 1]
        await daemon.call("setmocktime", following["json"]["time"] + 30)
        assert await daemon.call("submitblock", case_bytes(following).hex()) is None


async def test_reindex_when_the_state_is_made_anew_then_it_is_the_same(
    tmp_path: Path, recorded_options: list[str]
) -> None:
    async with Daemon(tmp_path, *recorded_options).running() as daemon:
        last = await feed(daemon)
        figures = await daemon.call("gettxoutsetinfo", "none")
    async with Daemon(tmp_path, *recorded_options, "-reindex").running() as daemon:
        assert await daemon.call("getbestblockhash") == last["hash"]
        again = await daemon.call("gettxoutsetinfo", "none")
        assert again["txouts"] == figures["txouts"] and again["bogosize"] == figures["bogosize"]
    folder = tmp_path / chain_json("params.json")["chain"]
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == ["sidechain"]
    assert f"Reindexing: done, {BLOCKS} blocks" in (folder / "debug.log").read_text()


@pytest.mark.parametrize("left", ["sidechain.old", "sidechain.new"])
async def test_reindex_when_a_crash_left_folders_then_the_state_is_found(
    tmp_path: Path, recorded_options: list[str], left: str
) -> None:
    """The two moments of the exchange: before it, and between its two steps."""
    async with Daemon(tmp_path, *recorded_options).running() as daemon:
        last = await feed(daemon, 2)
    folder = tmp_path / chain_json("params.json")["chain"]
    if left.endswith(".old"):
        (folder / "sidechain").rename(folder / left)
    else:
        shutil.copytree(folder / "sidechain", folder / left)
    async with Daemon(tmp_path, *recorded_options).running() as daemon:
        assert await daemon.call("getbestblockhash") == last["hash"]
    assert not (folder / left).exists()


async def test_notifications_when_named_then_their_commands_run(
    tmp_path: Path, recorded_options: list[str]
) -> None:
    told = tmp_path / "told"
    commands = [
        f"-startupnotify=echo started >> {told}",
        f"-blocknotify=echo %s >> {told}",
        f"-shutdownnotify=echo stopping >> {told}",
    ]
    async with Daemon(tmp_path, *recorded_options, *commands).running() as daemon:
        last = await feed(daemon, 1)
        await until(lambda: told.exists() and last["hash"] in told.read_text())
    lines = told.read_text().split()
    assert set(lines) == {"started", last["hash"], "stopping"} and lines[-1] == "stopping"


async def test_height_when_it_is_to_stop_at_is_reached_then_the_node_ends(
    tmp_path: Path, recorded_options: list[str]
) -> None:
    async with Daemon(tmp_path, *recorded_options, "-stopatheight=2").running() as daemon:
        await feed(daemon, 1)
        entry = chain_json("blocks.json")[2]
        await daemon.call("setmocktime", entry["json"]["time"] + 30)
        assert await daemon.call("submitblock", case_bytes(entry).hex()) is None
        assert (await daemon.ended())[0] == 0


async def test_esplora_when_asked_for_then_it_shows_the_tip(
    tmp_path: Path, recorded_options: list[str]
) -> None:
    async with Daemon(tmp_path, *recorded_options, "-esplora=0").running() as daemon:
        process = daemon.process
        assert process is not None and process.stdout is not None
        line = (await process.stdout.readline()).decode()
        port = int(line.removeprefix("esplora="))
        last = await feed(daemon, 1)
        url = f"http://127.0.0.1:{port}/blocks/tip/hash"
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            assert (await response.text()).strip() == last["hash"]


async def test_transaction_when_there_is_no_index_then_a_block_must_be_named(
    tmp_path: Path, recorded_options: list[str]
) -> None:
    async with Daemon(tmp_path, *recorded_options, "-txindex=0").running() as daemon:
        last = await feed(daemon, 1)
        txid = last["json"]["tx"][0]["txid"]
        with pytest.raises(DaemonError) as refused:
            await daemon.call("getrawtransaction", txid)
        assert refused.value.code == -5 and "Use -txindex" in refused.value.message
        assert await daemon.call("getrawtransaction", txid, 0, last["hash"])
        assert await daemon.call("getindexinfo") == {}


async def test_clock_when_the_tip_may_be_old_then_the_node_has_caught_up(
    tmp_path: Path, recorded_options: list[str]
) -> None:
    far = f"-maxtipage={10**9}"
    async with Daemon(tmp_path, *recorded_options, far).running() as daemon:
        assert not (await daemon.call("getblockchaininfo"))["initialblockdownload"]


@pytest.mark.parametrize(("kept", "waiting"), [("1", 1), ("0", 0)])
async def test_mempool_when_restarted_then_waiting_transactions_are_kept_or_not(
    tmp_path: Path, kept: str, waiting: int
) -> None:
    options = (
        "-chain=coins",
        "-validatepegin=0",
        "-initialfreecoins=1000000000",
        f"-persistmempool={kept}",
    )
    async with Daemon(tmp_path, *options).running() as daemon:
        genesis = await daemon.call("getblock", await daemon.call("getblockhash", 0))
        raw = await daemon.call(
            "createrawtransaction",
            [{"txid": genesis["tx"][1], "vout": 0}],
            [{"fee": 1}, {"burn": 9}],
        )
        assert await daemon.call("sendrawtransaction", raw, 0, 9)
    async with Daemon(tmp_path, *options).running() as daemon:
        assert len(await daemon.call("getrawmempool")) == waiting
