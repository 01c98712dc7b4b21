"""Members' services over a real Bitcoin node, which tests restart, fork and fill as they like.

One node may serve many worlds one after the other: each world has a script of its own, so that the
coins of one are nothing to the next.
"""

import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from federation.processes import wait_ended
from peg.bitcoind import BitcoindError, to_hex
from peg.parameters import LOCAL, PegParameters
from peg.parent_view import ParentChange, ParentView
from peg.records import OpenRecord, encode_record
from peg.signing import KIND_PEGSIG
from peg.state import PegView
from peg.trial_spend import assemble_trial_spend, build_trial_spend
from peg.watcher import ParentWatcher
from sidechain.primitives.block import Block
from sidechain.primitives.parent import (
    ParentTx,
    build_merkle_block,
    parse_parent_block,
    parse_parent_tx,
)
from sidechain.primitives.transaction import OutPoint, Transaction
from tests.conftest import START_DEADLINE_MS, RegtestNode
from tests.peg.members import PegWorld
from tests.peg.two_chains import ChainBook, TwoChains
from tests.peg.world import p2wpkh_script, parent_tx

WALLET = "miner"
ALICE = p2wpkh_script("alice")
BOB = p2wpkh_script("bob")
FIRST_BLOCKS = 110
ANCHOR_SATS = 5_000_000
TRIAL_SATS = 20_000
STEPS_MAX = 30
STOP_DEADLINE_MS = 30_000
RETRY_MS = 0

_serial = itertools.count()


def own_parameters(parameters: PegParameters = LOCAL) -> PegParameters:
    """The same with a lock that no other world has, hence other scripts."""
    return replace(parameters, csv=parameters.csv + next(_serial))


class RealBitcoin:
    """A node with its view; everything a member asks goes to the client.

    Attributes:
        mirror: another node, which gets every block that this one mines.
    """

    mirror: "RealBitcoin | None" = None

    def __init__(self, node: RegtestNode) -> None:
        self.node = node
        self.client = node.client(retry_ms=RETRY_MS)
        self.fresh_view()

    def fresh_view(self) -> None:
        """See the node's chain as a member does that just started."""
        self.view = ParentView()
        self.watcher = ParentWatcher(self.client, self.view, on_change=self._ignore)

    def __getattr__(self, name: str) -> object:
        return getattr(self.client, name)

    async def prepare(self, first_blocks: int = FIRST_BLOCKS) -> None:
        """Wait for the node, and have coins to spend."""
        await self.client.wait_until_ready(START_DEADLINE_MS)
        await self.client.create_wallet(WALLET)
        self.address = await self.client.new_address(WALLET)
        height = await self.client.block_count()
        if first_blocks:
            await self.grow(max(first_blocks - height, 1))

    async def grow(self, count: int) -> None:
        """Blocks with all that the mempool has."""
        await self.client.generate(count, self.address)
        await self._notice()

    async def grow_empty(self, count: int) -> None:
        """Blocks that leave the mempool out.

        Each pays a script of its own: in the same second they would else be the very blocks that
        were made invalid.
        """
        for _ in range(count):
            payee = f"raw({p2wpkh_script(f'miner {next(_serial)}').hex()})"
            await self.client.call("generateblock", payee, [])
        await self._notice()

    async def grow_with(self, *txids: bytes) -> None:
        """A block with these transactions of the mempool and no other."""
        shown = [to_hex(txid) for txid in txids]
        await self.client.call("generateblock", self.address, shown)
        await self._notice()

    async def restart(self, *options: str, rebuild: bool = False) -> None:
        """End the node in an orderly way, if it runs, and start it with these options.

        Args:
            rebuild: read all blocks on disk anew, as a federation does after a kill.
        """
        if self.node.child is not None:
            await self.client.stop()
            assert not wait_ended([self.node.child], STOP_DEADLINE_MS)
            self.node.child = None
        if rebuild:
            self.node.rebuild()
        self.node.start(*options)
        await self.client.wait_until_ready(START_DEADLINE_MS)
        await self.client.create_wallet(WALLET)

    @asynccontextmanager
    async def options(self, *options: str) -> AsyncIterator[None]:
        """Run with other options for a while, then as before."""
        await self.restart(*options)
        try:
            yield
        finally:
            await self.restart()

    async def pay_all(self, outputs: Sequence[tuple[int, bytes]]) -> bytes:
        """One transaction of the wallet with these outputs first, sent; its txid."""
        told = {"changePosition": len(outputs)}
        raw = parent_tx([], outputs).hex()
        funded = await self.client.call("fundrawtransaction", raw, told, False, wallet=WALLET)
        return await self.client.send_raw_transaction(await self.sign(funded["hex"]))

    async def sign(self, raw_hex: str) -> bytes:
        """A transaction with the wallet's signatures."""
        signed = await self.client.call("signrawtransactionwithwallet", raw_hex, wallet=WALLET)
        assert signed["complete"], signed
        return bytes.fromhex(signed["hex"])

    async def back(self, depth: int) -> bytes:
        """Take so many blocks off the best chain; the lowest of them."""
        lowest = await self.client.block_hash(await self.client.block_count() - depth + 1)
        await self.client.invalidate_block(lowest)
        return lowest

    async def carry_to(self, other: "RealBitcoin") -> None:
        """Hand over the blocks of the best chain that the other node lacks."""
        lacking: list[str] = []
        at = str(await self.client.call("getbestblockhash"))
        while not await other.knows(at):
            lacking.append(at)
            at = (await self.client.call("getblockheader", at))["previousblockhash"]
        for block_hash in reversed(lacking):
            raw = await self.client.call("getblock", block_hash, 0)
            refusal = await other.client.call("submitblock", raw)
            assert refusal in (None, "inconclusive"), refusal
        await other.watcher.poll_once()

    async def knows(self, block_hash: str) -> bool:
        """Whether the node has a block, on whatever branch."""
        try:
            await self.client.call("getblock", block_hash, 0)
        except BitcoindError:
            return False
        return True

    async def _notice(self) -> None:
        await self.watcher.poll_once()
        if self.mirror is not None:
            await self.carry_to(self.mirror)

    @staticmethod
    async def _ignore(change: ParentChange) -> None:
        return None


