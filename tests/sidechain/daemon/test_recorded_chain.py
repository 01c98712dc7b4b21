"""The whole recorded chain through a real process: every verdict and every reason.

The parent's node is a stand-in that answers from the recording, for these vectors only.
"""

from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from tests.sidechain.daemon.daemon_process import Daemon, DaemonError, RpcReply, ScriptedParent
from tests.vectors import case_bytes, chain_json

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

CLOCK_AHEAD_S = 30


class RecordedParent:
    """The parent chain as it was at a height that the test sets."""

    def __init__(self) -> None:
        recorded = chain_json("parent.json")
        self.height = 0
        self._headers = {entry["hash"]: entry for entry in recorded["headers"]}
        self._sizes = {entry["txid"]: entry["vsize"] for entry in recorded["deposits"]}

    def answer(self, method: str, params: list[Any]) -> Any:
        match method:
            case "getnetworkinfo":
                return {"version": 290500, "subversion": "/Satoshi:29.5.0/"}
            case "getblockhash":
                (found,) = (h for h in self._headers.values() if h["height"] == params[0])
                return found["hash"]
            case "getblockheader":
                known = self._headers.get(params[0])
                if known is None or known["height"] > self.height:
                    raise RpcReply(-5, "Block not found")
                depth = self.height - known["height"] + 1
                return {"confirmations": depth, "nTx": known["ntx"]}
            case "getrawtransaction":
                return {"txid": params[0], "vsize": self._sizes.get(params[0]) or 200, "fee": 1e-5}
        raise RpcReply(-32601, "Method not found")


def by_height(name: str, key: str) -> dict[int, list[dict[str, Any]]]:
    """The cases of a file by a height that they name."""
    found = defaultdict(list)
    for entry in chain_json(name):
        found[entry.get(key)].append(entry)
    return found


def block_with(entry: dict[str, Any]) -> str:
    """The signed block that was tried with an invalid transaction."""
    tried = entry["block"]
    before = entry.get("with_txs") or tried.get("with_txs") or []
    count = tried["ntx"]
    assert count < 253
    raw = case_bytes(entry).hex()
    return "".join([tried["header"], f"{count:02x}", tried["coinbase"], *before, raw])


def code_or_word(recorded: Any) -> Any:
    """What `submitblock` answered, an error by its code."""
    return recorded.get("error", recorded)["code"] if isinstance(recorded, dict) else recorded


