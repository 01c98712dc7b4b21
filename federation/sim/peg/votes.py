"""What a vote of an honest member says: the block keeps every rule on that member's own Bitcoin.

Recomputed from the tree of blocks and from what users and operators did, at the moment of the vote.

Source: peg:4, peg:14 I7, I8.
"""

from collections.abc import Collection
from dataclasses import dataclass

from federation.sim.checker import Violation
from federation.sim.peg.bitcoin import Bitcoin
from federation.sim.peg.checks import Told
from federation.sim.peg.sidechain import Sidechain
from peg.commitments import Commitment, read_coinbase
from peg.parameters import PegParameters
from peg.parent_view import ParentView
from peg.records import PauseRecord, encode_record
from sidechain.crypto.hashes import sha256d
from sidechain.primitives.block import Block
from sidechain.primitives.encoding import le64
from sidechain.primitives.transaction import InputWitness, OutPoint

HEADER_BYTES = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class Voter:
    """Who voted for a block, and what it saw."""

    member: int
    view: ParentView
    tip: bytes


class VoteChecker:
    """Checks votes; raises `Violation`.

    Attributes:
        claimed: outpoints of final claims.
        approved: records that operators approved, as bytes.
    """

    def __init__(
        self, bitcoin: Bitcoin, parameters: PegParameters, fed_program: bytes, asset: bytes
    ) -> None:
        """Nothing is claimed yet."""
        self._bitcoin, self._parameters = bitcoin, parameters
        self._fed_program, self._asset = fed_program, asset
        self.claimed: set[OutPoint] = set()
        self.approved: set[bytes] = set()

    def check(self, block: Block, previous: Commitment | None, voter: Voter, told: Told) -> None:
        """One vote: I7, I8, and that every record is approved or a member's own PAUSE in time."""
        coinbase = read_coinbase(block.transactions[0], self._asset)
        claims = list(_claims(block))
        is_repeated = coinbase.commitment.repeats(previous)
        if not is_repeated or claims:
            self._check_commitment(coinbase.commitment, previous, voter)
        seen: set[OutPoint] = set()
        for outpoint, witness in claims:
            if outpoint in seen:
                raise Violation("I8", f"m{voter.member} votes for a second claim of a deposit")
            seen.add(outpoint)
            self._check_claim(outpoint, witness, coinbase.commitment, voter)
        clock = max(told.clock, coinbase.commitment.height)
        for record in coinbase.records:
            if isinstance(record, PauseRecord):
                self._check_pause(record, clock, voter, told)
            elif encode_record(record) not in self.approved:
                name = type(record).__name__
                raise Violation("3.3", f"m{voter.member} votes for a {name} nobody approved")

    def is_claimable(self, block: Block, side: Sidechain) -> bool:
        """Whether claims are of scripts that the tweak makes, and of none claimed before (peg:C1).

        That no claim script tweaks into the federation's own one is left to peg:C8.
        """
        for outpoint, witness in _claims(block):
            *_, claim_script, raw, _ = witness.pegin
            program = self._bitcoin.parse(raw).outputs[outpoint.index][1]
            if outpoint in self.claimed:
                return False
            if program not in (self._fed_program, side.deposit_script(claim_script)):
                return False
        return True

    def final(self, block: Block) -> None:
        """Its claims are made."""
        self.claimed.update(outpoint for outpoint, _ in _claims(block))

    def _check_commitment(
        self, commitment: Commitment, previous: Commitment | None, voter: Voter
    ) -> None:
        """I7 with V2 to V6."""
        view, parameters = voter.view, self._parameters
        text = f"m{voter.member} votes for a commitment to {commitment.block_hash[:3].hex()}"
        if view.height_of(commitment.block_hash) != commitment.height:
            raise Violation("I7", f"{text} that is not on its best chain at its height")
        depth = view.tip_height - commitment.height + 1
        reset = previous is not None and not view.is_active(previous.block_hash)
        if depth < (parameters.reset_depth if reset else parameters.commit_depth):
            raise Violation("I7", f"{text} that is {depth} deep")
        if reset != commitment.reset:
            raise Violation("I7", f"{text}: RESET is {commitment.reset}")
        if previous is not None and not reset and commitment.height < previous.height:
            raise Violation("I7", f"{text} below the one before")
        wanted = parameters.reset_depth if reset else parameters.commit_depth
        if depth - 1 > wanted + parameters.freshness:
            raise Violation("V6", f"{text} that is {depth} deep")

    def _check_claim(
        self, outpoint: OutPoint, witness: InputWitness, commitment: Commitment, voter: Voter
    ) -> None:
        """I8: depth, age, not FED, of an output that is there."""
        value, _, _, _, _, proof = witness.pegin
        block_hash = sha256d(proof[:HEADER_BYTES])
        text = f"m{voter.member} votes for a claim of {outpoint.txid[:3].hex()}"
        height = voter.view.height_of(block_hash)
        mined = self._bitcoin.blocks.get(block_hash)
        if height is None or mined is None or height > commitment.height:
            raise Violation("I8", f"{text} that is not below the committed block")
        parameters = self._parameters
        age = commitment.height - height
        if age + parameters.commit_depth < parameters.pegin_depth:
            raise Violation("I8", f"{text} that is {age} below the committed block")
        if age > parameters.csv - parameters.sweep_window:
            raise Violation("I8", f"{text} that is {age} old")
        found = [tx for tx in mined.transactions if tx.txid == outpoint.txid]
        if not found or le64(found[0].outputs[outpoint.index][0]) != value:
            raise Violation("I8", f"{text} that is not in its block")
        if found[0].outputs[outpoint.index][1] == self._fed_program:
            raise Violation("I8", f"{text} that is the federation's own change")
        if outpoint not in self._bitcoin.unspent(voter.tip):
            raise Violation("I8", f"{text} that is spent")

    def _check_pause(self, record: PauseRecord, clock: int, voter: Voter, told: Told) -> None:
        known = told.pauses.get(record.member)
        early = known is not None and clock < known[1] + self._parameters.pause_every
        if early or (known is not None and record.sequence <= known[0]):
            raise Violation("7.3", f"m{voter.member} votes for a PAUSE out of turn")
        if record.until > clock + self._parameters.pause_max:
            raise Violation("7.3", f"m{voter.member} votes for a PAUSE without an end")


def _claims(block: Block) -> Collection[tuple[OutPoint, InputWitness]]:
    return [
        (spent.prevout, witness)
        for tx in block.transactions
        for spent, witness in zip(tx.inputs, tx.input_witnesses or (), strict=False)
        if spent.is_pegin
    ]
