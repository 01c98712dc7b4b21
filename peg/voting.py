"""A member's part of the peg in proposing and judging blocks.

Facts are fetched from the member's own Bitcoin node, then judged by the pure rules. What needs the
node is never part of the objective verdict.

Source: peg:4, N7-N9, N17, N35.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from peg.approvals import Approvals
from peg.bitcoind import BitcoindError, UnspentOutput
from peg.claims import (
    Claim,
    ClaimFacts,
    check_claim,
    check_distinct,
    judge_claim,
    place_reason,
    read_claims,
)
from peg.commitments import (
    CoinbasePeg,
    Commitment,
    CommitmentFacts,
    Verdict,
    check_objective,
    judge_commitment,
    not_yet,
    parameters_script,
    plan_commitment,
    read_coinbase,
)
from peg.fedscript import FedScript, coin_script
from peg.ledger import BlockSource, PegLedger
from peg.parameters import InsaneParameters, PegParameters, check_fedpeg_program
from peg.parent_view import ParentView
from peg.pauses import PausesHeard
from peg.record_rules import RecordContext, check_records
from peg.record_votes import RecordVotes
from peg.records import PauseRecord, record_script
from sidechain.errors import Invalid, InvalidBlock, Unavailable
from sidechain.params import ChainParams
from sidechain.primitives.block import Block
from sidechain.primitives.transaction import OutPoint, Transaction

PROPOSED_PROGRAM_REASON = "bad-peg-program"


class VotingNode(BlockSource, Protocol):
    """What judging asks of the member's own Bitcoin node."""

    async def tx_out(
        self, outpoint: OutPoint, include_mempool: bool = True
    ) -> UnspentOutput | None:
        """An unspent output; None when spent or unknown."""
        ...

    async def estimate_fee_sats_per_kvb(self) -> int | None:
        """Fee estimate for six blocks; None when there is none."""
        ...


@dataclass(frozen=True, slots=True)
class FrozenParentFacts:
    """Answers about parent blocks as of one moment; meets `ParentFacts` of validation.pegins."""

    known: dict[bytes, tuple[int, int]]

    def block_facts(self, block_hash: bytes) -> tuple[int, int] | None:
        """Confirmations and number of transactions of a block of the best chain."""
        return self.known.get(block_hash)


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnNode:
    """The member's view of Bitcoin.

    Attributes:
        view: kept by the watcher.
        is_healthy: whether the node answered last time.
        look_again: asks the watcher for news now; returns after news or a short while.
    """

    client: VotingNode
    view: ParentView
    is_healthy: Callable[[], bool]
    look_again: Callable[[], Awaitable[None]]