class Session:
    """One daemon fed with the recording."""

    def __init__(self, daemon: Daemon, parent: RecordedParent) -> None:
        self.daemon = daemon
        self.parent = parent
        self.compared = 0
        self.differences: list[str] = []
        self._valid = by_height("txs_valid.json", "mempool_tip_height")
        self._invalid = by_height("invalid_txs.json", "tip_height")
        self._invalid_blocks = by_height("invalid_blocks.json", "tip_height")

    def compare(self, what: str, got: Any, wanted: Any) -> None:
        self.compared += 1
        if got != wanted:
            self.differences.append(f"{what}: {got!r}, recorded {wanted!r}")

    async def submit(self, block_hex: str, time_s: int) -> Any:
        await self.daemon.call("setmocktime", time_s)
        try:
            return await self.daemon.call("submitblock", block_hex)
        except DaemonError as error:
            return error.code

    async def judge(self, raw_hex: str, time_s: int) -> tuple[Any, Any]:
        await self.daemon.call("setmocktime", time_s)
        try:
            (verdict,) = await self.daemon.call("testmempoolaccept", [raw_hex], 0)
        except DaemonError as error:
            return "error", error.code
        return verdict["allowed"], verdict.get("reject-reason")

    async def connect(self, entry: dict[str, Any]) -> None:
        found = await self.submit(case_bytes(entry).hex(), entry["json"]["time"] + CLOCK_AHEAD_S)
        self.compare(f"block {entry['height']}", found, None)
        if entry["verbosity"] == 2:
            shown = await self.daemon.call("getblock", entry["hash"], 2)
            for each in (shown, *shown["tx"]):
                for name in ("confirmations", "nextblockhash", "hex"):
                    each.pop(name, None)
            self.compare(f"shown block {entry['height']}", shown, entry["json"])

    async def transactions_at(self, entry: dict[str, Any]) -> None:
        height, time_s = entry["height"], entry["json"]["time"]
        for case in self._valid[height]:
            block = chain_json("blocks.json")[case["block_height"]]
            self.parent.height = block["parent_height"] or self.parent.height
            recorded = case["mempool"]
            wanted = recorded.get("allowed"), recorded.get("reject-reason")
            found = await self.judge(case["hex"], time_s + CLOCK_AHEAD_S)
            self.compare(case["label"], found, wanted)
        for case in self._invalid[height]:
            self.parent.height = case.get("parent_height") or self.parent.height
            recorded = case["mempool"]
            if recorded is not None:
                wanted = recorded.get("allowed"), recorded.get("reject-reason")
                if recorded.get("error"):
                    wanted = "error", recorded["error"]["code"]
                raw = case_bytes(case).hex()
                found = await self.judge(raw, time_s + CLOCK_AHEAD_S)
                self.compare(f"{case['id']} {case['label']}", found, wanted)
            tried = case.get("block")
            # A block that only waits for the parent would stay a candidate for what follows.
            if tried and tried["verdict"] == "invalid":
                header = bytes.fromhex(tried["header"])
                own_time_s = int.from_bytes(header[68:72], "little")
                word = await self.submit(block_with(case), max(own_time_s, time_s) + CLOCK_AHEAD_S)
                wanted_word = code_or_word(tried["submitblock"])
                self.compare(f"{case['id']} in a block", word, wanted_word)
            self.parent.height = parent_height(entry)

    async def blocks_at(self, entry: dict[str, Any]) -> None:
        for case in self._invalid_blocks[entry["height"]]:
            time_s = case.get("node_time") or entry["json"]["time"] + CLOCK_AHEAD_S
            word = await self.submit(case_bytes(case).hex(), time_s)
            self.compare(f"{case['id']} {case['label']}", word, code_or_word(case["submitblock"]))
            best = await self.daemon.call("getbestblockhash")
            self.compare(f"tip after {case['id']}", best, entry["hash"])


def parent_height(entry: dict[str, Any]) -> int:
    """Height of the parent when a block was submitted."""
    before = chain_json("blocks.json")[: entry["height"] + 1]
    known = [each["parent_height"] for each in before if each["parent_height"] is not None]
    return int(known[-1]) if known else 0


async def test_recorded_chain_when_fed_by_rpc_then_every_verdict_and_reason_is_elementsds(
    tmp_path: Path,
) -> None:
    parent = RecordedParent()
    options = [*chain_json("params.json")["elementsd_options"], "-txindex=1"]
    async with ScriptedParent(parent.answer) as server:
        daemon = Daemon(tmp_path, *options, *server.options, "-acceptnonstdtxn=0")
        async with daemon.running():
            session = Session(daemon, parent)
            figures = {entry["height"]: entry["none"] for entry in chain_json("utxo.json")}
            for entry in chain_json("blocks.json"):
                parent.height = parent_height(entry)
                if entry["height"]:
                    await session.connect(entry)
                if entry["height"] in figures:
                    found = await daemon.call("gettxoutsetinfo", "none")
                    recorded = figures[entry["height"]]
                    same = {key: found.get(key) for key in recorded}
                    session.compare(f"coins at {entry['height']}", same, recorded)
                await session.transactions_at(entry)
                await session.blocks_at(entry)
            await _reorganise(session)
    print(f"compared with the recording: {session.compared}")
    assert not session.differences
    assert session.compared > len(chain_json("blocks.json"))


async def _reorganise(session: Session) -> None:
    recorded = chain_json("reorg.json")
    session.parent.height = recorded["parent_height"]
    for position, step in enumerate(recorded["steps"]):
        raw = case_bytes(step)
        time_s = int.from_bytes(raw[68:72], "little") + CLOCK_AHEAD_S
        word = await session.submit(raw.hex(), time_s)
        session.compare(f"reorganisation {position}", word, step["submitblock"])
        tip = step["tip_after"]
        wanted = tip["hash"] if isinstance(tip, dict) else tip
        session.compare(
            f"tip after {position}", await session.daemon.call("getbestblockhash"), wanted
        )
