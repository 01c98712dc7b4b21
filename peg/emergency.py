"""The way out that two of three emergency holders have: coins, transactions, signatures.

Everything about a coin's lock and keys is read from the coin's own script. The transaction with the
anchor comes first and carries the lane over to the new federation, so what the lane has paid stays
paid; whatever ripens no later goes with it, the other coins follow in transactions of their own.

Source: peg:10, peg:3.1, peg:3.6.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from peg.fedscript import (
    EMERGENCY_THRESHOLD,
    SIGNATURE_WORST_BYTES,
    FedScript,
    coin_script,
)
from peg.lanes import EMERGENCY_LANE, Marker, with_witnesses, worst_vsize
from peg.parameters import LARGEST_DUST_SATS
from peg.signing import is_batch_signature
from sidechain.crypto.hashes import sha256, sha256d
from sidechain.errors import InvalidEncoding
from sidechain.primitives.encoding import compact_size, le32, le64, vec
from sidechain.primitives.transaction import OutPoint
from sidechain.script.script import p2wsh

EMERGENCY_VERSION: Final = 2
"""Relative locks count from this transaction version on."""
INPUTS_MAX: Final = 60
_SIGHASH_ALL: Final = 1
_OUTPUT_BYTES: Final = 8 + 1 + 34
_MARKER_OUTPUT_BYTES: Final = 8 + 1 + 42


@dataclass(frozen=True, slots=True, kw_only=True)
class EmergencyCoin:
    """A coin of the federation on Bitcoin; `claim_script` is what tweaks it, None for FED."""

    outpoint: OutPoint
    value_sats: int
    height: int
    claim_script: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EmergencySpend:
    """One transaction: its coins, and its outputs as (satoshis, script)."""

    coins: tuple[EmergencyCoin, ...]
    outputs: tuple[tuple[int, bytes], ...]

    @property
    def fee_sats(self) -> int:
        """What miners get."""
        return sum(coin.value_sats for coin in self.coins) - sum(v for v, _ in self.outputs)


@dataclass(frozen=True, slots=True)
class EmergencyPlan:
    """All transactions, the anchor's first, and coins that are not worth their own fee."""

    spends: tuple[EmergencySpend, ...]
    left_out: tuple[EmergencyCoin, ...]


def blocks_to_wait(coin: EmergencyCoin, plain: FedScript, tip_height: int) -> int:
    """Blocks until the coin's own lock lets a transaction into the mempool; 0 when it does.

    Age counts the coin's own block. The lock is the one in the coin's script, whatever
    configuration says (planted bug 22).
    """
    age = tip_height - coin.height + 1
    return max(0, coin_script(plain, coin.claim_script).csv - age)


def spend_wait(spend: EmergencySpend, plain: FedScript, tip_height: int) -> int:
    """Blocks until all coins of a transaction are free."""
    return max(blocks_to_wait(coin, plain, tip_height) for coin in spend.coins)


def handover_marker(lane: int, new_fedpegscript: bytes) -> bytes:
    """Output 1 of the transaction with the anchor: f0, lane, 00000000, SHA(new fedpegscript)."""
    marker = Marker(lane=EMERGENCY_LANE, count=lane, h_sel=0, digest=sha256(new_fedpegscript))
    return marker.script()


def plan_emergency(
    plain: FedScript,
    new_fedpegscript: bytes,
    *,
    lane: int,
    anchor: EmergencyCoin,
    others: Sequence[EmergencyCoin],
    rate_sats_per_kvb: int,
) -> EmergencyPlan:
    """Arrange coins into transactions to the new federation.

    Args:
        plain: the script that holds the coins now, untweaked.
        new_fedpegscript: of the federation that gets them.
    Raises:
        InvalidEncoding: the anchor alone cannot pay for its transaction.
    """
    input_sats = _fee(rate_sats_per_kvb, [anchor], plain, with_marker=False)
    worth = [coin for coin in others if coin.value_sats > input_sats + LARGEST_DUST_SATS]
    free_at = {c.outpoint: c.height + coin_script(plain, c.claim_script).csv for c in worth}
    worth.sort(key=lambda coin: (free_at[coin.outpoint], coin.outpoint.serialize()))
    anchor_free_at = anchor.height + plain.csv
    along = [c for c in worth if free_at[c.outpoint] <= anchor_free_at][: INPUTS_MAX - 1]
    rest = worth[len(along) :]
    groups = [[anchor, *along]]
    groups += [rest[i : i + INPUTS_MAX] for i in range(0, len(rest), INPUTS_MAX)]
    spends = []
    for number, coins in enumerate(groups):
        fee_sats = _fee(rate_sats_per_kvb, coins, plain, with_marker=number == 0)
        value_sats = sum(coin.value_sats for coin in coins) - fee_sats
        if value_sats < LARGEST_DUST_SATS:
            raise InvalidEncoding("emergency", f"the coins do not pay their fee of {fee_sats} sats")
        outputs = [(value_sats, p2wsh(new_fedpegscript))]
        outputs += [(0, handover_marker(lane, new_fedpegscript))] if number == 0 else []
        spends.append(EmergencySpend(coins=tuple(coins), outputs=tuple(outputs)))
    left_out = tuple(coin for coin in others if coin not in worth)
    return EmergencyPlan(tuple(spends), left_out)


