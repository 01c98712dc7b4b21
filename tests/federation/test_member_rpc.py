"""What a member answers beyond Elements' methods: the federation, its signers, the operator."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from federation.config import MemberConfig
from federation.consensus import events as ev
from federation.consensus.records import Mode
from federation.link import LinkStatus
from federation.member_rpc import BLOCKS_PER_TURN, MemberMethods
from federation.people import People
from federation.start import StartOptions
from peg.bitcoind import BitcoindError
from peg.parent_view import ParentView
from sidechain.api.registry import Registry, RpcError
from sidechain.errors import InvalidEncoding, Unavailable
from sidechain.wallet.covenant import CovenantTerms
from tests.federation.engine_world import Process, World, run_virtual

BURN = "ab" * 32 + ":1"


class Reports:
    """The peg's reports, as told."""

    def __init__(self) -> None:
        self.audit_now: Any = {"is_current": True}

    def info(self) -> dict[str, Any]:
        return {"parent_height": 7}

    def pegout(self, text: str) -> dict[str, Any] | None:
        if ":" not in text:
            raise InvalidEncoding("outpoint", "not txid:vout")
        return {"burn": text} if text == BURN else None

    def pegouts(self) -> list[dict[str, Any]]:
        return [{"burn": BURN}]

    def deposit(self, text: str) -> dict[str, Any]:
        if ":" not in text:
            raise InvalidEncoding("outpoint", "not txid:vout")
        return {"claimed": False}

    def audit(self) -> dict[str, Any]:
        if isinstance(self.audit_now, Exception):
            raise self.audit_now
        return dict(self.audit_now)


class Peg:
    """The peg service, as far as the methods ask it."""

    def __init__(self) -> None:
        self.reports = Reports()
        self.ledger = self.reserves = None
        self.approved: list[bytes] = []
        self.covenants: Covenants | None = Covenants()
        self.failure: Exception | None = None

    def info(self) -> dict[str, Any]:
        return self.reports.info()

    def summary(self) -> dict[str, Any]:
        return {"halts": []}

    def approve_record(self, data: bytes, details: Any = None) -> str:
        if len(data) != 32:
            raise InvalidEncoding("record", "neither a record nor a block hash")
        self.approved.append(data)
        return "name"

    async def sign_trial_spend(self, place: Any) -> tuple[bytes, bytes]:
        if self.failure:
            raise self.failure
        return b"\x01\x02", b"\x03"

    async def try_trial_spend(self, place: Any, given: dict[int, bytes]) -> tuple[bool, str]:
        return sorted(given) == [0, 2], "reason"


class Covenants:
    """Registrations, as far as the methods ask."""

    def register(self, terms: CovenantTerms) -> dict[str, Any]:
        if terms.max_fee_sats > 4_999:
            raise InvalidEncoding("covenant", "max_fee may be 4999 sat at most")
        return {"deposit_script": "0020" + "ab" * 32, "max_fee_sats": terms.max_fee_sats}

    def describe(self, script: bytes) -> dict[str, Any] | None:
        return {"deposits": []} if script == b"\x51" else None


class Network:
    """Links as `status` shows them."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self.parameter_mismatches = frozenset((3,))
        self.refused_connections = 2

    @property
    def connected(self) -> frozenset[int]:
        return self._process.network.connected

    def status(self) -> tuple[LinkStatus, ...]:
        return tuple(LinkStatus.down(i, 0, "not tried yet") for i in range(4))


class Rpc:
    """The methods of one member of a world."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.peg = Peg()
        self.watcher = SimpleNamespace(is_healthy=False, last_error="connection refused")
        self.registry = Registry()
        world = process.world
        parts: Any = {"peg": self.peg, "watcher": self.watcher, "network": Network(process)}
        MemberMethods(
            federation=world.file,
            config=MemberConfig.load(process.folder.path),
            chain=process.chain,
            driver=process.driver,
            engine=process.engine,
            production=process.production,
            people=People(world.file.people),
            changes=SimpleNamespace(status=lambda: {"members": ["m0"]}),
            parent=ParentView(),
            evidence=process.evidence,
            now_ms=world.now_ms,
            started_ms=world.now_ms(),
            esplora_url=lambda: "http://127.0.0.1:3000",
            signer=lambda: {"kind": "in-process", "connected": True, "pid": 1, "socket": None},
            **parts,
        ).register(self.registry)

    async def call(self, method: str, *params: Any) -> Any:
        return await self.registry.call(method, params)

    async def refusal(self, method: str, *params: Any) -> str:
        with pytest.raises(RpcError) as caught:
            await self.call(method, *params)
        return f"{caught.value.code} {caught.value.message}"


