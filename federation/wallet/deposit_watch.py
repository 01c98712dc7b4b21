"""What became of deposits that do not go on: replaced, spent, or left to the members to claim.

Answers are of one Bitcoin tip and asked again at the next. Only views and the worker read them; no
record rests on them, because each can be undone by a reorganisation.

Source: peg:4 (peg:C6, peg:C7, "Who claims when"), peg:12.
"""

from dataclasses import dataclass
from typing import Any

from federation.wallet.deposits import DepositFollower
from federation.wallet.links import MemberLinks, ParentNode
from federation.wallet.peg_store import PegStore
from federation.wallet.pegs import Deposit, Pegin
from peg.bitcoind import BitcoindError
from sidechain.api.registry import RpcError
from sidechain.errors import Unavailable
from sidechain.primitives.parent import parse_parent_tx
from sidechain.primitives.transaction import OutPoint
from sidechain.wallet.covenant import NUMS_KEY

CODE_UNKNOWN = -5


@dataclass(frozen=True, slots=True)
class KeylessState:
    """What a member says of a deposit it may claim: stage, reason and its claim's id as shown."""

    stage: str
    reason: str = ""
    claim_txid: str | None = None


class DepositWatch:
    """Asks both chains about deposits. One task calls the methods in turn."""

    def __init__(
        self,
        *,
        members: MemberLinks,
        parent: ParentNode,
        store: PegStore,
        deposits: DepositFollower,
    ) -> None:
        self._members = members
        self._parent = parent
        self._store = store
        self._deposits = deposits
        self._conflicts: dict[int, tuple[bytes, str]] = {}
        self._spent: dict[int, tuple[bytes, bool]] = {}
        self._keyless: dict[int, KeylessState] = {}
        self._told: dict[int, bytes] = {}

    # ---- what the views show ----

    def is_in_mempool(self, deposit: Deposit) -> bool:
        """Whether bitcoind's mempool held a deposit at the last step."""
        return self._deposits.is_in_mempool(deposit.outpoint.txid)

    def conflict(self, pegin: Pegin) -> str:
        """What took the place of an unconfirmed deposit; empty when nothing is known to."""
        return self._conflicts.get(pegin.number, (b"", ""))[1]

    def keyless(self, pegin: Pegin) -> KeylessState | None:
        """What a member said last of a deposit that members claim."""
        return self._keyless.get(pegin.number)

    def forget_all_but(self, numbers: set[int]) -> None:
        """Keep answers about these peg-ins alone."""
        memories: tuple[dict[int, Any], ...] = (
            self._conflicts,
            self._spent,
            self._keyless,
            self._told,
        )
        for memory in memories:
            for number in [number for number in memory if number not in numbers]:
                del memory[number]

    # ---- asking ----

    async def look_for_conflict(self, pegin: Pegin) -> None:
        """Find out whether an unconfirmed deposit of somebody else was replaced.

        Raises:
            Unavailable: bitcoind does not answer.
        """
        deposit, tip = pegin.deposit, self._tip()
        if deposit is None or self._deposits.is_in_mempool(deposit.outpoint.txid):
            self._conflicts.pop(pegin.number, None)
            return
        known = self._conflicts.get(pegin.number)
        if known is not None and known == (tip, known[1]) and known[1]:
            return
        try:
            self._conflicts[pegin.number] = (tip, await self._conflict_of(deposit))
        except BitcoindError:
            return  # asked again at the next turn

    async def is_spent(self, pegin: Pegin) -> bool:
        """Whether a deposit in a block was spent on Bitcoin and never claimed.

        Raises:
            Unavailable: bitcoind or the members do not answer.
        """
        deposit, tip = pegin.deposit, self._tip()
        if deposit is None:
            return False
        known = self._spent.get(pegin.number)
        if known is not None and known[0] == tip:
            return known[1]
        spent = await self._parent.tx_out(deposit.outpoint, False) is None
        # The federation spends what was claimed; this process may not have read that claim yet.
        if spent and await self._is_claimed(deposit.outpoint):
            spent = False
        self._spent[pegin.number] = (tip, spent)
        return spent

    async def look_at_members(self, pegin: Pegin) -> None:
        """Ask a member how far it is with a keyless deposit; tell it of one that it forgot.

        Raises:
            Unavailable: no member answers.
        """
        target, deposit = pegin.target, pegin.deposit
        if target.covenant is None or deposit is None:
            return
        try:
            reply = await self._members.call("getcovenant", target.claim_script.hex())
        except RpcError as error:
            if error.code != CODE_UNKNOWN:
                self._keyless[pegin.number] = KeylessState("claimable", error.message)
                return
            tip = self._tip()
            if self._told.get(pegin.number) == tip:
                return  # told at this tip already; a member that lags or lies is not asked faster
            self._told[pegin.number] = tip
            terms = target.covenant
            key = None if terms.internal_key == NUMS_KEY else terms.internal_key.hex()
            _, reasons = await self._members.call_each(
                "registercovenant", terms.script.hex(), terms.max_fee_sats, key
            )
            self._keyless[pegin.number] = KeylessState("claimable", "; ".join(reasons[:1]))
            return
        shown = f"{deposit.outpoint.txid[::-1].hex()}:{deposit.outpoint.index}"
        for found in reply.get("deposits", ()):
            if found["deposit"] == shown:
                self._keyless[pegin.number] = KeylessState(
                    found["stage"], found["reason"], found["claim_txid"]
                )

    # ---- parts ----

    def _tip(self) -> bytes:
        cursor = self._store.parent_cursor
        return b"" if cursor is None else cursor.block_hash

    async def _conflict_of(self, deposit: Deposit) -> str:
        tx = parse_parent_tx(deposit.tx)
        if await self._parent.find_transaction(tx.txid) is not None:
            return ""
        for prevout in tx.inputs:
            if await self._spent_in_a_block(prevout):
                return "a transaction in a block spent the same coins"
            if await self._parent.tx_out(prevout, True) is None and await self._exists(prevout):
                return "another transaction in the mempool replaced it"
        return ""

    async def _exists(self, prevout: OutPoint) -> bool:
        return await self._parent.tx_out(prevout, False) is not None

    async def _spent_in_a_block(self, prevout: OutPoint) -> bool:
        """Whether a block spends an output. One that is merely unknown may come back."""
        origin = await self._parent.find_transaction(prevout.txid)
        in_block = origin is not None and origin.block_hash is not None
        return in_block and not await self._exists(prevout)

    async def _is_claimed(self, outpoint: OutPoint) -> bool:
        shown = f"{outpoint.txid[::-1].hex()}:{outpoint.index}"
        try:
            reply = await self._members.call("getdeposit", shown)
        except RpcError as error:
            raise Unavailable(f"a member does not know of deposits: {error.message}") from error
        return bool(reply.get("claimed"))
