"""Several members' peg services around one in-memory Bitcoin and one sidechain."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from federation.sim.peg.member import Journal, Log, Signer
from peg.commitments import Commitment
from peg.covenant_ports import CovenantPorts
from peg.parameters import LOCAL, PegParameters
from peg.service import PegPorts, PegService, PegSetup
from sidechain.crypto.keys import public_key
from sidechain.params import ChainParams
from sidechain.primitives.block import Block
from sidechain.primitives.transaction import OutPoint, Transaction
from sidechain.validation.pegins import FedpegPair
from tests.peg.world import (
    PARAMETER_HASH,
    Bitcoin,
    Sidechain,
    federation,
    secret,
    sidechain_params,
)


@dataclass(slots=True)
class TestCovenantStore:
    """A member's file of registrations, in memory."""

    __test__ = False
    records: list[tuple[int, bytes]] = field(default_factory=list)

    def append(self, kind: int, body: bytes) -> int:
        self.records.append((kind, body))
        return len(self.records)


@dataclass(slots=True)
class TestMempool:
    """One member's door to the mempool that all share; remembers who brought what."""

    __test__ = False
    member: int
    world: "PegWorld"
    refuse_with: str = ""
    rate: int = 1_000

    def rate_sats_per_kvb(self) -> int:
        return self.rate

    def spender(self, outpoint: OutPoint) -> bytes | None:
        held = self.world.claims.get(outpoint)
        return None if held is None else held.txid

    async def submit(self, transaction: Transaction) -> str:
        if self.refuse_with:
            return self.refuse_with
        self.world.claimed_by.append(self.member)
        self.world.claims[transaction.inputs[0].prevout] = transaction
        return ""


@dataclass(slots=True)
class Wire:
    """One member's end of the links: frames wait until the world delivers them."""

    member: int
    world: "PegWorld"

    def send(self, member: int, kind: int, body: bytes) -> bool:
        self.world.frames.append((self.member, member, kind, body))
        return True

    def broadcast(self, kind: int, body: bytes) -> None:
        for member in self.world.online - {self.member}:
            self.send(member, kind, body)


