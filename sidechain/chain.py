"""The chain: the one place where blocks are added and transactions are taken in.

Synchronous and quick; it runs in the event loop of whoever owns it, and nothing else writes what
it owns (database and mempool). Time and what is known of the parent chain are arguments.

Two ways lead to a new block. A federation member knows that a block is final: it calls `connect`
with the one that follows the tip, and never goes back. Any other owner hands over whatever
arrives: `submit_block` and `submit_header` keep side branches, follow the best chain and answer
with the words of BIP22; `invalidate_block`, `reconsider_block` and `precious_block` are an
operator's say; `test_proposal` judges without keeping. Their peg-ins need the depth of deposits
at the parent: learn it for the transactions that `claims_awaited` names, pass it as `facts`, and
call `activate` when more of it is known, and once after opening.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self

from sidechain.branches import Branches, Moves
from sidechain.mempool.admission import Candidate, Circumstances, enter, judge
from sidechain.mempool.packages import PackageVerdict, judge_package, submit_package
from sidechain.mempool.pool import Mempool
from sidechain.mempool.relations import Limits
from sidechain.mempool.reorganisation import drop_expired_pegs, follow_blocks
from sidechain.mempool.selection import select
from sidechain.parallel import threaded_validator
from sidechain.params import MAX_BLOCK_WEIGHT_WU, ChainParams
from sidechain.policy.template import build_template
from sidechain.primitives.block import NULL_ENTRY, Block, BlockHeader, ParamEntry
from sidechain.primitives.transaction import OutPoint, Transaction
from sidechain.script.block_signature import verify_block_signature
from sidechain.storage.chainstate import ChainState
from sidechain.storage.schema import BlockPlace, UndoRecord
from sidechain.storage.verify import verify_chain
from sidechain.validation.block_check import fill_coinbase_witness
from sidechain.validation.coins import Coin, PeginKey
from sidechain.validation.connect import BlockDelta, validate_block, validate_proposal
from sidechain.validation.deployments import StateCache
from sidechain.validation.dynafed import full_current, pak_list, valid_fedpegscripts
from sidechain.validation.headers import median_time_past
from sidechain.validation.pegins import FedpegPair, ParentFacts
from sidechain.validation.validator import ValidateBlock, Validator

CHECKED_BLOCKS_MAX = 4
"""Proposals whose verdict is kept until one of them is connected."""

INVALIDATED_READMITTED_BLOCKS = 10
"""How many blocks that an operator takes off give their transactions back to the mempool."""

TransactionCheck = Callable[[Transaction], None]
"""Raises InvalidTransaction for what this node does not want to relay."""

TipListener = Callable[[], None]
"""Told that the tip is another one; what it does must be quick and must not fail."""


class Chain:
    """One chain with its mempool. The single writer of its folder."""

    def __init__(
        self,
        state: ChainState,
        params: ChainParams,
        *,
        limits: Limits | None = None,
        relay_check: TransactionCheck | None = None,
        validator: Validator | None = None,
    ) -> None:
        self._state = state
        self._params = params
        self._validator = validator or Validator()
        self._branches = Branches(state, params, self._validator)
        self.deployment_states: StateCache = {}
        incremental = params.incremental_relay_fee_sats_per_kvb
        self._mempool = Mempool(limits, incremental_sats_per_kvb=incremental)
        self._relay_check = relay_check
        # Proposals found valid, and the changes they make.
        self._checked: dict[bytes, tuple[Block, BlockDelta]] = {}
        self._listeners: list[TipListener] = []
        self._learn_next_block()

    @classmethod
    def open(
        cls,
        path: Path,
        params: ChainParams,
        *,
        limits: Limits | None = None,
        relay_check: TransactionCheck | None = None,
        caches: bool = True,
        second_validation: bool = False,
    ) -> Self:
        """Open the chain in a folder; a new folder gets the genesis block.

        Args:
            limits: of the mempool.
            relay_check: further rules for transactions that are to enter the mempool.
            caches: whether verdicts are kept until the block that needs them.
            second_validation: judge every block twice, the second time with nothing kept.
        Raises:
            Unavailable: the folder is in use by another process or cannot be used.
            Invalid: it holds another chain, or was written by another version.
            InvariantError: it is damaged.
        """
        state = ChainState.open(path, params)
        validator = threaded_validator(caches=caches, second_validation=second_validation)
        Branches(state, params, validator).resume()
        return cls(state, params, limits=limits, relay_check=relay_check, validator=validator)

    def close(self) -> None:
        """Release the folder. May be called twice."""
        self._state.close()

    def flush(self) -> None:
        """Put on disk what was connected without a sync. Raises Unavailable: do not go on then."""
        self._state.flush()

    def listen(self, listener: TipListener) -> None:
        """Have a listener called after every change of the tip."""
        self._listeners.append(listener)

    @property
    def params(self) -> ChainParams:
        """Parameters of the chain."""
        return self._params

    @property
    def branches(self) -> Branches:
        """What is known beside the chain; read it, but leave changes to the chain."""
        return self._branches

    @property
    def mempool(self) -> Mempool:
        """Transactions waiting for a block; read it, but leave changes to the chain."""
        return self._mempool

    @property
    def tip_height(self) -> int:
        """Height of the newest block, 0 with genesis only."""
        return self._state.tip_height

    @property
    def tip_hash(self) -> bytes:
        """Hash of the newest block."""
        return self._state.tip_hash

    @property
    def median_time_s(self) -> int:
        """Median time past of the tip; the next block's time must be above it."""
        return median_time_past(self._state, self._state.tip_height)

    def header(self, height: int) -> BlockHeader:
        """The header at a height up to the tip. Raises InvariantError beyond."""
        return self._state.header(height)

    def block_bytes(self, height: int) -> bytes:
        """The bytes of the block at a height. Raises InvariantError beyond the tip."""
        return self._state.block_bytes(height)

    def block(self, height: int) -> Block:
        """The block at a height. Raises InvariantError beyond the tip."""
        return Block.decode(self._state.block_bytes(height), self._params)

    def height_of(self, block_hash: bytes) -> int | None:
        """Height of a block of this chain, or None."""
        return self._state.height_of(block_hash)

    def undo(self, height: int) -> UndoRecord:
        """What the block at a height spent and created."""
        return self._state.undo(height)

    def undo_bytes(self, height: int) -> bytes:
        """The bytes that `undo` reads, for those who read them elsewhere."""
        return self._state.undo_bytes(height)

    def coin(self, outpoint: OutPoint) -> Coin | None:
        """An unspent output of the chain; the mempool has no part in it."""
        return self._state.coin(outpoint)

    def coins(self) -> Iterator[tuple[OutPoint, Coin]]:
        """Every unspent output, by txid and index, as of now. Slow: it reads them all."""
        return self._state.coins()

    def pegin_claimed(self, key: PeginKey) -> bool:
        """Whether a block claims the deposit."""
        return self._state.pegin_claimed(key)

    def find_transaction(self, txid: bytes) -> tuple[Transaction, int] | None:
        """A transaction in a block, with the block's height, or None."""
        return self._state.find_transaction(txid)

    def verify(self, *, level: int, blocks: int) -> bool:
        """Whether the newest blocks pass `storage.verify` at a level from 0 to 4. Slow."""
        return verify_chain(self._state, self._params, level=level, blocks=blocks)

    def disk_bytes(self) -> int:
        """Size of the chain's files."""
        return self._state.disk_bytes()

    def full_current(self) -> ParamEntry:
        """The full federation parameters in force for the next block."""
        return full_current(self._state, self._state.tip_height, self._params)

    def fedpegscripts(self) -> tuple[FedpegPair, ...]:
        """Fedpegscripts whose deposits the next block may claim, newest first."""
        return self._fedpegscripts

    def submit_tx(self, tx: Transaction, facts: ParentFacts | None, now_s: int) -> bytes:
        """Take a transaction into the mempool.

        Args:
            facts: the parent chain; None leaves out the depth of peg-ins.
            now_s: this node's clock, seconds since 1970.
        Returns:
            Its txid.
        Raises:
            InvalidTransaction: refused; nothing has changed.
            Stalled: a peg-in is not deep enough yet; nothing has changed.
        """
        enter(self.test_tx(tx, facts, now_s), self._mempool, now_s)
        return tx.txid

    def test_tx(self, tx: Transaction, facts: ParentFacts | None, now_s: int) -> Candidate:
        """Judge a transaction as `submit_tx` does, and change nothing.

        Returns:
            The entry it would become, with fee and sizes, and what it would replace.
        Raises:
            As `submit_tx`.
        """
        if self._relay_check is not None:
            self._relay_check(tx)
        return judge(tx, self._mempool, self._circumstances(facts, now_s))

    def test_package(
        self, package: Sequence[Transaction], facts: ParentFacts | None, now_s: int
    ) -> PackageVerdict:
        """Judge transactions that would enter one after another, and change nothing."""
        return judge_package(package, self._mempool, self._circumstances(facts, now_s))

    def submit_package(
        self,
        package: Sequence[Transaction],
        facts: ParentFacts | None,
        now_s: int,
        rate_max: int | None = None,
    ) -> PackageVerdict:
        """Take in a transaction, or a child with its unconfirmed parents, as far as they do.

        Args:
            rate_max: highest fee rate that one of them may pay, satoshis for 1,000 virtual bytes.
        """
        about = self._circumstances(facts, now_s)
        return submit_package(package, self._mempool, about, rate_max)

    def prioritise(self, txid: bytes, delta_sats: int) -> None:
        """Count a transaction, in the mempool now or later, as paying so much more."""
        self._mempool.prioritise(txid, delta_sats)

    def select_transactions(
        self, max_weight_wu: int = MAX_BLOCK_WEIGHT_WU, *, min_fee_sats_per_kvb: int = 0
    ) -> list[Transaction]:
        """Transactions of the mempool for a block, best paying first, parents before children.

        Args:
            max_weight_wu: sum of their weights; leave room for header, signatures and coinbase.
            min_fee_sats_per_kvb: what each pays at least, with those it needs.
        """
        return select(self._mempool, max_weight_wu, min_fee_sats_per_kvb=min_fee_sats_per_kvb)

    def build_template(
        self,
        *,
        time_s: int,
        coinbase_scripts: Sequence[bytes],
        transactions: Sequence[Transaction],
        proposed: ParamEntry = NULL_ENTRY,
    ) -> Block:
        """Make the next block, unsigned and unjudged.

        Args:
            time_s: its time; `median_time_s` + 1 is the least that is valid.
            coinbase_scripts: zero-value outputs before the fee output, in order.
            transactions: in order, parents before children.
            proposed: parameters this block votes for.
        """
        return build_template(
            self._state,
            self._params,
            time_s=time_s,
            coinbase_scripts=coinbase_scripts,
            transactions=transactions,
            proposed=proposed,
        )

    def check_proposal(self, block: Block, *, now_s: int) -> BlockDelta:
        """Judge an unsigned block on top of the tip by all rules but signature and peg-in depth.

        Args:
            now_s: this node's clock; it decides only "time-too-new".
        Raises:
            InvalidBlock: with Elements' reject code.
        """
        validate = self._on_tip(validate_block, now_s=now_s, facts=None, check_signature=False)
        delta = self._validator.judge(block, self._params, validate, proposal=True)
        if self._validator.keeps_verdicts:
            self._checked[block.hash] = (block, delta)
        if len(self._checked) > CHECKED_BLOCKS_MAX:
            del self._checked[next(iter(self._checked))]
        return delta

    def connect(
        self,
        block: Block,
        *,
        facts: ParentFacts | None = None,
        reuse_checks: bool = True,
        sync: bool = True,
    ) -> BlockDelta:
        """Add a signed block on top of the tip, on disk before this returns.

        No clock is read: a block with enough signatures is taken whatever its time.

        Args:
            facts: the parent chain, to check the depth of peg-ins; None leaves that out.
            reuse_checks: take over the verdict of `check_proposal` on the very same bytes, where
                verdicts are kept; the signature is checked in any case.
            sync: False leaves it to `flush`, or to the next block with a sync, to put the block
                on disk; a crash before takes off all blocks since the last sync.
        Raises:
            InvalidBlock: with Elements' reject code; nothing has changed.
            Stalled: a peg-in is not deep enough; nothing has changed.
            Unavailable: the disk refuses; nothing has changed.
        """
        delta = self._judged(block, facts, reuse_checks)
        self._state.connect(block, delta, sync=sync)
        self._follow_block(block, facts)
        self._tell_listeners()
        return delta

    def submit_block(self, block: Block, *, facts: ParentFacts | None, now_s: int) -> str | None:
        """Take in a signed block, on the tip or not, and follow the best chain.

        A coinbase that commits to witnesses but has none gets the usual one first.

        Args:
            facts: what is known of the parent; None leaves out the depth of peg-ins.
            now_s: this node's clock; it decides only "time-too-new".
        Returns:
            None when the block is now (or was, on the way) part of the chain; "duplicate";
            "duplicate-invalid"; "inconclusive" when it is kept but not connected; else Elements'
            reject code.
        Raises:
            Unavailable: the disk refuses; the chain is at one of the blocks on the way.
        """
        if self._branches.has_witness_rules_on(block.header.prev_hash):
            block = fill_coinbase_witness(block)
        moves = Moves()
        try:
            return self._branches.submit(block, facts, now_s, moves)
        finally:
            self._follow(moves, now_s)

    def submit_header(self, header: BlockHeader, *, now_s: int) -> None:
        """Take note of a header whose block may come later.

        Raises:
            InvalidBlock: with Elements' reject code.
        """
        self._branches.accept_header(header, now_s)

    def activate(self, *, facts: ParentFacts | None, now_s: int) -> bool:
        """Try again to follow the best chain; whether it could be followed to its end."""
        moves = Moves()
        try:
            self._branches.activate(facts, moves)
        finally:
            self._follow(moves, now_s)
        return not moves.stalled

    def claims_awaited(self, block: Block | None = None) -> tuple[Transaction, ...]:
        """Peg-in transactions whose deposits must be known to follow the best chain.

        Args:
            block: one that is about to be submitted.
        """
        return self._branches.claims_awaited(block)

    def invalidate_block(self, block_hash: bytes, *, facts: ParentFacts | None, now_s: int) -> None:
        """Call a known block invalid, and follow the best chain without it.

        Raises:
            InvariantError: the block is not known, or is the genesis block.
        """
        # The mempool follows block by block: what it takes back may need those still below.
        for count, moves in enumerate(self._branches.invalidate(block_hash)):
            self._follow(moves, now_s, readmit=count < INVALIDATED_READMITTED_BLOCKS)
        self.activate(facts=facts, now_s=now_s)

    def reconsider_block(self, block_hash: bytes, *, facts: ParentFacts | None, now_s: int) -> None:
        """Forget that a block, those under it and those on it have failed; try them again."""
        self._branches.reconsider(block_hash)
        self.activate(facts=facts, now_s=now_s)

    def precious_block(self, block_hash: bytes, *, facts: ParentFacts | None, now_s: int) -> None:
        """Treat a block as if it had come before all others of its height."""
        self._branches.prefer(block_hash)
        self.activate(facts=facts, now_s=now_s)

    def test_proposal(self, block: Block, *, facts: ParentFacts | None, now_s: int) -> None:
        """Judge an unsigned block on top of the tip as elementsd judges a proposal.

        The order is its own: the header's context first, and a peg-in that is not deep enough
        makes the proposal invalid.

        Raises:
            InvalidBlock: with Elements' reject code.
        """
        validate = self._on_tip(validate_proposal, now_s=now_s, facts=facts)
        self._validator.judge(block, self._params, validate, proposal=True)

    def is_active(self, block_hash: bytes) -> bool:
        """Whether a block is part of the chain."""
        return self._state.height_of(block_hash) is not None

    def place(self, height: int) -> BlockPlace:
        """What is noted about the block at a height: counts of transactions, above all."""
        return self._state.place(height)

    def disconnect_tip(self, now_s: int) -> Block:
        """Take the tip block off; its transactions return to the mempool where still valid.

        Claims and peg-outs do not return, as in Elements; whoever made them sends them again.

        Returns:
            The block taken off.
        Raises:
            InvariantError: the tip is the genesis block.
        """
        block = self.block(self.tip_height)
        self._state.disconnect()
        self._follow(Moves(disconnected=[block]), now_s)
        return block

    def _follow_block(self, block: Block, facts: ParentFacts | None = None) -> None:
        """Bring the mempool up to a block that was connected on the tip."""
        self._checked.clear()
        self._learn_next_block()
        self._mempool.remove_for_block(block)
        if (self.tip_height + 1) % self._params.dynamic_epoch_length == 0:
            drop_expired_pegs(self._mempool, self._circumstances(facts, block.header.time))

    def _follow(self, moves: Moves, now_s: int, *, readmit: bool = True) -> None:
        """Bring the mempool to where the chain is now.

        Transactions of blocks taken off return, but for claims and peg-outs; of what was in the
        mempool before, all goes that the new tip does not allow.

        Args:
            readmit: False drops the transactions of blocks taken off, with what needs them.
        Source: elements/peg.md 7.6.
        """
        if not moves.connected and not moves.disconnected:
            return
        if not moves.disconnected and len(moves.connected) == 1:
            self._follow_block(moves.connected[0])
            self._tell_listeners()
            return
        self._checked.clear()
        self._learn_next_block()
        # What was tried and given up on the way does not count.
        taken = [block for block in moves.connected if self.is_active(block.hash)]
        left = [block for block in moves.disconnected if not self.is_active(block.hash)]
        about = self._circumstances(None, now_s)
        follow_blocks(self._mempool, about, taken=taken, left=left, readmit=readmit)
        self._tell_listeners()

    def _learn_next_block(self) -> None:
        """What the parameters in force for the next block allow to peg in and out."""
        self._fedpegscripts = self._next_fedpegscripts()
        self._pak_list = self._next_pak_list()

    def _next_pak_list(self) -> tuple[tuple[bytes, bytes], ...] | None:
        return pak_list(self.full_current()) if self._params.enforce_pak else None

    def _tell_listeners(self) -> None:
        for listener in self._listeners:
            listener()

    def _judged(self, block: Block, facts: ParentFacts | None, reuse: bool) -> BlockDelta:
        checked = self._checked.get(block.hash) if reuse and facts is None else None
        # The hash leaves out witnesses; the comparison is of all bytes of the transactions.
        if checked is not None and checked[0].transactions == block.transactions:
            verify_block_signature(block.header, self._params)
            return checked[1]
        validate = self._on_tip(validate_block, now_s=block.header.time, facts=facts)
        return self._validator.judge(block, self._params, validate)

    def _on_tip(self, validate: Callable[..., BlockDelta], **more: Any) -> ValidateBlock:
        state = self._state
        return partial(validate, view=state, chain=state, params=self._params, **more)

    def _circumstances(self, facts: ParentFacts | None, now_s: int) -> Circumstances:
        return Circumstances(
            params=self._params,
            chain=self._state,
            coins=self._state,
            fedpegscripts=self._fedpegscripts,
            facts=facts,
            now_s=now_s,
            pak_list=self._pak_list,
            validator=self._validator,
        )

    def _next_fedpegscripts(self) -> tuple[FedpegPair, ...]:
        return valid_fedpegscripts(
            self._state, self._state.tip_height, self._params, next_block=True
        )
