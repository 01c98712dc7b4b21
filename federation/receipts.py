"""Receipts: files that prove a burn and its payment, or a deposit and its claim, to a stranger.

They are made of blocks alone and checked with the federation file alone, on a machine without any
network. What a checker has to take on trust is said with the verdict; Bitcoin headers of one's own
take away the largest part of it.

Source: peg:12, peg:P28, peg:P40, N26.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from federation.receipt_proofs import (
    PATH_MAX,
    Committed,
    InBlock,
    Paid,
    check_committed,
    check_headers,
    check_in_block,
    check_payment,
    hex_list,
    normal_branch,
    outpoint_of,
    show_in_block,
    take,
    whole,
    work_of,
)
from federation.stranger import NotProved, Stranger
from peg.history import ClaimedDeposit
from peg.lanes import LaneStep, SpendKind
from peg.ledger import PegLedger
from peg.limits import Burn, is_payable
from peg.parent_path import ParentPath
from peg.receipts import payment_of
from peg.reserves_desk import ReservesDesk
from peg.state import LANE, PegView
from peg.status import burn_text, outpoint_text
from sidechain.errors import Invalid, Unavailable
from sidechain.primitives.block import Block
from sidechain.primitives.encoding import le64
from sidechain.primitives.parent import HEADER_SIZE, MerkleBlock, ParentHeader, build_merkle_block
from sidechain.primitives.transaction import OutPoint
from sidechain.validation.pegins import FedpegPair, check_pegin, parse_pegin
from sidechain.validation.pegouts import parse_pegout

FORMAT: Final = 1
PEG_OUT: Final = "peg-out"
PEG_IN: Final = "peg-in"
_SIDECHAIN_TRUST: Final = (
    "that fewer members lie than the federation tolerates, so that the signed block is the only one"
    " of its height",
)
_MEMBERS_CHAIN: Final = (
    "the members' word that the Bitcoin blocks shown are on Bitcoin's best chain: --headers takes"
    " it away"
)
_OWN_CHAIN: Final = "that your headers are of Bitcoin's best chain"
NOTE: Final = (
    "Until it confirms, a payment of the federation cannot be spent by an ordinary wallet (P28)."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Proved:
    """What a receipt proves; `trusted` says what it does not."""

    kind: str
    outpoint: OutPoint
    amount_sats: int
    script: bytes
    block: InBlock
    place: Committed | None = None
    paid: Paid | None = None
    own_depth: int | None = None
    trusted: tuple[str, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """The same for programs."""
        paid, place = self.paid, self.place
        return {
            "kind": self.kind,
            "outpoint": outpoint_text(self.outpoint),
            "amount_sats": self.amount_sats,
            "script_hex": self.script.hex(),
            "height": self.block.header.height,
            "hash": self.block.header.hash[::-1].hex(),
            "signers": list(self.block.signers),
            "bitcoin": None
            if place is None
            else {
                "height": place.height,
                "hash": place.block_hash[::-1].hex(),
                "depth": place.depth if self.own_depth is None else self.own_depth,
                "committed_hash": place.commitment.block_hash[::-1].hex(),
                "committed_in": place.committed_in,
                "work": str(work_of(place.headers)),
            },
            "payment": None
            if paid is None
            else {
                "txid": paid.txid[::-1].hex(),
                "vout": paid.vout,
                "payout_sats": paid.payout_sats,
                "index": paid.index,
                "h_sel": paid.h_sel,
                "checkpoint": paid.checkpoint,
            },
            "trusted": list(self.trusted),
        }


# ---- making ----


class ReceiptMaker:
    """Makes receipts out of what a member holds. Changes nothing."""

    def __init__(
        self,
        stranger: Stranger,
        *,
        ledger: PegLedger,
        reserves: ReservesDesk,
        block: Callable[[int], Block],
        path_max: int = PATH_MAX,
    ) -> None:
        """
        Args:
            block: a final block by height.
            path_max: batches shown from OPEN on before a signed report is used.
        """
        self._stranger = stranger
        self._ledger = ledger
        self._reserves = reserves
        self._block = block
        self._path_max = path_max

    async def make(self, outpoint: OutPoint) -> dict[str, Any] | None:
        """The receipt of a burn (an output of the sidechain) or of a deposit (one of Bitcoin).

        Returns:
            The file; None when no final block knows the outpoint.
        Raises:
            Unavailable: the Bitcoin node does not answer, or a part is missing; says which.
        """
        burn = self._ledger.history.burn(outpoint.serialize())
        if burn is not None:
            return await self._of_burn(burn)
        claimed = self._ledger.history.claimed(outpoint)
        return None if claimed is None else await self._of_deposit(claimed)

    def _head(self, kind: str, outpoint: OutPoint) -> dict[str, Any]:
        return {
            "kind": kind,
            "format": FORMAT,
            "genesis": self._stranger.params.genesis_hash.hex(),
            "parameter_hash": self._stranger.federation.parameter_hash().hex(),
            "outpoint": outpoint_text(outpoint),
            "note": NOTE,
        }

    async def _of_burn(self, burn: Burn) -> dict[str, Any]:
        outpoint = OutPoint(burn.burn_id[:32], int.from_bytes(burn.burn_id[32:], "little"))
        found = {
            **self._head(PEG_OUT, outpoint),
            "block": show_in_block(self._block(burn.height), outpoint.txid),
        }
        view = self._ledger.view
        paid = None if view is None else payment_of(burn.burn_id, view.steps)
        if view is not None and paid is not None:
            found["payment"] = await self._payment(view, paid[0])
        return found

    async def _payment(self, view: PegView, txid: bytes) -> dict[str, Any]:
        index = next(at for at, step in enumerate(view.steps) if step.txid == txid)
        step, path = view.steps[index], self._ledger.path
        if step.kind is not SpendKind.BATCH or path is None:
            raise Unavailable("the payment was made by a transaction that broke the lane (P5)")
        spend = path.spend(step.transaction.inputs[0])
        block_hash = None if spend is None else path.hash_at(spend.height)
        if spend is None or block_hash is None:
            raise Unavailable("the payment is not on the committed chain any more")
        block = await self._ledger.blocks.get(block_hash)
        committed_in = self._committed_above(view, spend.height)
        return {
            "transaction": step.transaction.stripped.hex(),
            "index": index,
            "burns": [burn_text(each.burn_id) for each in step.payouts],
            **self._ancestry(view.steps[:index]),
            "proof": build_merkle_block(block, txid).hex(),
            **await self._committed(path, spend.height, committed_in),
        }

    async def _committed(self, path: ParentPath, height: int, committed_in: int) -> dict[str, Any]:
        """Bitcoin's headers above a height up to what a sidechain block commits to, with that."""
        top = self._ledger.history.totals(committed_in).commitment
        hashes = [path.hash_at(each) for each in range(height + 1, top.height + 1)]
        known = [each for each in hashes if each is not None]
        if path.hash_at(top.height) != top.block_hash or len(known) != len(hashes):
            raise Unavailable(
                "a Bitcoin block that the receipt needs is not on the committed chain any more"
            )
        headers = [(await self._ledger.blocks.get(each)).header.serialize() for each in known]
        block = self._block(committed_in)
        return {
            "headers": b"".join(headers).hex(),
            "commitment": show_in_block(block, block.transactions[0].txid),
        }

    def _committed_above(self, view: PegView, height: int) -> int:
        """The first sidechain block on this branch that commits to D_p blocks on the payment.

        The newest one while there is none.
        """
        history = self._ledger.history
        wanted = height + self._stranger.federation.peg.pegin_depth - 1
        for at in range(max(1, view.totals.last_reset_height), view.height + 1):
            if history.totals(at).commitment.height >= wanted:
                return at
        return view.height

    def _ancestry(self, steps: Sequence[LaneStep]) -> dict[str, Any]:
        """The batches before, back to OPEN or to what k members signed about the lane."""
        plain = all(step.kind is not SpendKind.REOPENED for step in steps)
        opened = self._ledger.history.governance.opened.get(LANE)
        if plain and len(steps) <= self._path_max and opened is not None and self._starts(opened):
            block = self._block(opened[1])
            return {
                "path": [step.transaction.stripped.hex() for step in steps],
                "open": show_in_block(block, block.transactions[0].txid),
            }
        for height in reversed(self._reserves.heights()):
            kept = self._reserves.kept(height)
            first = None if kept is None else _first_after(kept["report"], steps)
            if kept is not None and first is not None:
                rest = steps[first:]
                path = [step.transaction.stripped.hex() for step in rest]
                return {"path": path, "checkpoint": kept}
        raise Unavailable(
            "the lane is too long, or was reopened, to show all of it, and no reserves report of "
            "k members names its last batches: `fedpeg audit report` makes one; then ask again"
        )

    def _starts(self, opened: tuple[OutPoint, int]) -> bool:
        """Whether the lane began where OPEN says, not at an anchor that replaced it (P4)."""
        path = self._ledger.path
        return path is not None and path.output(opened[0]) is not None

    async def _of_deposit(self, claimed: ClaimedDeposit) -> dict[str, Any]:
        outpoint, block = claimed.claim.outpoint, self._block(claimed.height)
        path = self._ledger.path
        height = None if path is None else path.height_of(claimed.claim.block_hash)
        if path is None or height is None:
            raise Unavailable("the deposit's Bitcoin block is not on the committed chain any more")
        for transaction in block.transactions:
            pairs = zip(transaction.inputs, transaction.input_witnesses, strict=True)
            for txin, witness in pairs:
                if txin.is_pegin and txin.prevout == outpoint:
                    return {
                        **self._head(PEG_IN, outpoint),
                        "block": show_in_block(block, transaction.txid),
                        "claim": [item.hex() for item in _normal_claim(witness.pegin)],
                        **await self._committed(path, height, claimed.height),
                    }
        raise Unavailable(f"block {claimed.height} does not hold the claim")