class RealPegWorld(PegWorld):
    """The members' world with a real node.

    Attributes:
        holds_shares: links lose every batch signature, so that none is assembled.
        anchor: of OPEN.
    """

    def __init__(
        self, folder: Path, bitcoin: RealBitcoin, parameters: PegParameters | None = None
    ) -> None:
        own = own_parameters() if parameters is None else parameters
        super().__init__(folder, own, bitcoin)
        self.real = bitcoin
        self.holds_shares = False
        self.anchor = OutPoint(bytes(32), 0)
        self.base_height = bitcoin.view.tip_height
        self.chains = TwoChains(
            bitcoin.client,
            self.side.blocks,
            self.params,
            self.parameters,
            fed_program=self.script.program,
            base_height=self.base_height,
        )

    # ---- the members ----

    @property
    def view(self) -> PegView:
        """State of the first member online."""
        view = self.services[min(self.online)].ledger.view
        assert view is not None
        return view

    def deliver(self) -> bool:
        """As in memory; while shares are held, no PEGSIG arrives."""
        if self.holds_shares:
            self.frames = [frame for frame in self.frames if frame[2] != KIND_PEGSIG]
        return super().deliver()

    async def votes(self, block: Block) -> int:
        """How many members online would vote for a block."""
        count = 0
        for member in sorted(self.online):
            self.services[member].check_objective(block)
            verdict = await self.services[member].check_eventual_and_policy(block)
            count += verdict[:2] == (True, True)
        return count

    async def try_extend(self, transactions: Sequence[Transaction] = ()) -> bool:
        """A sidechain block if k members vote for it; the others take it too."""
        block = self.propose(transactions)
        if await self.votes(block) < self.parameters.k:
            return False
        self.final(block)
        await self.settle()
        return True

    # ---- Bitcoin moves ----

    async def blocks(self, count: int, *, empty: bool = False) -> None:
        """Mine, notice, make a sidechain block where members can, one by one."""
        for _ in range(count):
            await (self.real.grow_empty(1) if empty else self.real.grow(1))
            await self.tell()
            await self.try_extend()

    # ---- deposits and payouts ----

    async def found(self) -> OutPoint:
        """Fund, show that k members can spend, open; the anchor."""
        client = self.real.client
        self.anchor = await client.send_to_script(WALLET, self.script.program, ANCHOR_SATS)
        trial = await client.send_to_script(WALLET, self.script.program, TRIAL_SATS)
        await self.real.grow(7)
        await self.check_trial_spend(trial)
        for service in self.services:
            service.approve_record(encode_record(OpenRecord(0, self.anchor)))
        await self.tell()
        await self.extend()
        return self.anchor

    async def check_trial_spend(self, trial: OutPoint) -> None:
        """P2: the node would take a spend that k members signed; it is not sent."""
        spend = build_trial_spend(trial, TRIAL_SATS, self.parameters, self.script)
        signatures: dict[int, bytes] = {}
        for member in range(self.parameters.k):
            unsigned, signatures[member] = await self.services[member].sign_trial_spend(trial)
            assert unsigned == spend.unsigned
        raw = assemble_trial_spend(spend, signatures, self.script)
        verdict = await self.real.client.test_mempool_accept(raw)
        assert verdict.allowed, verdict.reason

    async def deposit(self, amount_sats: int) -> OutPoint:
        """Bitcoin sent for Alice, unconfirmed."""
        script = self.side.deposit_script(ALICE)
        return await self.real.client.send_to_script(WALLET, script, amount_sats)

    async def claim(self, deposit: OutPoint) -> Transaction:
        """The claim of a deposit that is in a block."""
        client = self.real.client
        place = await client.find_transaction(deposit.txid)
        assert place is not None and place.block_hash is not None
        raw_block = await client.raw_block(place.block_hash)
        own_proof = build_merkle_block(parse_parent_block(raw_block), deposit.txid)
        assert own_proof == await client.tx_out_proof([deposit.txid], place.block_hash)
        return self.side.claim_of(place.raw, raw_block, ALICE, index=deposit.index)

    async def claimed(self, amount_sats: int) -> Transaction:
        """Deposit for Alice, bury it; the claim."""
        deposit = await self.deposit(amount_sats)
        await self.real.grow(self.parameters.pegin_depth)
        await self.tell()
        return await self.claim(deposit)

    async def claim_when_ripe(self, deposit: OutPoint) -> None:
        """Mine until k members vote for the claim of a deposit that was sent."""
        for _ in range(STEPS_MAX):
            if await self.try_extend([await self.claim(deposit)]):
                return
            await self.blocks(1)
        raise AssertionError("the claim never became ripe")

    async def start(self, *amounts_sats: int) -> None:
        """Found, with claimed deposits: with the anchor at least two coins."""
        deposits = [await self.deposit(amount) for amount in amounts_sats]
        await self.found()
        await self.extend([await self.claim(deposit) for deposit in deposits])

    async def batches(self) -> list[ParentTx]:
        """The batch of this federation in the mempool, if there is one."""
        lane = self.view.lane
        txid = None if lane is None else await self.real.client.spending_txid(lane.anchor)
        if txid is None:
            return []
        return [parse_parent_tx(await self.real.client.raw_transaction(txid))]

    async def until_sent(self) -> ParentTx:
        """Mine until the batch is in the mempool; the batch."""
        for _ in range(STEPS_MAX):
            found = await self.batches()
            if found:
                (batch,) = found
                return batch
            await self.blocks(1)
        raise AssertionError(f"no batch was sent: {self.view.idle} {self.view.halts}")

    async def until_paid(self) -> None:
        """Mine until nothing is owed on the committed chain."""
        for _ in range(STEPS_MAX):
            if not self.view.queue and not self.view.book.unpaid_sats:
                return
            await self.blocks(1)
        raise AssertionError(f"not paid: {self.view.idle} {self.view.halts}")

    # ---- the end ----

    async def check(self) -> ChainBook:
        """From the two chains alone: at most once on every branch, the book to the satoshi.

        And all members online say the same as the chains.
        """
        book = await self.chains.check()
        for member in sorted(self.online):
            view = self.services[member].ledger.view
            assert view is not None
            own = view.book
            assert own.difference_sats == 0
            assert (own.reserve_sats, own.pool_sats) == (book.reserve_sats, book.pool_sats)
            assert own.liabilities_sats == book.liabilities_sats
            assert own.vanished_sats == book.vanished_sats
        return book

    async def check_paid_once(self) -> None:
        """`check`, solvent, and every burn is paid, exactly once, on the best chain."""
        book = await self.check()
        assert book.reserve_sats >= book.liabilities_sats
        assert book.vanished_sats == 0
        assert await self.chains.owed_at_tip() == {}
