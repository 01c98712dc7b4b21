"""What the wallet process does by itself: send, fund deposits, claim ripe ones.

Order everywhere: decide without awaiting, record durably, then send. A crash at any point leaves
either nothing or a record from which the next start goes on with the same transaction.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from structlog.typing import FilteringBoundLogger

from federation.wallet.chain import ChainFollower, Keyring
from federation.wallet.deposit_watch import DepositWatch
from federation.wallet.deposits import DepositFollower
from federation.wallet.links import FundingSource, MemberLinks, ParentNode, Submission
from federation.wallet.peg_store import PegStore
from federation.wallet.pegs import (
    EXPIRED,
    SPENT,
    Deposit,
    DepositAddress,
    Pegin,
    PegInfo,
    Ripeness,
    judge_deposit,
)
from peg.bitcoind import BitcoindError
from sidechain.api.registry import VERIFY_ALREADY_IN_CHAIN
from sidechain.errors import Invalid, Unavailable
from sidechain.params import ChainParams
from sidechain.primitives.address import Address, decode_address
from sidechain.primitives.parent import parse_parent_tx
from sidechain.primitives.transaction import OutPoint, Transaction
from sidechain.script.script import p2wsh
from sidechain.validation.pegins import deposit_script
from sidechain.wallet.blinding import ENTROPY_BYTES
from sidechain.wallet.claim import (
    ClaimableDeposit,
    build_claim,
    replacement_fee_sats,
    sign_claim,
    with_claim_proof,
)
from sidechain.wallet.keys import Branch
from sidechain.wallet.selection import WalletRefusal
from sidechain.wallet.wallet import Wallet

RESEND_MS = 2_000
MISSING_INPUTS = "missingorspent"


class PegWorker:
    """Carries own transactions and peg-ins forward. One task calls its methods in turn."""

    def __init__(
        self,
        *,
        members: MemberLinks,
        parent: ParentNode,
        funding: FundingSource,
        store: PegStore,
        params: ChainParams,
        chain: ChainFollower,
        deposits: DepositFollower,
        watch: DepositWatch,
        keyring: Keyring,
        log: FilteringBoundLogger,
        unix_time_s: Callable[[], int],
        monotonic_ms: Callable[[], int],
        entropy: Callable[[int], bytes],
    ) -> None:
        """
        Args:
            entropy: gives that many FRESH random bytes.
        """
        self._members = members
        self._parent = parent
        self._funding = funding
        self._store = store
        self._book = store.book
        self._params = params
        self._chain = chain
        self._deposits = deposits
        self._watch = watch
        self._keyring = keyring
        self._log = log
        self._unix_time_s = unix_time_s
        self._monotonic_ms = monotonic_ms
        self._entropy = entropy
        self._sent_ms: dict[bytes, int] = {}
        self._accepted: set[bytes] = set()
        self._held: set[bytes] = set()
        self._tx_reasons: dict[bytes, str] = {}
        self._reasons: dict[int, str] = {}
        self._verdicts: dict[int, Ripeness] = {}
        self._scripts: tuple[bytes, ...] = ()
        self._scripts_at = -1
        self.info: PegInfo | None = None

    # ---- what the views show ----

    def is_accepted(self, txid: bytes) -> bool:
        """Whether a member took this transaction since this process started."""
        return txid in self._accepted

    def tx_reason(self, txid: bytes) -> str:
        """Why no member took a transaction at the last try; empty when one did."""
        return self._tx_reasons.get(txid, "")

    def reason(self, pegin: Pegin) -> str:
        """Why a peg-in does not go on by itself right now; empty when it does."""
        verdict = self._verdicts.get(pegin.number)
        own = self._reasons.get(pegin.number) or self._tx_reasons.get(pegin.claim_txid, "")
        return own or ("" if verdict is None else verdict.reason)

    def verdict(self, pegin: Pegin) -> Ripeness | None:
        """The last judgement of a peg-in's deposit."""
        return self._verdicts.get(pegin.number)

    # ---- sending ----

    async def send(self, tx: Transaction) -> Submission:
        """Hand a recorded transaction to the federation now, and remember what became of it."""
        self._sent_ms[tx.txid] = self._monotonic_ms()
        outcome = await self._members.submit(tx.serialize())
        if outcome.accepted:
            if tx.txid not in self._accepted:
                self._log.info("transaction_sent", txid=tx.txid[::-1].hex())
            self._accepted.add(tx.txid)
            self._tx_reasons.pop(tx.txid, None)
        else:
            if self._tx_reasons.get(tx.txid) != outcome.reason:
                self._log.warning(
                    "transaction_refused", txid=tx.txid[::-1].hex(), reason=outcome.reason
                )
            self._tx_reasons[tx.txid] = outcome.reason
        return outcome

    async def resend(self) -> None:
        """Send every pending own transaction whose last try is long enough ago, oldest first."""
        pending = self._book.pending()
        known = {tx.txid for tx in pending}
        self._accepted &= known
        for memory in (self._sent_ms, self._tx_reasons):
            for txid in [txid for txid in memory if txid not in known]:
                memory.pop(txid, None)
        for tx in pending:
            last_ms = self._sent_ms.get(tx.txid)
            is_due = last_ms is None or self._monotonic_ms() - last_ms >= RESEND_MS
            if is_due and tx.txid not in self._held and self._book.is_pending(tx.txid):
                await self.send(tx)

    # ---- peg-ins ----

    async def peg_info(self) -> PegInfo:
        """The committed Bitcoin block and the limits in force, asked now.

        Raises:
            Unavailable: no member answers, or its answer lacks something.
            RpcError: it refuses.
        """
        reply: Any = await self._members.call("getpeginfo")
        try:
            self.info = PegInfo.from_json(reply)
        except (KeyError, TypeError, ValueError) as error:
            raise Unavailable(f"getpeginfo of a member is not complete: {error!r}") from error
        return self.info

    async def advance_pegins(self) -> None:
        """Fund what is to be funded, and claim what is ripe.

        Raises:
            Unavailable: bitcoind or the members do not answer.
        """
        waiting = [pegin for pegin in self._store.pegins if pegin.final_height is None]
        self._forget_all_but(waiting)
        for known in waiting:
            # Read again: bitcoind was asked about those before it, and blocks got final meanwhile.
            pegin = self._store.pegin(known.number)
            if pegin is None or pegin.final_height is not None:
                continue
            if pegin.deposit is None or pegin.deposit.height is None:
                self._held.add(pegin.claim_txid)
                if pegin.is_own:
                    await self._advance_funding(pegin)
                else:
                    await self._watch.look_for_conflict(pegin)
        in_blocks = [p for p in waiting if p.deposit is not None and p.deposit.height is not None]
        if not in_blocks:
            if self.info is None:
                await self.peg_info()
            if self._store.has_addresses and self._scripts_at != self._chain.tip_height:
                await self._ask_scripts()
            return
        info = await self.peg_info()
        is_active = await self._is_committed_active(info)
        await self._ask_scripts()
        for pegin in in_blocks:
            latest = self._store.pegin(pegin.number)
            if latest is not None and latest.final_height is None:
                await self._advance_claim(latest, info, is_active)

    async def _is_committed_active(self, info: PegInfo) -> bool:
        if info.committed_height < 0 or info.committed_height > self._deposits.tip_height:
            return False
        followed = self._store.parent_hash(info.committed_height)
        if followed is not None:
            return followed == info.committed_hash
        try:
            return await self._parent.block_hash(info.committed_height) == info.committed_hash
        except BitcoindError:
            return False

    async def _advance_funding(self, pegin: Pegin) -> None:
        try:
            if not pegin.funding_tx:
                raw = await self._funding.signed_payment(pegin.target.address, pegin.amount_sats)
                pegin = self._record_funding(pegin.number, raw)
            if pegin.deposit is None or self._deposits.is_in_mempool(pegin.deposit.outpoint.txid):
                self._reasons.pop(pegin.number, None)
                return
            await self._send_funding(pegin)
        except BitcoindError as error:
            reason = f"bitcoind: {error.message}"
            if self._reasons.get(pegin.number) != reason:
                self._log.warning("funding_refused", pegin=pegin.id, reason=error.message)
            self._reasons[pegin.number] = reason

    def _record_funding(self, number: int, raw: bytes) -> Pegin:
        pegin = self._store.pegin(number)
        if pegin is None or pegin.funding_tx:
            raise Unavailable("the peg-in was funded meanwhile")
        tx = parse_parent_tx(raw)
        wanted = (pegin.amount_sats, pegin.target.deposit_script)
        if wanted not in tx.outputs:
            raise Unavailable("the funding transaction does not pay the deposit address")
        outpoint = OutPoint(tx.txid, tx.outputs.index(wanted))
        deposit = Deposit(outpoint=outpoint, value_sats=pegin.amount_sats, tx=tx.stripped)
        funded = replace(pegin, funding_tx=raw, deposit=deposit)
        self._store.put(funded)
        self._log.info("pegin_funded", pegin=funded.id, txid=tx.txid[::-1].hex())
        return funded

    async def _send_funding(self, pegin: Pegin) -> None:
        try:
            await self._parent.send_raw_transaction(pegin.funding_tx)
        except BitcoindError as error:
            if error.code == VERIFY_ALREADY_IN_CHAIN or "already" in error.message:
                return
            if MISSING_INPUTS in error.message and await self._is_funding_dead(pegin):
                self._drop_funding(pegin.number)
                return
            raise
        self._reasons.pop(pegin.number, None)

    async def _is_funding_dead(self, pegin: Pegin) -> bool:
        """Whether a block spends a coin of the funding transaction otherwise.

        A coin that is merely missing (its own transaction fell out of the chain) may come back,
        and the funding with it: then there must be no second one.
        """
        tx = parse_parent_tx(pegin.funding_tx)
        if await self._parent.find_transaction(tx.txid) is not None:
            return False
        for prevout in tx.inputs:
            origin = await self._parent.find_transaction(prevout.txid)
            is_in_block = origin is not None and origin.block_hash is not None
            if is_in_block and await self._parent.tx_out(prevout, False) is None:
                return True
        return False

    def _drop_funding(self, number: int) -> None:
        pegin = self._store.pegin(number)
        if pegin is None or pegin.deposit is None or pegin.deposit.height is not None:
            return
        if pegin.final_height is not None:
            return  # claimed before a reorganisation, and final while bitcoind was asked
        self._store.put(replace(pegin, funding_tx=b"", deposit=None))
        self._log.warning("funding_conflicted", pegin=pegin.id)

    async def _advance_claim(self, pegin: Pegin, info: PegInfo, is_active: bool) -> None:
        if pegin.deposit is None:
            return
        verdict = await self._judge(pegin, pegin.deposit, info, is_active)
        self._verdicts[pegin.number] = verdict
        if not verdict.is_ripe:
            self._held.add(pegin.claim_txid)
            self._reasons.pop(pegin.number, None)
            return
        if pegin.target.covenant is not None:
            await self._watch.look_at_members(pegin)
            return
        self._held.discard(pegin.claim_txid)
        rate = await self._chain.fee_rate_sats_per_kvb()
        try:
            claim = self._prepare_claim(pegin.number, rate)
        except (WalletRefusal, Invalid) as error:
            self._reasons[pegin.number] = error.detail or error.reason
            return
        self._reasons.pop(pegin.number, None)
        if claim is not None:
            await self.send(claim)

    async def _judge(
        self, pegin: Pegin, deposit: Deposit, info: PegInfo, is_active: bool
    ) -> Ripeness:
        """Whether a deposit can be claimed, also by what its chain and the federation's script say.

        A claim that is on its way is no reason to ask Bitcoin again.
        """
        verdict = judge_deposit(deposit, info, committed_is_active=is_active)
        if not self._is_script_valid(pegin.target):
            return EXPIRED
        is_late = verdict.is_lost and deposit.value_sats >= info.min_pegin_sats
        if (verdict.is_ripe or is_late) and await self._watch.is_spent(pegin):
            return SPENT
        return verdict

    async def _ask_scripts(self) -> None:
        at_height = self._chain.tip_height
        reply: Any = await self._members.call("getsidechaininfo")
        scripts = reply.get("current_fedpegscripts") or ()
        self._scripts_at = at_height
        self._scripts = tuple(bytes.fromhex(script) for script in scripts)

    def script_warning(self, target: DepositAddress) -> str:
        """What to say of an address whose script was replaced and expires soon. Source: peg:C10."""
        places = [
            place
            for place, script in enumerate(self._scripts)
            if deposit_script(p2wsh(script), script, target.claim_script) == target.deposit_script
        ]
        if not places or places[0] == 0:
            return ""
        left = self._params.total_valid_epochs - 1 - places[-1]
        if left > 1:
            return ""
        end = "at the end of this epoch" if left == 0 else "at the end of the next epoch"
        return f"pay it no more: its script was replaced, and claims of deposits to it end {end}"

    def _is_script_valid(self, target: DepositAddress) -> bool:
        """Whether a claim could still be of this address. Source: peg:C10."""
        return not self._scripts or any(
            deposit_script(p2wsh(script), script, target.claim_script) == target.deposit_script
            for script in dict.fromkeys(self._scripts)
        )

    def _prepare_claim(self, number: int, rate: int) -> Transaction | None:
        """The claim to send now, recorded; None when none is to be sent.

        Runs without awaiting: nothing can change between the look and the record. A claim that
        became final while the caller waited is no longer pending, but must not be made again.
        """
        pegin = self._store.pegin(number)
        if pegin is None or pegin.final_height is not None:
            return None
        if pegin.deposit is None or not pegin.deposit.proof:
            return None
        recorded = self._book.pending_transaction(pegin.claim_txid)
        if recorded is None:
            return self._make_claim(pegin, pegin.deposit, rate)
        if recorded.input_witnesses[0].pegin[5] == pegin.deposit.proof:
            return None
        return self._move_claim(pegin, pegin.deposit, rate, recorded)

    def _move_claim(
        self, pegin: Pegin, deposit: Deposit, rate: int, recorded: Transaction
    ) -> Transaction:
        """The claim for a deposit that is in another block than when it was first claimed.

        Members may hold the old claim and would take one that differs in its proof only for the
        same, so the new one replaces it by fee. A locked wallet cannot sign that: it sends the
        old claim with the new proof, which serves the members that do not hold it.
        """
        try:
            return self._make_claim(pegin, deposit, rate, replaces=recorded)
        except WalletRefusal as refusal:
            if refusal.reason != "locked":
                raise
        moved = with_claim_proof(recorded, deposit.proof)
        self._book.record_pending(moved, self._unix_time_s())
        return moved

    def _make_claim(
        self, pegin: Pegin, deposit: Deposit, rate: int, replaces: Transaction | None = None
    ) -> Transaction:
        wallet = self._book.wallet(pegin.target.wallet)
        account = self._keyring.account(wallet)
        pegin = self._with_entropy(pegin)
        claimable = ClaimableDeposit(
            outpoint=deposit.outpoint,
            value_sats=deposit.value_sats,
            claim_script=pegin.target.claim_script,
            parent_tx=deposit.tx,
            proof=deposit.proof,
        )
        draft = build_claim(
            claimable,
            self._params,
            to=self._claim_address(pegin, wallet),
            rate_sats_per_kvb=rate,
            entropy=pegin.entropy,
            least_fee_sats=0 if replaces is None else replacement_fee_sats(replaces),
        )
        secret = account.secret(Branch.CLAIM, pegin.target.claim_index)
        claim = sign_claim(draft, secret, self._params)
        if not pegin.target.pay_to:
            self._book.take_script(wallet.name, Branch.CHANGE)
        claimed = replace(pegin, claim_txid=claim.txid)
        self._book.record_pending(claim, self._unix_time_s(), self._store.changes(claimed))
        self._store.remember(claimed)
        if replaces is not None:
            # After the new one is safe: with both kept, whichever a block takes ends the other.
            self._book.abandon(replaces.txid)
        self._log.info("claim_recorded", pegin=pegin.id, txid=claim.txid[::-1].hex())
        return claim

    def _with_entropy(self, pegin: Pegin) -> Pegin:
        """The peg-in with what blinds its claim, on the disk before anything is signed with it."""
        if pegin.entropy:
            return pegin
        drawn = replace(pegin, entropy=self._entropy(ENTROPY_BYTES))
        self._store.put(drawn)
        return drawn

    def _claim_address(self, pegin: Pegin, wallet: Wallet) -> Address:
        """Where a claim pays: the address asked for, or the wallet's next change script.

        That script is only used up once the claim is built with it.
        """
        if pegin.target.pay_to:
            return decode_address(pegin.target.pay_to, self._params.prefixes)
        script = wallet.account.script(Branch.CHANGE, wallet.issued(Branch.CHANGE))
        return Address(script, wallet.account.blinding_public_key(script))

    def _forget_all_but(self, waiting: Sequence[Pegin]) -> None:
        numbers = {pegin.number for pegin in waiting}
        for memory in (self._reasons, self._verdicts):
            for number in [number for number in memory if number not in numbers]:
                memory.pop(number, None)
        self._watch.forget_all_but(numbers)
        self._held &= {pegin.claim_txid for pegin in waiting}