def _normal_claim(items: Sequence[bytes]) -> list[bytes]:
    """The witness of a claim in its one form: a claimer may have written it in others."""
    claim = parse_pegin(items)
    proof = items[5]
    position = claim.proof.matches[0][0]
    branch = normal_branch(proof[HEADER_SIZE:], position)
    stripped, genesis = claim.parent_tx.stripped, claim.parent_genesis
    head = [le64(claim.value_sats), claim.asset, genesis, claim.claim_script, stripped]
    return [*head, proof[:HEADER_SIZE] + branch]


def _first_after(report: dict[str, Any], steps: Sequence[LaneStep]) -> int | None:
    """The first of some steps that a report does not cover; None when it names none of them.

    What comes after it has to go on at output 0 of each.
    """
    for each in reversed(report["batches"]):
        index = each["index"]
        if index < len(steps) and steps[index].txid[::-1].hex() == each["txid"]:
            rest = steps[index:]
            plain = all(step.kind is not SpendKind.REOPENED for step in rest)
            return index + 1 if plain else None
    return None


# ---- checking ----


def check_receipt(
    plain: object, stranger: Stranger, headers: Sequence[ParentHeader] = ()
) -> Proved:
    """Check a receipt with nothing but the federation file, and Bitcoin headers of one's own.

    Args:
        headers: of the chain that the checker takes for Bitcoin's best; none: the members' word.
    Raises:
        NotProved: why it proves nothing.
    """
    if not isinstance(plain, dict):
        raise NotProved("it is not a JSON object")
    kind = plain.get("kind")
    names = ("kind", "format", "genesis", "parameter_hash", "outpoint", "note", "block")
    more = ("claim", "headers", "commitment") if kind == PEG_IN else ()
    take(plain, "the receipt", names + more, ("payment",) if kind == PEG_OUT else ())
    stranger.check_origin(plain)
    if whole(plain, "format", "the receipt") != FORMAT or kind not in (PEG_OUT, PEG_IN):
        raise NotProved("it is of another kind or format than this version reads")
    if plain["note"] != NOTE:
        raise NotProved("note is not the text that every receipt carries")
    outpoint = outpoint_of(plain["outpoint"], "outpoint")
    block = check_in_block(plain["block"], "block", stranger)
    if headers:
        check_own_headers(headers, stranger)
    if kind == PEG_OUT:
        return _check_pegout(plain, outpoint, block, stranger, headers)
    return _check_pegin(plain, outpoint, block, stranger, headers)