def check_spends(
    spends: Sequence[EmergencySpend],
    new_fedpegscript: bytes,
    *,
    lane: int,
    fee_max_sats: int,
    anchor: OutPoint | None = None,
) -> None:
    """What a holder verifies before signing: every output goes to the new federation.

    Args:
        new_fedpegscript: as the holder knows it, not as the plan says.
        fee_max_sats: the most a transaction may leave to miners.
        anchor: of the lane, as the holder knows it; None leaves the plan's word.
    Raises:
        InvalidEncoding: something else is paid, the form is another one, or a coin is spent twice.
    """
    program = p2wsh(new_fedpegscript)
    seen: set[OutPoint] = set()
    for number, spend in enumerate(spends):
        where = f"transaction {number}"
        marker = ((0, handover_marker(lane, new_fedpegscript)),) if number == 0 else ()
        if not spend.outputs or spend.outputs[0][1] != program:
            raise InvalidEncoding("emergency", f"{where} does not pay the federation you named")
        if spend.outputs[1:] != marker:
            raise InvalidEncoding("emergency", f"{where} has other outputs than it must have")
        if not 1 <= len(spend.coins) <= INPUTS_MAX:
            raise InvalidEncoding("emergency", f"{where} has {len(spend.coins)} inputs")
        if spend.outputs[0][0] < LARGEST_DUST_SATS or not 0 <= spend.fee_sats <= fee_max_sats:
            raise InvalidEncoding(
                "emergency",
                f"{where} has a fee of {spend.fee_sats} sats, {fee_max_sats} are allowed",
            )
        outpoints = {coin.outpoint for coin in spend.coins}
        if len(outpoints) != len(spend.coins) or outpoints & seen:
            raise InvalidEncoding("emergency", f"{where} spends a coin a second time")
        seen |= outpoints
    if not spends or spends[0].coins[0].claim_script is not None:
        raise InvalidEncoding("emergency", "the first input is not the anchor")
    if anchor is not None and spends[0].coins[0].outpoint != anchor:
        raise InvalidEncoding("emergency", "the first input is not the anchor that you named")


def unsigned_spend(spend: EmergencySpend, plain: FedScript) -> bytes:
    """The transaction without witness: version 2, each nSequence the lock of that coin's script."""
    parts = [le32(EMERGENCY_VERSION), compact_size(len(spend.coins))]
    parts += [coin.outpoint.serialize() + b"\0" + _sequence(coin, plain) for coin in spend.coins]
    return b"".join(parts) + compact_size(len(spend.outputs)) + _outputs(spend) + le32(0)


def spend_digests(spend: EmergencySpend, plain: FedScript) -> tuple[bytes, ...]:
    """BIP143 digests (SIGHASH_ALL) in input order; each commits to its coin's amount."""
    prevouts = sha256d(b"".join(coin.outpoint.serialize() for coin in spend.coins))
    sequences = sha256d(b"".join(_sequence(coin, plain) for coin in spend.coins))
    head = le32(EMERGENCY_VERSION) + prevouts + sequences
    tail = sha256d(_outputs(spend)) + le32(0) + le32(_SIGHASH_ALL)
    return tuple(
        sha256d(
            head
            + coin.outpoint.serialize()
            + vec(coin_script(plain, coin.claim_script).script)
            + le64(coin.value_sats)
            + _sequence(coin, plain)
            + tail
        )
        for coin in spend.coins
    )


def is_share(
    spend: EmergencySpend, plain: FedScript, holder: int, signatures: Sequence[bytes]
) -> bool:
    """Whether these are a holder's signatures on every input, by the keys of the coins' scripts."""
    if len(signatures) != len(spend.coins):
        return False
    return all(
        is_batch_signature(
            coin_script(plain, coin.claim_script).emergency_keys[holder], digest, signature
        )
        for coin, digest, signature in zip(
            spend.coins, spend_digests(spend, plain), signatures, strict=True
        )
    )


def signed_spend(
    spend: EmergencySpend, plain: FedScript, shares: Mapping[int, Sequence[bytes]]
) -> bytes:
    """The transaction with the signatures of two holders, in key order.

    Raises:
        InvalidEncoding: fewer than two holders have signed.
    """
    chosen = sorted(shares)[:EMERGENCY_THRESHOLD]
    if len(chosen) < EMERGENCY_THRESHOLD:
        raise InvalidEncoding("emergency", "two of the three holders have to sign")
    # k + 1 empty items make the members' branch fail.
    witnesses = [
        [
            b"",
            *(shares[holder][position] for holder in chosen),
            *[b""] * (plain.k + 1),
            coin_script(plain, coin.claim_script).script,
        ]
        for position, coin in enumerate(spend.coins)
    ]
    return with_witnesses(unsigned_spend(spend, plain), witnesses)


def _sequence(coin: EmergencyCoin, plain: FedScript) -> bytes:
    return le32(coin_script(plain, coin.claim_script).csv)


def _outputs(spend: EmergencySpend) -> bytes:
    return b"".join(le64(value) + vec(script) for value, script in spend.outputs)


def _fee(
    rate_sats_per_kvb: int, coins: Sequence[EmergencyCoin], plain: FedScript, *, with_marker: bool
) -> int:
    """Fee with the largest signatures, rounded up."""
    witness_bytes = 2 + EMERGENCY_THRESHOLD * (1 + SIGNATURE_WORST_BYTES) + plain.k + 1
    witness_bytes += len(compact_size(len(plain.script))) + len(plain.script)
    output_bytes = _OUTPUT_BYTES + with_marker * _MARKER_OUTPUT_BYTES
    vsize = worst_vsize([witness_bytes] * len(coins), output_bytes, 1 + with_marker)
    return -(-rate_sats_per_kvb * vsize // 1000)
