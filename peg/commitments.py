"""What a sidechain coinbase says about Bitcoin: the committed block, the records, the rules.

Codecs are strict. The rules are pure verdicts over facts that were fetched before, split by class:
what depends on bytes and ancestors only is objective and raises `InvalidBlock`; chain membership
and depth are eventual; freshness and fee rate are a member's own opinion.

Source: peg:3.2, peg:3.3, peg:V1-V8, N7, N9, N17, N20.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from peg.parameters import PegParameters
from peg.parent_view import ParentView
from peg.records import RECORD_MAGIC, OpenRecord, Record, decode_record
from sidechain.errors import InvalidBlock, InvalidEncoding
from sidechain.primitives.confidential import NULL, explicit_value
from sidechain.primitives.encoding import Reader, le32
from sidechain.primitives.transaction import Transaction, TxOut
from sidechain.script.opcodes import OP_RETURN
from sidechain.script.script import push, read_op

COMMITMENT_MAGIC = b"FPC\x01"
PARAMETERS_MAGIC = b"FPP\x00"
RESERVED_PREFIX = b"FP"
COMMITMENT_BYTES = 45
FLAG_RESET = 1
RECORDS_MAX = 8
RECORDS_BYTES_MAX = 1_024
REASON = "bad-peg-commitment"
"""Reject code of blocks that break V1, V8 or the form of records (Elements has none)."""

_COMMITMENT_PREFIX = bytes((OP_RETURN, COMMITMENT_BYTES)) + COMMITMENT_MAGIC[:3]


@dataclass(frozen=True, slots=True, kw_only=True)
class Commitment:
    """The Bitcoin view of one sidechain block.

    Attributes:
        reset: the previous committed block is no longer on the best chain.
        height: of the committed Bitcoin block, c(h).
        block_hash: of the committed Bitcoin block, B(h), internal order.
        feerate_sats_per_kvb: the proposer's estimate.
    """

    reset: bool
    height: int
    block_hash: bytes
    feerate_sats_per_kvb: int

    def script(self) -> bytes:
        """The coinbase output script, 47 bytes."""
        body = (
            COMMITMENT_MAGIC
            + bytes((FLAG_RESET if self.reset else 0,))
            + le32(self.height)
            + self.block_hash
            + le32(self.feerate_sats_per_kvb)
        )
        return bytes((OP_RETURN,)) + push(body)

    def repeats(self, previous: "Commitment | None") -> bool:
        """Whether this only says again what the block before said, RESET clear (N9)."""
        return previous is not None and not self.reset and self == previous.repeated()

    def repeated(self) -> "Commitment":
        """The same view with RESET clear, as the next block may repeat it."""
        return Commitment(
            reset=False,
            height=self.height,
            block_hash=self.block_hash,
            feerate_sats_per_kvb=self.feerate_sats_per_kvb,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CoinbasePeg:
    """Everything the peg reads from one coinbase."""

    commitment: Commitment
    records: tuple[Record, ...]
    parameter_hash: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitmentFacts:
    """A voter's own view of the committed blocks, fetched before judging.

    Attributes:
        tip_height: height of the own best chain; None while the own node does not answer.
        height: height of the committed block on the own best chain; None when not on it.
        previous_height: the same for the block before's commitment.
        fork_height: highest block that the previous committed branch shares with the own best
            chain; None when it cannot be told or the previous one is on the best chain.
        estimate_sats_per_kvb: own fee estimate.
        reset_approved: own operator approved a RESET to this block.
    """

    tip_height: int | None
    height: int | None
    previous_height: int | None
    fork_height: int | None
    estimate_sats_per_kvb: int | None
    reset_approved: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    """Eventual and policy part of a judgement; `reason` names the first rule that fails."""

    eventual: bool
    policy: bool
    reason: str = ""

    def joined(self, other: "Verdict") -> "Verdict":
        """Both verdicts together."""
        return Verdict(
            self.eventual and other.eventual,
            self.policy and other.policy,
            self.reason or other.reason,
        )


PASS = Verdict(True, True)


def not_yet(reason: str) -> Verdict:
    """An eventual rule fails."""
    return Verdict(False, True, reason)


def disliked(reason: str) -> Verdict:
    """A policy rule fails."""
    return Verdict(True, False, reason)


def decode_commitment(script: bytes) -> Commitment:
    """Read a commitment output's script.

    Raises:
        InvalidEncoding: not exactly the 47 bytes of peg:3.2.
    """
    if len(script) != 2 + COMMITMENT_BYTES or script[1] != COMMITMENT_BYTES:
        raise InvalidEncoding("commitment", "wrong length")
    reader = Reader(script, 2)
    if script[0] != OP_RETURN or reader.read(4) != COMMITMENT_MAGIC:
        raise InvalidEncoding("commitment", "wrong magic")
    flags = reader.u8()
    if flags & ~FLAG_RESET:
        raise InvalidEncoding("commitment", "unknown flag")
    return Commitment(
        reset=bool(flags & FLAG_RESET),
        height=reader.u32(),
        block_hash=reader.read(32),
        feerate_sats_per_kvb=reader.u32(),
    )


def parameters_script(parameter_hash: bytes) -> bytes:
    """Output of block 1 that fixes the federation's parameters. Source: peg:V8."""
    return bytes((OP_RETURN,)) + push(PARAMETERS_MAGIC + parameter_hash)


