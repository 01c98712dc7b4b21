"""What the user is shown of peg-ins and peg-outs: stages derived from records and both chains."""

import re
from typing import Any

from federation.wallet.chain import ChainFollower
from federation.wallet.deposit_watch import DepositWatch
from federation.wallet.deposits import DepositFollower
from federation.wallet.links import MemberLinks
from federation.wallet.peg_store import PegStore
from federation.wallet.pegin_stages import Answers, Standing, standing
from federation.wallet.pegs import DepositAddress, Pegin, Pegout
from federation.wallet.worker import PegWorker
from peg.status import outpoint_text
from sidechain.api.registry import INVALID_PARAMETER, RpcError
from sidechain.errors import Unavailable

PAID_STATUSES = ("CONFIRMED", "SETTLED")
"""Statuses of peg-protocol section 12 that tell of a Bitcoin payment in a block."""

INELIGIBLE = re.compile(r"E\d_")
"""How the codes of burns begin that are final and never paid. Source: peg 3.4."""


class PegViews:
    """Reads records, followers and the worker; changes nothing."""

    def __init__(
        self,
        *,
        members: MemberLinks,
        store: PegStore,
        chain: ChainFollower,
        deposits: DepositFollower,
        watch: DepositWatch,
        worker: PegWorker,
    ) -> None:
        self._members = members
        self._store = store
        self._chain = chain
        self._deposits = deposits
        self._watch = watch
        self._worker = worker

    def new_pegin(self, target: DepositAddress, amount_sats: int) -> Pegin:
        """A peg-in that this process will fund."""
        return Pegin(
            number=self._store.next_pegin_number(),
            target=target,
            amount_sats=amount_sats,
            is_own=True,
        )

    def find_pegin(self, text: str) -> Pegin | DepositAddress:
        """A peg-in by id, deposit or address; the address itself when nothing was paid to it.

        Raises:
            RpcError: there is none.
        """
        for pegin in reversed(self._store.pegins):
            deposit = pegin.deposit
            names = {pegin.id, pegin.target.address}
            if deposit is not None:
                names.add(outpoint_text(deposit.outpoint))
            if text in names:
                return pegin
        for address in self._store.addresses():
            if address.address == text:
                return address
        raise RpcError(INVALID_PARAMETER, f"there is no peg-in {text!r}")

    def find_pegout(self, text: str) -> Pegout:
        """A peg-out by id or burn.

        Raises:
            RpcError: there is none.
        """
        for pegout in self._store.pegouts:
            if text in (pegout.id, outpoint_text(pegout.burn)):
                return pegout
        raise RpcError(INVALID_PARAMETER, f"there is no peg-out {text!r}")

    def pegin(self, pegin: Pegin) -> dict[str, Any]:
        """One peg-in as JSON."""
        deposit, info = pegin.deposit, self._worker.info
        confirmations = 0
        if deposit is not None and deposit.height is not None:
            confirmations = max(0, self._deposits.tip_height - deposit.height + 1)
        required = None
        if info is not None:
            required = info.pegin_depth if deposit is None else info.required_depth(deposit)
        missing = None if required is None else max(0, required - confirmations)
        found = self._standing(pegin, missing)
        return {
            "id": pegin.id,
            **_receiver(pegin.target),
            "amount_sats": pegin.amount_sats,
            "address": pegin.target.address,
            **_keyless(pegin.target),
            "stage": found.stage,
            "confirmations": confirmations,
            "required": required,
            "deposit": None if deposit is None else outpoint_text(deposit.outpoint),
            "claim_txid": self._claim_txid(pegin),
            "height": pegin.final_height,
            "reason": found.reason,
            "next": found.next_step,
            "warning": "" if found.stage == "final" else self._worker.script_warning(pegin.target),
        }

    def unused_address(self, address: DepositAddress) -> dict[str, Any]:
        """A deposit address that nothing was paid to, in the form of a peg-in."""
        info = self._worker.info
        return {
            "id": None,
            **_receiver(address),
            "amount_sats": None,
            "address": address.address,
            **_keyless(address),
            "stage": "address",
            "confirmations": 0,
            "required": None if info is None else info.pegin_depth,
            "deposit": None,
            "claim_txid": None,
            "height": None,
            "reason": "",
            "next": "pay the address",
            "warning": self._worker.script_warning(address),
        }

    def _standing(self, pegin: Pegin, missing: int | None) -> Standing:
        deposit, keyless = pegin.deposit, self._watch.keyless(pegin)
        reason = self._worker.reason(pegin)
        sent = self._worker.is_accepted(pegin.claim_txid)
        if keyless is not None:
            reason, sent = keyless.reason, keyless.stage in ("claim_sent", "final")
        answers = Answers(
            verdict=self._worker.verdict(pegin),
            reason=reason,
            conflict=self._watch.conflict(pegin),
            in_mempool=deposit is not None and self._watch.is_in_mempool(deposit),
            claim_sent=sent,
            missing=missing,
        )
        return standing(pegin, answers)

    def _claim_txid(self, pegin: Pegin) -> str | None:
        keyless = self._watch.keyless(pegin)
        shown = pegin.claim_txid[::-1].hex()
        return shown or (None if keyless is None else keyless.claim_txid)

    async def pegout(self, pegout: Pegout) -> dict[str, Any]:
        """One peg-out as JSON; once its burn is final, with what a member says of the payment.

        `stage` is created, sent, failed, final, or the member's status (peg-protocol section 12);
        `done` tells that nothing more will change.
        """
        stage, reason = self._own_stage(pegout)
        member: dict[str, Any] = {}
        if stage == "final":
            try:
                found = await self._members.call("getpegout", outpoint_text(pegout.burn))
                member = found if isinstance(found, dict) else {}
                stage, reason = _member_stage(member)
            except (RpcError, Unavailable) as error:
                reason = str(error)
        info = self._worker.info
        payout = None if info is None else pegout.amount_sats - info.peg_out_fee_sats
        return {
            "id": pegout.id,
            "wallet": pegout.wallet,
            "amount_sats": pegout.amount_sats,
            "payout_sats": member.get("payout_sats", payout),
            "address": pegout.address,
            "stage": stage,
            "done": stage == "failed" or stage.startswith(PAID_STATUSES),
            "burn": outpoint_text(pegout.burn),
            "fee_sats": pegout.fee_sats,
            "height": pegout.final_height,
            "reason": reason,
            "payout": member or None,
        }

    def _own_stage(self, pegout: Pegout) -> tuple[str, str]:
        if pegout.final_height is not None:
            return "final", ""
        if pegout.failure:
            return "failed", pegout.failure
        txid = pegout.burn.txid
        if not self._store.book.is_pending(txid):
            return "failed", "another transaction spent the coins of the burn"
        if self._worker.is_accepted(txid):
            return "sent", ""
        return "created", self._worker.tx_reason(txid)


def _member_stage(member: dict[str, Any]) -> tuple[str, str]:
    """Stage and reason from a member's status of a final burn."""
    status = str(member.get("status") or "final")
    if INELIGIBLE.match(status):
        return "failed", f"{status}: the federation never pays this burn"
    return status, ", ".join(str(reason) for reason in member.get("reasons") or ())


def _receiver(target: DepositAddress) -> dict[str, Any]:
    """`wallet` is None where coins go to an address; `to` is what the user named."""
    return {"wallet": None if target.pay_to else target.wallet, "to": target.receiver.shown}


def _keyless(target: DepositAddress) -> dict[str, Any]:
    """The price of a claim by members; None where the wallet claims."""
    terms = target.covenant
    return {"max_fee_sats": None if terms is None else terms.max_fee_sats}