class PegVoting:
    """Judges blocks and plans coinbases. Reads the ledger, changes nothing but its estimates."""

    def __init__(
        self,
        *,
        chain: ChainParams,
        script: FedScript,
        parameter_hash: bytes,
        voters: Callable[[], Sequence[bytes]],
        node: OwnNode,
        ledger: PegLedger,
        approvals: Approvals,
        has_trial: Callable[[OutPoint], bool],
    ) -> None:
        """Nothing is asked of the node before `refresh`.

        Args:
            has_trial: whether this member signed a trial spend of an output (P2).
            voters: block keys of the set of the next block, 33 bytes each, in its order.
        """
        self._chain = chain
        self._script = script
        self._voters = voters
        self._parameter_hash = parameter_hash
        self._node = node
        self._ledger = ledger
        self._approvals = approvals
        self.pauses = PausesHeard()
        self.records = RecordVotes(
            script=script,
            client=node.client,
            parent=node.view,
            ledger=ledger,
            approvals=approvals,
            pauses=self.pauses,
            context=self.context,
            has_trial=has_trial,
        )
        self.estimate_sats_per_kvb: int | None = None

    @property
    def _parameters(self) -> PegParameters:
        """The values in force for the next block."""
        return self._ledger.history.parameters

    async def refresh(self) -> None:
        """Ask for the fee estimate and for approved records that are ripe now.

        Raises:
            Unavailable, BitcoindError: the node did not answer; old answers stay.
        """
        self.estimate_sats_per_kvb = await self._node.client.estimate_fee_sats_per_kvb()
        await self.records.refresh()

    # ---- proposing ----

    def plan_coinbase(self, height: int, *, minimal: bool) -> list[bytes]:
        """Coinbase scripts of the peg for a block this member proposes.

        Args:
            minimal: the repeated commitment and PAUSE only (N9; block 1 repeats nothing).
        Raises:
            Unavailable: block 1 cannot be planned before a Bitcoin block is deep enough, or the
                ledger is not at the block below.
        """
        commitment = self.plan_commitment(height, minimal=minimal)
        scripts = [commitment.script()]
        if height == 1:
            scripts.append(parameters_script(self._parameter_hash))
        records = self.records.to_propose(height, commitment, minimal=minimal)
        return scripts + [record_script(record) for record in records]

    def plan_commitment(self, height: int, *, minimal: bool = False) -> Commitment:
        """The commitment `plan_coinbase` would use now."""
        self._check_at(height)
        previous = self._ledger.history.previous_commitment
        if previous is not None and (minimal or not self._sees_bitcoin()):
            return previous.repeated()
        commitment = plan_commitment(
            self._node.view,
            previous,
            self._parameters,
            self.estimate_sats_per_kvb,
            fork_height=self._fork_height(previous),
        )
        if commitment is None:
            raise Unavailable("no Bitcoin block is deep enough for block 1")
        if commitment.reset and not self._reset_approved(commitment):
            return commitment if previous is None else previous.repeated()
        return commitment

    def is_commitment_due(self, height: int) -> bool:
        """Whether a proposal at this height would say something new about Bitcoin.

        Source: N17, N35.
        """
        if height <= self._chain.dynamic_epoch_length:
            return True
        try:
            planned = self.plan_commitment(height)
        except Unavailable:
            return False
        if self.records.to_propose(height, planned, minimal=False):
            return True
        return not planned.repeats(self._ledger.history.previous_commitment)

    def carries_work(self, block: Block) -> bool:
        """Whether a block on the tip holds a record or a newer commitment (N17)."""
        coinbase = read_coinbase(block.transactions[0], self._chain.pegged_asset)
        previous = self._ledger.history.previous_commitment
        return bool(coinbase.records) or not coinbase.commitment.repeats(previous)

    def is_minimal(self, block: Block) -> bool:
        """Whether a block on the tip is the minimal block of N9."""
        coinbase = read_coinbase(block.transactions[0], self._chain.pegged_asset)
        plain = len(block.transactions) == 1 and block.header.proposed.kind == 0
        records = all(isinstance(record, PauseRecord) for record in coinbase.records)
        repeated = coinbase.commitment.repeats(self._ledger.history.previous_commitment)
        return plain and records and repeated

    def claim_place_reason(self, claim: Claim, commitment: Commitment) -> str:
        """Why a claim does not fit under a planned commitment, by the own view (C2, C4, C6, C8)."""
        if not self._sees_bitcoin():
            return "own Bitcoin node does not answer"
        try:
            check_claim(claim, self._parameters, fed_programs=self._ledger.fed_programs)
        except InvalidBlock as error:
            return str(error)
        if claim.outpoint in self._ledger.history.governance.returns:
            return "C9: deposit is being returned"
        view = self._node.view
        return place_reason(
            claim,
            view.height_of(claim.block_hash),
            view.depth(claim.block_hash),
            commitment,
            self._parameters,
            csv=self._claim_csv(claim),
        )

    def names_lost_block(self, transaction: Transaction) -> bool:
        """Whether a claim's proof names a block that is not on the own best chain."""
        hashes = _proof_blocks([transaction])
        return self._sees_bitcoin() and not all(map(self._node.view.is_active, hashes))

    async def is_proved_and_unspent(self, claim: Claim) -> bool:
        """C3 and C7 by the own node.

        Raises:
            Unavailable, BitcoindError: the node did not answer.
        """
        block = await self._ledger.blocks.get(claim.block_hash)
        output = await self._node.client.tx_out(claim.outpoint, False)
        facts = ClaimFacts(
            txids=tuple(transaction.txid for transaction in block.transactions),
            unspent=output is not None,
        )
        verdict = judge_claim(claim, facts)
        return verdict.eventual and verdict.policy

    # ---- judging ----

    def check_objective(self, block: Block) -> None:
        """The peg's objective rules of a proposed block (V1, V8, C4, C5, C8, S11, records).

        Raises:
            InvalidBlock: with the rule in its detail.
        """
        height = block.header.height
        coinbase = read_coinbase(block.transactions[0], self._chain.pegged_asset)
        check_objective(coinbase, height, self._parameter_hash)
        history = self._ledger.history
        context = self.context(height, coinbase.commitment)
        check_records(coinbase.records, history.governance, context)
        try:
            claims = read_claims(block.transactions)
            check_fedpeg_program(self._script.program)
            for entry in (block.header.current, block.header.proposed):
                if entry.fedpeg_program:
                    check_fedpeg_program(entry.fedpeg_program)
        except InsaneParameters as error:
            raise InvalidBlock(PROPOSED_PROGRAM_REASON, str(error)) from error
        except InvalidBlock:
            raise
        except Invalid as error:
            raise InvalidBlock("bad-pegin-witness", str(error)) from error
        check_distinct(claims)
        for claim in claims:
            check_claim(claim, history.parameters, fed_programs=self._ledger.fed_programs)

    async def check_eventual_and_policy(self, block: Block) -> Verdict:
        """The rest of the peg's rules, now (V2 to V7, C1's depth, C2, C3, C6, C7, P1, approvals).

        Call after `check_objective` passed. When the own view of Bitcoin seems to be behind the
        proposer's it is asked for news once.
        """
        height = block.header.height
        try:
            self._check_at(height)
            coinbase = read_coinbase(block.transactions[0], self._chain.pegged_asset)
            claims = read_claims(block.transactions)
            verdict = await self._judge(coinbase, claims)
            if not verdict.eventual:
                await self._node.look_again()
                self._check_at(height)
                verdict = await self._judge(coinbase, claims)
        except (Unavailable, BitcoindError) as error:
            return not_yet(f"own Bitcoin node: {error}")
        return verdict

    async def parent_facts(self, transactions: Sequence[Transaction]) -> FrozenParentFacts:
        """Own answers about every block that the peg-ins of some transactions name."""
        hashes = _proof_blocks(transactions)
        facts = self._known(hashes)
        if len(facts.known) < len(hashes):
            await self._node.look_again()
            facts = self._known(hashes)
        return facts

    async def _judge(self, coinbase: CoinbasePeg, claims: Sequence[Claim]) -> Verdict:
        previous = self._ledger.history.previous_commitment
        commitment = coinbase.commitment
        facts = self._commitment_facts(commitment, previous)
        verdict = judge_commitment(
            commitment, previous, facts, self._parameters, has_claims=bool(claims)
        )
        for claim in claims:
            if not verdict.eventual:
                return verdict
            verdict = verdict.joined(await self._judge_claim(claim, commitment))
        for record in coinbase.records:
            verdict = verdict.joined(await self.records.judge(record, commitment))
        return verdict

    def _commitment_facts(
        self, commitment: Commitment, previous: Commitment | None
    ) -> CommitmentFacts:
        view = self._node.view
        seen = self._sees_bitcoin()
        return CommitmentFacts(
            tip_height=view.tip_height if seen else None,
            height=view.height_of(commitment.block_hash),
            previous_height=None if previous is None else view.height_of(previous.block_hash),
            fork_height=self._fork_height(previous),
            estimate_sats_per_kvb=self.estimate_sats_per_kvb,
            reset_approved=self._approvals.has(commitment.block_hash),
        )

    async def _judge_claim(self, claim: Claim, commitment: Commitment) -> Verdict:
        reason = self.claim_place_reason(claim, commitment)
        if reason:
            return not_yet(reason)
        block = await self._ledger.blocks.get(claim.block_hash)
        output = await self._node.client.tx_out(claim.outpoint, False)
        # Looked up again: the chain may have moved while the node was asked.
        reason = self.claim_place_reason(claim, commitment)
        if reason:
            return not_yet(reason)
        facts = ClaimFacts(
            txids=tuple(transaction.txid for transaction in block.transactions),
            unspent=output is not None,
        )
        return judge_claim(claim, facts)

    def _claim_csv(self, claim: Claim) -> int:
        """The lock of the deposit's own script."""
        return coin_script(self._script, claim.claim_script).csv

    # ---- parts ----

    def context(self, height: int, commitment: Commitment) -> RecordContext:
        """What the records of a block are judged by."""
        return RecordContext(
            height=height,
            clock=max(self._ledger.history.clock, commitment.height),
            genesis=self._chain.genesis_hash,
            script=self._script,
            block_keys=self._voters(),
        )

    def _fork_height(self, previous: Commitment | None) -> int | None:
        if previous is None or self._node.view.is_active(previous.block_hash):
            return None
        path = self._ledger.path
        if path is None or path.height_of(previous.block_hash) is None:
            return None
        return self._ledger.fork_height()

    def _reset_approved(self, commitment: Commitment) -> bool:
        manual = self._parameters.reset_manual
        return not manual or self._approvals.has(commitment.block_hash)

    def _sees_bitcoin(self) -> bool:
        return self._node.is_healthy() and not self._node.view.is_empty

    def _known(self, hashes: Sequence[bytes]) -> FrozenParentFacts:
        if not self._sees_bitcoin():
            return FrozenParentFacts({})
        found = {block_hash: self._node.view.block_facts(block_hash) for block_hash in hashes}
        return FrozenParentFacts({key: facts for key, facts in found.items() if facts is not None})

    def _check_at(self, height: int) -> None:
        if self._ledger.history.height != height - 1:
            raise Unavailable(f"the peg has not folded the block below {height}")


def _proof_blocks(transactions: Sequence[Transaction]) -> list[bytes]:
    """Block hashes named by peg-in proofs; a witness that cannot be read names none."""
    hashes: list[bytes] = []
    for transaction in transactions:
        try:
            hashes += [claim.block_hash for claim in read_claims([transaction])]
        except Invalid:
            continue
    return hashes