def read_coinbase(coinbase: Transaction, pegged_asset: bytes) -> CoinbasePeg:
    """Everything the peg says in a coinbase, checked for form only.

    Args:
        pegged_asset: 32 bytes.
    Raises:
        InvalidBlock: no commitment or several, a malformed one, too many records, a push that
            starts with "FP" and is none of the known forms. Source: peg:V1, peg:3.3.
    """
    commitments: list[Commitment] = []
    records: list[Record] = []
    parameter_hash: bytes | None = None
    size_bytes = 0
    for output in coinbase.outputs:
        body = _reserved_push(output.script)
        if body is None:
            continue
        _check_carrier(output, pegged_asset)
        try:
            if body.startswith(COMMITMENT_MAGIC[:3]):
                commitments.append(decode_commitment(output.script))
            elif body.startswith(RECORD_MAGIC):
                records.append(decode_record(body))
                size_bytes += len(output.script)
            elif body.startswith(PARAMETERS_MAGIC) and len(body) == 36 and not parameter_hash:
                parameter_hash = body[4:]
            else:
                raise InvalidEncoding("coinbase", "unknown output of the peg")
        except InvalidEncoding as error:
            raise InvalidBlock(REASON, str(error)) from error
    if len(commitments) != 1:
        raise InvalidBlock(REASON, f"V1: {len(commitments)} commitments")
    if len(records) > RECORDS_MAX or size_bytes > RECORDS_BYTES_MAX:
        raise InvalidBlock(REASON, "too many records")
    return CoinbasePeg(
        commitment=commitments[0], records=tuple(records), parameter_hash=parameter_hash
    )


def check_objective(coinbase: CoinbasePeg, height: int, parameter_hash: bytes) -> None:
    """The objective rules of a block's commitment beyond its form.

    Args:
        parameter_hash: of the own federation file.
    Raises:
        InvalidBlock: V8, or a RESET in block 1 (N9).
    """
    wanted = parameter_hash if height == 1 else None
    if coinbase.parameter_hash != wanted:
        raise InvalidBlock(REASON, "V8: parameters")
    if height == 1 and coinbase.commitment.reset:
        raise InvalidBlock(REASON, "V5: block 1 resets nothing")


def judge_commitment(
    commitment: Commitment,
    previous: Commitment | None,
    facts: CommitmentFacts,
    parameters: PegParameters,
    *,
    has_claims: bool,
) -> Verdict:
    """V2 to V7 for one voter, now.

    A block that repeats the commitment and has no claim passes without a look at Bitcoin.

    Args:
        previous: commitment of the block below; None for block 1.
        has_claims: the block has a peg-in.
    Source: peg:V2-V7, N7, N9.
    """
    if commitment.repeats(previous) and not has_claims:
        return PASS
    if facts.tip_height is None:
        return not_yet("own Bitcoin node does not answer")
    if facts.height is None:
        return not_yet("V2: committed block is not on the own best chain")
    if facts.height != commitment.height:
        return not_yet("V3: height is not the block's")
    eventual = _judge_chain(commitment, previous, facts, parameters)
    if not eventual.eventual:
        return eventual
    return eventual.joined(_judge_opinion(commitment, facts, parameters))


def _judge_chain(
    commitment: Commitment,
    previous: Commitment | None,
    facts: CommitmentFacts,
    parameters: PegParameters,
) -> Verdict:
    confirmations = (facts.tip_height or 0) - commitment.height + 1
    if confirmations < parameters.commit_depth:
        return not_yet("V2: committed block is too shallow")
    orphaned = previous is not None and facts.previous_height is None
    if commitment.reset != orphaned:
        return not_yet("V5: RESET flag does not match the previous committed block")
    if not commitment.reset:
        if facts.previous_height is not None and facts.previous_height > commitment.height:
            return not_yet("V4: previous committed block is not below")
        return PASS
    if confirmations < parameters.reset_depth:
        return not_yet("V5: too shallow for a RESET")
    # The branch must be D_reset deep, not only the block named (peg:6): a block below the fork
    # is as deep as one likes while the branch that replaced the old one has just begun.
    if facts.fork_height is not None and commitment.height <= facts.fork_height:
        return not_yet("V5: RESET must name a block of the new branch")
    if parameters.reset_manual and not facts.reset_approved:
        return disliked("V5: own operator has not approved this RESET")
    return PASS