def check_own_headers(headers: Sequence[ParentHeader], stranger: Stranger) -> None:
    """Refuse headers that are no chain of the federation's Bitcoin.

    Raises:
        NotProved: why.
    """
    check_headers(headers, stranger)
    first = headers[0]
    if first.prev_hash == bytes(32) and first.hash != stranger.params.parent_genesis_hash:
        raise NotProved("your headers begin with another genesis than the federation's Bitcoin")


def _check_pegout(
    plain: dict[str, Any],
    outpoint: OutPoint,
    block: InBlock,
    stranger: Stranger,
    headers: Sequence[ParentHeader],
) -> Proved:
    transaction = block.transaction
    if transaction.txid != outpoint.txid or outpoint.index >= len(transaction.outputs):
        raise NotProved("the transaction in block has no such output")
    output = transaction.outputs[outpoint.index]
    pegout = parse_pegout(output.script)
    if pegout is None or pegout[0] != stranger.params.parent_genesis_hash or block.position == 0:
        raise NotProved("the output is no peg-out to the federation's Bitcoin")
    if output.value_sats is None or output.asset_id != stranger.params.pegged_asset:
        raise NotProved("the output does not burn an open amount of the pegged asset")
    if not is_payable(pegout[1]):
        raise NotProved("the output names a script that the federation never pays (E3)")
    if "payment" not in plain:
        return Proved(
            kind=PEG_OUT,
            outpoint=outpoint,
            amount_sats=output.value_sats,
            script=pegout[1],
            block=block,
            trusted=("whether it is paid: this receipt was made before", *_SIDECHAIN_TRUST),
        )
    paid = check_payment(
        plain["payment"],
        outpoint.serialize(),
        (output.value_sats, pegout[1]),
        block.header.height,
        stranger,
    )
    own_depth = _own_depth(paid.place, headers) if headers else None
    trust = [_MEMBERS_CHAIN if own_depth is None else _OWN_CHAIN, *_SIDECHAIN_TRUST]
    if paid.checkpoint is not None:
        trust.append(f"k members' word of block {paid.checkpoint} for the lane's older batches")
    return Proved(
        kind=PEG_OUT,
        outpoint=outpoint,
        amount_sats=output.value_sats,
        script=pegout[1],
        block=block,
        place=paid.place,
        paid=paid,
        own_depth=own_depth,
        trusted=tuple(trust),
    )


