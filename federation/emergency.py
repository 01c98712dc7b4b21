"""What emergency holders do with a Bitcoin node and files: find the coins, sign, send.

The node needs no index. The coins are found by their scripts among the unspent outputs; the anchor
is the one of them that a transaction made which spent a coin of the federation and bears a batch's
marker, so only the federation or its holders can have made it.

Source: peg:10, peg:3.6.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from federation.config import FederationFile, InvalidConfig
from federation.emergency_file import ClaimScripts, PlanFile
from federation.files import read_secret
from federation.secret_key import SecretKey
from peg.bitcoind import BitcoindClient, BitcoindError, ScannedOutput
from peg.emergency import (
    EmergencyCoin,
    EmergencySpend,
    check_spends,
    is_share,
    signed_spend,
    spend_digests,
    spend_wait,
    unsigned_spend,
)
from peg.fedscript import FedScript, key_tweak, tweaked
from peg.lanes import EMERGENCY_LANE, decode_marker
from peg.status import outpoint_text
from sidechain.crypto.hashes import sha256d
from sidechain.errors import Invalid, InvariantError
from sidechain.primitives.parent import parse_parent_tx
from sidechain.primitives.transaction import OutPoint

SIGHASH_ALL = b"\x01"
PROGRESS_S = 1.0

Tell = Callable[[str, str], None]
"""Told of progress: a short name of the step, and a sentence."""


class Refused(Exception):
    """The request is not carried out; the text is the reason, for the holder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundCoins:
    """What a scan of the node found."""

    tip_height: int
    anchor: EmergencyCoin
    others: tuple[EmergencyCoin, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SendState:
    """How one transaction of a plan stands: SENT, WAITS or SENT_BEFORE."""

    txid: bytes
    status: str
    blocks_to_wait: int = 0


async def check_chain(bitcoind: BitcoindClient, federation: FederationFile) -> None:
    """Refuse a node of another chain than the one the federation's coins are on.

    Raises:
        Refused: it is another chain, or the node is not in sync.
    """
    if await bitcoind.block_hash(0) != federation.chain_params().parent_genesis_hash:
        raise Refused("this bitcoind is on another chain than the federation's coins")
    info = await bitcoind.chain_info()
    if info.initial_block_download and info.headers > info.blocks:
        raise Refused(f"bitcoind is still syncing: block {info.blocks:,} of {info.headers:,}")


async def find_coins(
    bitcoind: BitcoindClient,
    plain: FedScript,
    *,
    claim_scripts: Sequence[bytes],
    lane: int,
    anchor: OutPoint | None,
    tell: Tell,
) -> FoundCoins:
    """All unspent coins of the federation on the node's chain.

    Args:
        claim_scripts: of deposits; whatever was paid for others is not found.
        anchor: a_0 or any later one, which is taken when it is still unspent.
    Raises:
        Refused: there are none, or it is not clear which of them is the anchor.
    """
    claims = {tweaked(plain, script).program: script for script in claim_scripts}
    tell("scan", "looking for the federation's coins among all unspent outputs")
    found = await _scan(bitcoind, [plain.program, *claims], tell)
    coins = [
        EmergencyCoin(
            outpoint=output.outpoint,
            value_sats=output.value_sats,
            height=output.height,
            claim_script=claims.get(output.script),
        )
        for output in found
    ]
    fed_coins = [coin for coin in coins if coin.claim_script is None]
    if not fed_coins:
        raise Refused(
            "no unspent coin of this federation on Bitcoin: another federation file, or they were "
            "moved already"
        )
    first = await _find_anchor(bitcoind, fed_coins, plain, lane, anchor)
    others = sorted((c for c in coins if c != first), key=lambda c: (c.height, c.outpoint))
    tip_height = await bitcoind.block_count()
    return FoundCoins(tip_height=tip_height, anchor=first, others=tuple(others))


async def _scan(
    bitcoind: BitcoindClient, scripts: Sequence[bytes], tell: Tell
) -> tuple[ScannedOutput, ...]:
    """Scan and tell how far it is meanwhile."""
    try:
        async with asyncio.TaskGroup() as group:
            scan = group.create_task(bitcoind.scan_scripts(scripts))
            while not (await asyncio.wait({scan}, timeout=PROGRESS_S))[0]:
                percent = await bitcoind.scan_percent()
                if percent is not None:
                    tell("scan", f"looked through {percent} % of the unspent outputs")
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return scan.result()


async def _find_anchor(
    bitcoind: BitcoindClient,
    coins: Sequence[EmergencyCoin],
    plain: FedScript,
    lane: int,
    named: OutPoint | None,
) -> EmergencyCoin:
    for coin in coins:
        if coin.outpoint == named:
            return coin
    candidates = [coin for coin in coins if await _is_anchor(bitcoind, coin, plain, lane)]
    if len(candidates) == 1:
        return candidates[0]
    shown = ", ".join(outpoint_text(coin.outpoint) for coin in candidates or coins)
    how_many = "none" if not candidates else "more than one"
    raise Refused(
        f"{how_many} of the coins shows that it is the anchor: --anchor names it: {shown}"
    )


async def _is_anchor(
    bitcoind: BitcoindClient, coin: EmergencyCoin, plain: FedScript, lane: int
) -> bool:
    """Whether a batch or an emergency handover of the lane made this coin."""
    if coin.outpoint.index != 0:
        return False
    block_hash = await bitcoind.block_hash(coin.height)
    txid = coin.outpoint.txid
    outputs = parse_parent_tx(await bitcoind.raw_transaction(txid, block_hash)).outputs
    marker = decode_marker(outputs[1][1]) if len(outputs) > 1 else None
    is_handover = marker is not None and (marker.lane, marker.count) == (EMERGENCY_LANE, lane)
    if marker is None or not (marker.lane == lane or is_handover):
        return False
    # Anybody can write a marker; only the federation or its holders spend its coins.
    return await bitcoind.first_spent_script(txid, block_hash) == plain.program


def read_holder_key(path: Path) -> SecretKey:
    """One holder's secret.

    Raises:
        Refused: the file cannot be read, is open to others, or holds no key.
    """
    try:
        return SecretKey(bytes.fromhex(read_secret(path).strip().decode("ascii")))
    except PermissionError as error:
        raise Refused(str(error)) from error
    except OSError as error:
        raise Refused(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, Invalid):
        raise Refused(f"{path} does not hold a secret key of 64 hex digits") from None


def check_plan(
    plan: PlanFile,
    federation: FederationFile,
    new_fedpegscript: bytes,
    anchor: OutPoint | None = None,
) -> None:
    """What is verified before anything is signed or sent (peg:10).

    Args:
        new_fedpegscript: as the holder knows it.
        anchor: as the holder knows it; None leaves the plan's word.
    Raises:
        Refused: the plan is for another federation, or pays anybody else.
    """
    if plan.parameter_hash != federation.parameter_hash():
        raise Refused("the plan is for another federation than this federation file's")
    try:
        check_spends(
            plan.spends,
            new_fedpegscript,
            lane=plan.lane,
            fee_max_sats=federation.peg.fee_cap_sats,
            anchor=anchor,
        )
    except Invalid as error:
        raise Refused(f"this plan must not be signed: {error.detail or error}") from error


def sign_plan(plan: PlanFile, plain: FedScript, key: SecretKey) -> tuple[PlanFile, int]:
    """A plan with one holder's signatures on every input, and the number (1 to 3) of the holder.

    Raises:
        Refused: the key is none of the three.
    """
    if key.public_key not in plain.emergency_keys:
        raise Refused("this key is none of the federation's three emergency keys")
    holder = plain.emergency_keys.index(key.public_key)
    signed = []
    for spend, shares in zip(plan.spends, plan.signatures, strict=True):
        given = tuple(
            _tweaked_key(key, coin).sign_ecdsa(digest) + SIGHASH_ALL
            for coin, digest in zip(spend.coins, spend_digests(spend, plain), strict=True)
        )
        if not is_share(spend, plain, holder, given):
            raise InvariantError("an own emergency signature does not verify")
        signed.append({**shares, holder: given})
    return replace(plan, signatures=tuple(signed)), holder + 1


def _tweaked_key(key: SecretKey, coin: EmergencyCoin) -> SecretKey:
    tweak = key_tweak(key.public_key, coin.claim_script)
    return key if tweak is None else key.tweaked(tweak)


def combine_plans(plans: Sequence[PlanFile], plain: FedScript) -> PlanFile:
    """One plan with all signatures of several copies; those that do not verify are refused.

    Raises:
        Refused: the copies are of different plans, or a signature is wrong.
    """
    first = plans[0]
    if any(replace(plan, signatures=first.signatures) != first for plan in plans):
        raise Refused("these files are copies of different plans")
    combined: list[Mapping[int, tuple[bytes, ...]]] = []
    for number, spend in enumerate(first.spends):
        shares: dict[int, tuple[bytes, ...]] = {}
        for plan in plans:
            for holder, given in plan.signatures[number].items():
                if not is_share(spend, plain, holder, given):
                    raise Refused(
                        f"the signatures of holder {holder + 1} on transaction {number} do not "
                        "verify: the file was changed after signing"
                    )
                shares[holder] = given
        combined.append(shares)
    return replace(first, signatures=tuple(combined))


def holders_of(plan: PlanFile) -> tuple[int, ...]:
    """Who has signed every transaction, 1 to 3."""
    everywhere = set(plan.signatures[0]).intersection(*plan.signatures[1:])
    return tuple(sorted(holder + 1 for holder in everywhere))


async def send_plan(
    bitcoind: BitcoindClient, plan: PlanFile, plain: FedScript, tell: Tell
) -> list[SendState]:
    """Broadcast what is free, the transaction with the anchor first.

    Raises:
        Refused: the first is not free yet, two holders have not signed, a coin is spent, or the
            node does not take a transaction; what was sent before that stays sent.
    """
    if len(holders_of(plan)) < 2:
        raise Refused("two of the three holders have to sign before it can be sent")
    tip_height = await bitcoind.block_count()
    states: list[SendState] = []
    for number, spend in enumerate(plan.spends):
        txid = sha256d(unsigned_spend(spend, plain))
        if await bitcoind.tx_out(OutPoint(txid, 0)) is not None:
            states.append(SendState(txid=txid, status="SENT_BEFORE"))
            continue
        await _check_unspent(bitcoind, spend, number)
        wait = spend_wait(spend, plain, tip_height)
        if wait:
            if number == 0:
                raise Refused(
                    f"not yet: {wait} more Bitcoin blocks until the emergency keys can spend the "
                    f"anchor, from block {tip_height + wait} on"
                )
            states.append(SendState(txid=txid, status="WAITS", blocks_to_wait=wait))
            continue
        tell("send", f"sending transaction {number + 1} of {len(plan.spends)}")
        try:
            await bitcoind.send_raw_transaction(signed_spend(spend, plain, plan.signatures[number]))
        except BitcoindError as error:
            raise Refused(f"bitcoind refuses transaction {number}: {error.message}") from error
        states.append(SendState(txid=txid, status="SENT"))
    return states


async def _check_unspent(bitcoind: BitcoindClient, spend: EmergencySpend, number: int) -> None:
    for coin in spend.coins:
        if await bitcoind.tx_out(coin.outpoint) is None:
            raise Refused(
                f"{outpoint_text(coin.outpoint)} of transaction {number} is already spent, by the "
                "federation or by holders: make a new plan"
            )


def check_claim_scripts(found: ClaimScripts, federation: FederationFile) -> None:
    """Refuse claim scripts of another federation.

    Raises:
        InvalidConfig: they are.
    """
    if found.parameter_hash != federation.parameter_hash():
        raise InvalidConfig("the claim scripts are another federation's than the federation file")