def _judge_opinion(
    commitment: Commitment, facts: CommitmentFacts, parameters: PegParameters
) -> Verdict:
    depth = parameters.reset_depth if commitment.reset else parameters.commit_depth
    behind = (facts.tip_height or 0) - commitment.height
    if behind > depth + parameters.freshness:
        return disliked("V6: commitment is not fresh")
    rate = commitment.feerate_sats_per_kvb
    estimate = facts.estimate_sats_per_kvb
    if estimate is None:
        low, high = parameters.rate_floor_sats_per_kvb, parameters.rate_cap_sats_per_kvb
        fits = low <= rate <= high
    else:
        fits = 4 * rate >= estimate and rate <= 4 * estimate
    return PASS if fits else disliked("V7: fee rate is far from the own estimate")


def plan_commitment(
    view: ParentView,
    previous: Commitment | None,
    parameters: PegParameters,
    estimate_sats_per_kvb: int | None,
    *,
    fork_height: int | None = None,
) -> Commitment | None:
    """The commitment a proposer puts into its block.

    Advances to the best block that is deep enough, else repeats the previous one.

    Args:
        previous: commitment of the block below; None for block 1.
        estimate_sats_per_kvb: own fee estimate; None: twice the floor (N20).
        fork_height: as in `CommitmentFacts`.
    Returns:
        None only for block 1 while the own view has no block deep enough.
    Source: N9, N17.
    """
    if previous is not None and (view.is_empty or not view.is_active(previous.block_hash)):
        reset = _plan_reset(view, parameters, estimate_sats_per_kvb, fork_height)
        return reset or previous.repeated()
    depth = parameters.commit_depth + parameters.commit_depth_margin
    height = view.tip_height - depth + 1
    block_hash = view.hash_at(height)
    if block_hash is None or (previous is not None and height <= previous.height):
        return None if previous is None else previous.repeated()
    return Commitment(
        reset=False,
        height=height,
        block_hash=block_hash,
        feerate_sats_per_kvb=_rate(parameters, estimate_sats_per_kvb),
    )


def median_rate(feerates: Sequence[int], parameters: PegParameters) -> int:
    """rate(h): lower median of the last blocks' fee rates, clamped.

    Args:
        feerates: of the last min(h, 2n + 1) statements, sats per kvB, any order.
    Source: peg:3.2, N20.
    """
    middle = sorted(feerates)[(len(feerates) - 1) // 2]
    low, high = parameters.rate_floor_sats_per_kvb, parameters.rate_cap_sats_per_kvb
    return min(max(middle, low), high)


def check_open(
    record: OpenRecord,
    *,
    fed_program: bytes,
    output: tuple[int, bytes] | None,
    confirmations: int,
    parameters: PegParameters,
) -> str:
    """P1 for one OPEN record.

    Args:
        output: value and script of the named output; None when spent or unknown.
        confirmations: of its transaction on the own best chain, now.
    Returns:
        Empty, or why a voter cannot agree yet.
    """
    if output is None:
        return "P1: anchor funding is unknown or spent"
    value_sats, script = output
    if script != fed_program:
        return "P1: anchor does not pay FED"
    if value_sats < parameters.anchor_min_sats:
        return "P1: anchor is below anchor_min"
    if confirmations < parameters.anchor_depth:
        return "P1: anchor funding is too shallow"
    return ""


def _plan_reset(
    view: ParentView,
    parameters: PegParameters,
    estimate_sats_per_kvb: int | None,
    fork_height: int | None,
) -> Commitment | None:
    height = view.tip_height - parameters.reset_depth + 1
    block_hash = view.hash_at(height)
    if block_hash is None or (fork_height is not None and height <= fork_height):
        return None
    return Commitment(
        reset=True,
        height=height,
        block_hash=block_hash,
        feerate_sats_per_kvb=_rate(parameters, estimate_sats_per_kvb),
    )


def _rate(parameters: PegParameters, estimate_sats_per_kvb: int | None) -> int:
    fallback = 2 * parameters.rate_floor_sats_per_kvb
    return min(estimate_sats_per_kvb or fallback, 0xFFFFFFFF)


def _reserved_push(script: bytes) -> bytes | None:
    """What an OP_RETURN output pushes first, if it belongs to the peg."""
    if script.startswith(_COMMITMENT_PREFIX):
        return script[2:]
    if not script or script[0] != OP_RETURN:
        return None
    op = read_op(script, 1)
    if op is None or op.data is None or not op.data.startswith(RESERVED_PREFIX):
        return None
    if op.end != len(script) or bytes((OP_RETURN,)) + push(op.data) != script:
        raise InvalidBlock(REASON, "peg output is not one minimal push")
    return op.data


def _check_carrier(output: TxOut, pegged_asset: bytes) -> None:
    plain = output.asset == b"\x01" + pegged_asset and output.value == explicit_value(0)
    if not plain or output.nonce != NULL:
        raise InvalidBlock(REASON, "peg output is not an explicit zero of the pegged asset")