async def world_of(folder: Path, height: int = 3) -> World:
    world = World(folder, first_epoch_blocks=height)
    world.start_all()
    await world.until_height(height)
    return world


def test_federation_info_when_asked_then_tells_state_links_and_limits(tmp_path: Path) -> None:
    async def story() -> None:
        world = await world_of(tmp_path)
        rpc = Rpc(world.processes[1])
        info = await rpc.call("getfederationinfo")
        assert (info["n"], info["k"], info["f_s"], info["f_l"], info["index"]) == (4, 3, 1, 1, 1)
        assert info["mode"] == "VOTING" and info["height"] == 3 and info["online"] == 4
        assert info["best_block_hash"] == world.processes[1].chain.tip_hash[::-1].hex()
        assert info["next_proposer"] == 0 and info["syncing"] is False
        assert info["parent"] == {
            "healthy": False,
            "height": None,
            "error": "connection refused",
        }
        assert [m["name"] for m in info["members"]] == ["m0", "m1", "m2", "m3"]
        assert info["members"][1]["connected"] and not info["members"][0]["connected"]
        assert info["parameter_mismatches"] == [3] and info["refused_connections"] == 2
        assert info["evidence"] == 0 and info["alarms"] == []
        config = MemberConfig.load(world.processes[1].folder.path)
        assert info["timeouts"]["min_interval_ms"] == config.min_interval_ms
        rpc.watcher.is_healthy = True
        assert (await rpc.call("getfederationinfo"))["parent"]["height"] is None
        await world.close()

    run_virtual(story())


def test_block_signers_when_asked_then_k_of_each_and_the_proposer_where_known(
    tmp_path: Path,
) -> None:
    async def story() -> None:
        world = await world_of(tmp_path, BLOCKS_PER_TURN + 3)
        tip = world.processes[0].chain.tip_height
        rpc = Rpc(world.processes[0])
        rows = await rpc.call("getblocksigners", 1, 1_000)
        assert [row["height"] for row in rows] == list(range(1, tip + 1))
        for row in rows:
            assert len(row["signers"]) == 3
            assert sorted(row["signers"] + row["missed"]) == [0, 1, 2, 3]
            # a block that came signed before its COMMIT shows no round
            assert (row["round"], row["proposer"]) in ((0, row["height"] % 4), (None, None))
        assert sum(row["round"] == 0 for row in rows) > tip // 2
        assert [r["height"] for r in await rpc.call("getblocksigners", None, 2)] == [tip - 1, tip]
        assert await rpc.call("getblocksigners", tip + 1, 5) == []
        for params in ((0,), (1, 0), (1, 1_001), ("1",), (True,), (2**32,)):
            assert (await rpc.refusal("getblocksigners", *params)).startswith("-8 ")
        await world.kill(0)
        back = world.start(0, StartOptions())
        rows = await Rpc(back).call("getblocksigners", 1, 1_000)
        known = [row["height"] for row in rows if row["round"] is not None]
        assert known and set(known) <= set(range(1, tip + 1))  # its journal tells
        await world.close()

    run_virtual(story())


def test_peg_methods_when_asked_wrongly_then_the_reason(tmp_path: Path) -> None:
    async def story() -> None:
        world = await world_of(tmp_path, 1)
        rpc = Rpc(world.processes[0])
        assert await rpc.call("getpeginfo") == {"parent_height": 7}
        assert await rpc.call("getpegout", BURN) == {"burn": BURN}
        assert (await rpc.refusal("getpegout", "00" * 32 + ":0")).startswith("-5 ")
        assert (await rpc.refusal("getpegout", "x")).startswith("-8 ")
        assert (await rpc.refusal("getpegout", 5)).startswith("-8 ")
        assert await rpc.call("listpegouts") == [{"burn": BURN}]
        assert await rpc.call("getdeposit", BURN) == {"claimed": False}
        assert (await rpc.refusal("getdeposit", "x")).startswith("-8 ")
        assert await rpc.call("getaudit") == {"is_current": True}
        rpc.peg.reports.audit_now = Unavailable("no state yet")
        assert await rpc.refusal("getaudit") == "-28 no state yet"
        assert await rpc.call("getevidence") == []
        await world.close()

    run_virtual(story())