def _check_pegin(
    plain: dict[str, Any],
    outpoint: OutPoint,
    block: InBlock,
    stranger: Stranger,
    headers: Sequence[ParentHeader],
) -> Proved:
    inputs = block.transaction.inputs
    if not any(txin.is_pegin and txin.prevout == outpoint for txin in inputs):
        raise NotProved("the transaction in block does not claim this deposit")
    script = stranger.federation.fed_script()
    pair = FedpegPair(script.program, script.script)
    try:
        items = hex_list(plain, "claim", "the receipt")
        claim = check_pegin(items, outpoint, stranger.params, [pair], None)
        if _normal_claim(items) != items:
            raise NotProved("claim is not in its one form")
    except Invalid as error:
        raise NotProved(f"claim: {error}") from error
    proof = claim.proof
    if not isinstance(proof, MerkleBlock):
        raise NotProved("claim: the federation's Bitcoin has no signed blocks")
    place = check_committed(plain, proof.header, "the receipt", stranger)
    if place.committed_in != block.header.height:
        raise NotProved("commitment is not that of the block with the claim")
    depth = _own_depth(place, headers) if headers else None
    return Proved(
        kind=PEG_IN,
        outpoint=outpoint,
        amount_sats=claim.value_sats,
        script=claim.claim_script,
        block=block,
        place=place,
        own_depth=depth,
        trusted=(_MEMBERS_CHAIN if depth is None else _OWN_CHAIN, *_SIDECHAIN_TRUST),
    )


def _own_depth(place: Committed, own: Sequence[ParentHeader]) -> int:
    """Confirmations of a block on one's own chain.

    Raises:
        NotProved: it is not on it, or at another height.
    """
    hashes = [header.hash for header in own]
    if place.block_hash not in hashes:
        raise NotProved(
            f"Bitcoin block {place.block_hash[::-1].hex()} is not among your headers: on that "
            "chain this is not so, or not any more, and a receipt of today would tell"
        )
    at = hashes.index(place.block_hash)
    if own[0].prev_hash == bytes(32) and at != place.height:
        raise NotProved(f"the Bitcoin block is at height {at} of your headers, not {place.height}")
    return len(own) - at
