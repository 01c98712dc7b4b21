"""JSON-RPC methods of a member beyond Elements' own: the federation, the peg, the operator.

Source: N2, N19, N22, N23, peg:11, peg:12.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from federation.certificates import KEPT_HEIGHTS, KEPT_S
from federation.change_desk import ChangeDesk
from federation.change_rpc import ChangeMethods
from federation.config import FederationFile
from federation.consensus.driver import Driver
from federation.engine import Engine
from federation.evidence_store import EvidenceStore
from federation.member_folder import MemberConfig
from federation.peers import PeerNetwork
from federation.people import People
from federation.production import BlockProduction
from federation.receipt_rpc import ReceiptMethods
from federation.receipts import ReceiptMaker
from federation.record_rpc import RecordMethods
from federation.report_rpc import ReportMethods
from federation.rpc_arguments import hex_bytes, text, whole
from federation.stranger import Stranger
from peg.bitcoind import BitcoindError
from peg.covenant_claims import CovenantClaims
from peg.parent_view import ParentView
from peg.service import PegService
from peg.status import parse_outpoint
from peg.watcher import ParentWatcher
from sidechain.api.registry import INVALID_PARAMETER, Registry, RpcError
from sidechain.chain import Chain
from sidechain.errors import Invalid, Unavailable
from sidechain.primitives.address import encode_address
from sidechain.wallet.covenant import NUMS_KEY, CovenantTerms

NOT_YET = -28
NOT_FOUND = -5
NOT_FOUND = -5
BLOCKS_SHOWN_MAX = 1_000
BLOCKS_PER_TURN = 20
"""Blocks read before other work gets its turn."""
HEIGHT_MAX = 2**32 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberMethods:
    """Read-only views over the parts of a member, and what its operator may do."""

    federation: FederationFile
    config: MemberConfig
    chain: Chain
    driver: Driver
    engine: Engine
    network: PeerNetwork
    production: BlockProduction
    changes: ChangeDesk
    people: People
    peg: PegService
    watcher: ParentWatcher
    parent: ParentView
    evidence: EvidenceStore
    now_ms: Callable[[], int]
    started_ms: int
    esplora_url: Callable[[], str]
    signer: Callable[[], dict[str, Any]]

    def register(self, registry: Registry) -> None:
        """Offer all methods."""
        RecordMethods(self.peg, self.engine.work_available).register(registry)
        ReportMethods(self.peg).register(registry)
        ChangeMethods(self.changes, self.engine.work_available).register(registry)
        maker = ReceiptMaker(
            Stranger.of(self.federation),
            ledger=self.peg.ledger,
            reserves=self.peg.reserves,
            block=self.chain.block,
        )
        ReceiptMethods(maker).register(registry)
        for method, summary in (
            (self.getfederationinfo, "State of the agreement, links and limits in force."),
            (self.getblocksigners, "Who proposed and who signed each block of a range."),
            (self.getevidence, "Evidence against members."),
            (self.getcertificate, "A final block with the votes that decided it."),
            (self.unhalt, "Leave HALTED; the block (hash) of this chain stands."),
            (self.resumeat, "Vote from a height on, by this operator's word alone (C76)."),
            (
                self.getpeginfo,
                "The committed Bitcoin block, limits, whether deposits are open.",
            ),
            (self.getpegout, "Status of one burn (txid:vout)."),
            (self.listpegouts, "The newest burns and their status."),
            (self.getdeposit, "Whether a Bitcoin deposit (txid:vout) is claimed."),
            (
                self.registercovenant,
                "Have members claim deposits for a program (hex).",
            ),
            (self.getcovenant, "A registration and its deposits, by claim or deposit script."),
            (self.getaudit, "Reserves against liabilities, computed two ways."),
            (self.dryrunopen, "Sign the trial spend of a FED output, or try it when signed."),
        ):
            registry.add(method.__name__, method, summary)

    # -- federation

    def getfederationinfo(self) -> dict[str, Any]:
        """One member's view of the federation."""
        members = self.production.member_set()
        agreement, config = self.driver.agreement, self.config
        catch_up = self.engine.catch_up()
        links = {status.member: status for status in self.network.status()}
        return {
            "chain": self.federation.chain_name,
            "parameter_hash": self.federation.parameter_hash().hex(),
            "n": members.n,
            "k": members.k,
            "f_s": members.f_s,
            "f_l": members.f_l,
            "index": config.index,
            "mode": self.driver.mode.name,
            "mode_reason": self.engine.halt_notice.mode_reason,
            "halted": self.engine.halt_notice.to_json(),
            "resumed_at": self.driver.pen.image.resumed_at,
            "height": self.chain.tip_height,
            "best_block_hash": self.chain.tip_hash[::-1].hex(),
            "round": agreement.round,
            "step": agreement.step.name,
            "locked_round": agreement.locked_round,
            "valid_round": agreement.valid_round,
            "next_proposer": members.proposer(self.driver.height, max(agreement.round, 0)),
            "online": 1 + len(self.network.connected),
            "syncing": self.engine.is_behind,
            "catch_up": None if catch_up is None else catch_up.to_json() | {"text": catch_up.text},
            "parent": {
                "healthy": self.watcher.is_healthy,
                "height": self.parent.tip_height
                if self.watcher.is_healthy and not self.parent.is_empty
                else None,
                "error": None if self.watcher.is_healthy else self.watcher.last_error,
            },
            "members": [
                {
                    "name": entry.name,
                    "index": entry.index,
                    "address": f"{entry.host}:{entry.port}",
                    "connected": entry.index == config.index or links[entry.index].connected,
                    "rtt_us": None if entry.index == config.index else links[entry.index].rtt_us,
                    "last_end": "" if entry.index == config.index else links[entry.index].last_end,
                }
                for entry in self.people.entries
                if entry.index == config.index or entry.index in links
            ],
            "member": members.index_of(self.people.vote_keys[config.index]),
            "parameter_mismatches": sorted(self.network.parameter_mismatches),
            "refused_connections": self.network.refused_connections,
            "evidence": len(self.evidence),
            "alarms": list(self.engine.alarms),
            "peg": self.peg.summary(),
            "timeouts": {
                "block_interval_ms": config.block_interval_ms,
                "min_interval_ms": config.min_interval_ms,
                "timeout_base_ms": config.timeout_base_ms,
                "timeout_step_ms": config.timeout_step_ms,
                "timeout_cap_ms": config.timeout_cap_ms,
                "gossip_interval_ms": config.gossip_interval_ms,
                "future_limit_s": config.future_limit_s,
            },
            "esplora_url": self.esplora_url(),
            "signer": self.signer(),
            "uptime_ms": self.now_ms() - self.started_ms,
        }

    async def getblocksigners(
        self, from_height: Any = None, count: Any = 20
    ) -> list[dict[str, Any]]:
        """Signers by block, from a height on; without one, the newest blocks.

        Which round decided is not in a block, so round and proposer are shown where this process
        or its journal knows the decision, else as null.
        """
        count = whole(count, "count", 1, BLOCKS_SHOWN_MAX)
        tip = self.chain.tip_height
        first = max(1, tip - count + 1) if from_height is None else from_height
        first = whole(first, "from_height", 1, HEIGHT_MAX)
        rows = []
        for height in range(first, min(first + count - 1, tip) + 1):
            rows.append(self._signers_of(height))
            if len(rows) % BLOCKS_PER_TURN == 0:
                await asyncio.sleep(0)
        return rows

    def _signers_of(self, height: int) -> dict[str, Any]:
        block = self.chain.block(height)
        members = self.production.member_set_of(block.header)
        signers = [s.member for s in self.production.signatures_of(block.header)]
        round_number = self.engine.decided_round(height)
        return {
            "height": height,
            "hash": block.hash[::-1].hex(),
            "time": block.header.time,
            "transactions": len(block.transactions),
            "round": round_number,
            "proposer": None if round_number is None else members.proposer(height, round_number),
            "signers": signers,
            "missed": [m.index for m in members.members if m.index not in signers],
        }

    def getevidence(self) -> list[dict[str, Any]]:
        """All evidence, oldest first."""
        return self.evidence.all()

    async def getcertificate(self, height: Any) -> dict[str, Any]:
        """A final block and its COMMIT certificate, from this member or from another (N25, N26)."""
        wanted = whole(height, "height", 1, HEIGHT_MAX)
        if wanted > self.chain.tip_height:
            raise RpcError(
                INVALID_PARAMETER,
                f"there is no block {wanted} yet: {self.chain.tip_height} is the newest",
            )
        commit = await self.engine.commit_of(wanted)
        if commit is None:
            raise RpcError(
                NOT_FOUND,
                f"no member that answers holds the votes for block {wanted}: they are kept for "
                f"{KEPT_HEIGHTS:,} heights and {KEPT_S // 3_600} hours at least",
            )
        return {
            "genesis": self.chain.params.genesis_hash.hex(),
            "parameter_hash": self.federation.parameter_hash().hex(),
            "params_root": self.production.params_root_at(wanted).hex(),
            "height": wanted,
            "block": self.chain.block_bytes(wanted).hex(),
            "certificate": commit.encode().hex(),
        }

    # -- peg

    def getpeginfo(self) -> dict[str, Any]:
        """Committed block, limits, deposits."""
        return self.peg.info()

    def getpegout(self, burn_id: Any) -> dict[str, Any]:
        """One burn."""
        try:
            found = self.peg.reports.pegout(text(burn_id, "burn_id"))
        except Invalid as error:
            raise RpcError(INVALID_PARAMETER, str(error)) from error
        if found is None:
            raise RpcError(NOT_FOUND, "no final block holds this burn")
        return found

    def listpegouts(self) -> list[dict[str, Any]]:
        """Newest burns."""
        return self.peg.reports.pegouts()

    def getdeposit(self, outpoint: Any) -> dict[str, Any]:
        """One deposit."""
        try:
            return self.peg.reports.deposit(text(outpoint, "outpoint"))
        except Invalid as error:
            raise RpcError(INVALID_PARAMETER, str(error)) from error

    def registercovenant(
        self, program: Any, max_fee_sats: Any, internal_key: Any = None
    ) -> dict[str, Any]:
        """Members claim what is paid to the deposit address shown, all but a price for the program.

        Args:
            program: scriptPubKey of the user's unblinded P2WPKH, P2WSH or P2TR address.
            max_fee_sats: the price of one claim.
            internal_key: x-only, of a user who may want to claim by a signature too.
        """
        price = whole(max_fee_sats, "max_fee_sats", 1, 2**63 - 1)
        key = NUMS_KEY if internal_key is None else hex_bytes(internal_key, "internal_key")
        try:
            script = hex_bytes(program, "program")
            terms = CovenantTerms(script=script, max_fee_sats=price, internal_key=key)
            found = self._covenants().register(terms)
        except Invalid as error:
            raise RpcError(INVALID_PARAMETER, error.detail or error.reason) from error
        except Unavailable as error:
            raise RpcError(NOT_YET, str(error)) from error
        prefixes = self.chain.params.parent_prefixes
        address = encode_address(bytes.fromhex(found["deposit_script"]), prefixes)
        return {"address": address, **found}

    def getcovenant(self, script: Any) -> dict[str, Any]:
        """One registration."""
        found = self._covenants().describe(hex_bytes(script, "script"))
        if found is None:
            raise RpcError(NOT_FOUND, "this member knows no such registration")
        return found

    def _covenants(self) -> CovenantClaims:
        if self.peg.covenants is None:
            raise RpcError(NOT_YET, "this member claims nothing for others")
        return self.peg.covenants

    def getaudit(self) -> dict[str, Any]:
        """The audit at the newest height the peg has read."""
        try:
            return self.peg.reports.audit()
        except Unavailable as error:
            raise RpcError(NOT_YET, str(error)) from error

    # -- operator

    async def unhalt(self, block_hash: Any) -> dict[str, Any]:
        """Leave HALTED when k operators agree that a block of this chain stands (C60, N13)."""
        kept = hex_bytes(block_hash, "block_hash")[::-1]
        if self.chain.height_of(kept) is None:
            raise RpcError(
                INVALID_PARAMETER,
                "this member's chain does not hold that block: to follow it, start with an empty "
                "chain folder",
            )
        if not await self.engine.unhalt(kept):
            raise RpcError(INVALID_PARAMETER, "this member is not halted")
        return {"mode": self.driver.mode.name, "kept": kept[::-1].hex()}

    async def resumeat(self, height: Any) -> dict[str, Any]:
        """Vote from a height on without the roll-call's answers (C76).

        Two blocks of one height become possible if this member voted there before it lost its
        journal: only for a federation that cannot go on otherwise.
        """
        wanted = whole(height, "height", 1, HEIGHT_MAX)
        if not await self.engine.resume_at(wanted):
            raise RpcError(INVALID_PARAMETER, "this member does not wait to be allowed to vote")
        return {"mode": self.driver.mode.name, "vote_from": wanted}

    async def dryrunopen(self, outpoint: Any, signatures: Any = None) -> dict[str, Any]:
        """The trial spend of a FED output paid for it (P2, P39).

        Without signatures: this member's own, {"member", "unsigned", "signature"}. With an object
        of member index to signature in hex: whether the own bitcoind would take the spend,
        {"allowed", "reason"}.
        """
        try:
            place = parse_outpoint(text(outpoint, "outpoint"))
            if signatures is None:
                unsigned, signature = await self.peg.sign_trial_spend(place)
                shown = {"unsigned": unsigned.hex(), "signature": signature.hex()}
                return {"member": self.config.index, **shown}
            if not isinstance(signatures, dict):
                raise RpcError(INVALID_PARAMETER, "signatures is not an object")
            given = {int(k): hex_bytes(v, "signature") for k, v in signatures.items()}
            allowed, reason = await self.peg.try_trial_spend(place, given)
        except (Invalid, ValueError) as error:
            raise RpcError(INVALID_PARAMETER, str(error)) from error
        except (Unavailable, BitcoindError) as error:
            raise RpcError(NOT_YET, str(error)) from error
        return {"allowed": allowed, "reason": reason}