def test_record_when_approved_then_remembered_and_blocks_are_wanted(tmp_path: Path) -> None:
    async def story() -> None:
        world = await world_of(tmp_path, 1)
        rpc = Rpc(world.processes[0])
        assert await rpc.call("approverecord", "ab" * 32) == {"approved": "name"}
        assert rpc.peg.approved == [b"\xab" * 32]
        for record in ("ab", "zz", 5, None):
            assert (await rpc.refusal("approverecord", record)).startswith("-8 ")
        await world.close()

    run_virtual(story())


def test_trial_spend_when_asked_then_signed_or_tried(tmp_path: Path) -> None:
    async def story() -> None:
        world = await world_of(tmp_path, 1)
        rpc = Rpc(world.processes[2])
        signed = await rpc.call("dryrunopen", BURN)
        assert signed == {"member": 2, "unsigned": "0102", "signature": "03"}
        tried = await rpc.call("dryrunopen", BURN, {"0": "aa", "2": "bb"})
        assert tried == {"allowed": True, "reason": "reason"}
        for given in ([], {"a": "aa"}, {"0": "zz"}):
            assert (await rpc.refusal("dryrunopen", BURN, given)).startswith("-8 ")
        rpc.peg.failure = BitcoindError(-5, "no such output")
        assert (await rpc.refusal("dryrunopen", BURN)).startswith("-28 ")
        await world.close()

    run_virtual(story())


# -- operator


def test_unhalt_when_halted_then_the_kept_block_must_be_of_this_chain(tmp_path: Path) -> None:
    async def story() -> None:
        world = await world_of(tmp_path, 2)
        process = world.processes[0]
        rpc = Rpc(process)
        tip = process.chain.tip_hash[::-1].hex()
        assert "not halted" in await rpc.refusal("unhalt", tip)
        header = process.chain.header(1).serialize()
        process.engine.post(
            lambda: process.engine._feed(
                ev.ConflictFound(now_ms=world.now_ms(), first=header, second=header)
            )
        )
        await world.until(lambda: process.driver.mode is Mode.HALTED)
        assert "does not hold" in await rpc.refusal("unhalt", "11" * 32)
        assert (await rpc.refusal("unhalt", "zz")).startswith("-8 ")
        shown = await rpc.call("unhalt", tip)
        assert shown["kept"] == tip and shown["mode"] != "HALTED"
        await world.close()

    run_virtual(story())


def test_resume_when_the_member_waits_then_votes_from_there(tmp_path: Path) -> None:
    async def story() -> None:
        world = await world_of(tmp_path, 2)
        rpc = Rpc(world.processes[0])
        assert "does not wait" in await rpc.refusal("resumeat", 9)
        assert (await rpc.refusal("resumeat", 0)).startswith("-8 ")
        for index in range(4):
            await world.kill(index)
        lost = world.start(0, StartOptions(restored=True))
        await world.pass_time(1)
        assert lost.driver.mode is Mode.ABSTAINING
        shown = await Rpc(lost).call("resumeat", 4)
        assert shown == {"mode": "VOTING", "vote_from": 4}
        await world.close()

    run_virtual(story())


async def test_covenants_when_registered_or_asked_then_answered_or_refused(tmp_path: Path) -> None:
    rpc = Rpc((await world_of(tmp_path)).processes[0])
    program = "0014" + "ab" * 20
    reply = await rpc.call("registercovenant", program, 2_000)
    assert reply["address"].startswith("bcrt1q") and reply["max_fee_sats"] == 2_000
    for words, text in (
        ((program, 5_000), "-8 max_fee may be 4999 sat at most"),
        ((program, 0), "-8 max_fee_sats is not a whole number"),
        ((program, True), "-8 max_fee_sats is not a whole number"),
        (("76a914" + "ab" * 20 + "88ac", 5), "-8 coins can go to P2WPKH, P2WSH and P2TR alone"),
        (("xy", 5), "-8 program is not hex"),
        ((program, 5, "ab"), "-8 the internal key is not 32 bytes"),
    ):
        assert (await rpc.refusal("registercovenant", *words)).startswith(text)
    assert await rpc.call("getcovenant", "51") == {"deposits": []}
    assert await rpc.refusal("getcovenant", "52") == "-5 this member knows no such registration"
    rpc.peg.covenants = None
    assert (await rpc.refusal("getcovenant", "52")).startswith("-28")