class PegWorld:
    """Members' services, their Bitcoin (one for all) and the final sidechain."""

    def __init__(
        self, folder: Path, parameters: PegParameters = LOCAL, bitcoin: Any = None
    ) -> None:
        self.folder = folder
        self.parameters = parameters
        self.script = federation(parameters)
        self.params: ChainParams = sidechain_params(self.script)
        self.bitcoin: Any = Bitcoin() if bitcoin is None else bitcoin
        self.valid_scripts = (FedpegPair(self.script.program, self.script.script),)
        self.side = Sidechain(self.params, self.script, parameters)
        self.frames: list[tuple[int, int, int, bytes]] = []
        self.online = set(range(parameters.n))
        self.journals = [Journal() for _ in range(parameters.n)]
        genesis = self.params.genesis_hash
        self.signers = [Signer(i, genesis, self.script) for i in range(parameters.n)]
        self.logs = [Log() for _ in range(parameters.n)]
        self.covenant_stores = [TestCovenantStore() for _ in range(parameters.n)]
        self.mempools = [TestMempool(i, self) for i in range(parameters.n)]
        self.script_may_change = False
        self.catching_up: set[int] = set()
        self.claims: dict[OutPoint, Transaction] = {}
        self.claimed_by: list[int] = []
        self.healthy = True
        self.halted: set[int] = set()
        self.second_opinions: dict[int, str] = {}
        self.services = [self.service(member) for member in range(parameters.n)]

    def bitcoin_of(self, member: int) -> Any:
        """The Bitcoin a member sees."""
        return self.bitcoin

    def service(self, member: int) -> PegService:
        """A fresh service of a member with its journal, as after a restart."""
        setup = PegSetup(
            chain=self.params,
            parameters=self.parameters,
            script=self.script,
            parameter_hash=PARAMETER_HASH,
            member=member,
            block_keys=tuple(public_key(secret(f"block {i}")) for i in range(self.parameters.n)),
            approvals_folder=self.folder / f"m{member}" / "approved",
            reports_folder=self.folder / f"m{member}" / "reports",
        )
        ports = PegPorts(
            client=self.bitcoin_of(member),
            view=self.bitcoin_of(member).view,
            is_healthy=lambda: self.healthy,
            poke=lambda: None,
            signer=self.signers[member],
            link=Wire(member, self),
            journal=self.journals[member],
            journal_bodies=tuple(self.journals[member].bodies),
            log=self.logs[member],
            covenants=CovenantPorts(
                store=self.covenant_stores[member],
                records=tuple(self.covenant_stores[member].records),
                mempool=self.mempools[member],
                valid_scripts=lambda: self.valid_scripts,
                may_change_script=lambda: self.script_may_change,
            ),
            is_halted=lambda: member in self.halted,
            is_catching_up=lambda: member in self.catching_up,
            second_opinion=lambda resumed_height: self.second_opinions.get(member, ""),
        )
        return PegService(setup, ports)

    async def restart(self, member: int, *, wipe: bool = False) -> PegService:
        """Replace a member's service; with `wipe` its peg journal is lost too."""
        if wipe:
            self.covenant_stores[member] = TestCovenantStore()
            self.journals[member] = Journal()
        self.services[member] = self.service(member)
        self.services[member].load(self.side.blocks)
        self.online.add(member)
        return self.services[member]

    def final(self, block: Block) -> Block:
        """Make a block final at every member that is online."""
        self.side.add(block)
        for member in sorted(self.online):
            self.services[member].on_final_block(block)
        return block

    def propose(
        self,
        transactions: Sequence[Transaction] = (),
        *,
        minimal: bool = False,
    ) -> Block:
        """The block the first member online proposes now."""
        proposer = self.services[min(self.online)]
        scripts = proposer.plan_coinbase(self.side.height + 1, minimal=minimal)
        if scripts is None:
            raise AssertionError("nothing to propose")
        return self.side.block(scripts, transactions)

    async def extend(self, transactions: Sequence[Transaction] = (), **options: Any) -> Block:
        """Propose, judge by all, make final, let everybody work."""
        block = self.propose(transactions, **options)
        for member in sorted(self.online):
            service = self.services[member]
            service.check_objective(block)
            verdict = await service.check_eventual_and_policy(block)
            if verdict[:2] != (True, True):
                raise AssertionError(f"member {member}: {verdict}")
        self.final(block)
        await self.settle()
        return block

    def connect(self) -> None:
        """All members that are online have links to each other."""
        for member in self.online:
            for other in range(self.parameters.n):
                if other != member:
                    self.services[member].on_link(other, other in self.online)

    async def settle(self) -> None:
        """Run every member and deliver frames until nothing more happens."""
        for _ in range(10):
            for member in sorted(self.online):
                await self.services[member].run_once()
            if not self.deliver():
                return

    def deliver(self) -> bool:
        """Hand over all waiting frames; whether there were any."""
        frames, self.frames = self.frames, []
        for sender, receiver, kind, body in frames:
            if receiver in self.online and sender in self.online:
                self.services[receiver].on_frame(kind, sender, body)
        return bool(frames)

    async def mine(self, raws: Sequence[bytes] = (), *, count: int = 1) -> None:
        """Mine Bitcoin blocks, mempool first, and tell everybody."""
        self.bitcoin.mine([*self.bitcoin.mempool.values(), *raws], count=count)
        await self.tell()

    async def tell(self) -> None:
        """Every member notices that Bitcoin moved."""
        for member in sorted(self.online):
            self.services[member].on_parent_change()
        await self.settle()

    def commitment(self) -> Commitment | None:
        """Of the last final block."""
        return self.services[min(self.online)].ledger.history.previous_commitment
