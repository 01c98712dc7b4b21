"""What one transaction leaves in the index: scripts it touches, outputs it spends, asset events.

Source: clients.md 3; the events of assets are those that Esplora counts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields

from sidechain.crypto.hashes import sha256
from sidechain.errors import InvalidTransaction
from sidechain.params import ChainParams
from sidechain.primitives.confidential import is_commitment, value_sats
from sidechain.primitives.issuance import issued_ids
from sidechain.primitives.transaction import OutPoint, Transaction, TxIn, TxOut
from sidechain.validation.pegins import PEGIN_WITNESS_ITEMS, parse_pegin
from sidechain.validation.pegouts import parse_pegout

_CLAIM_SCRIPT_ITEM = 3


def script_hash(script: bytes) -> bytes:
    """Under what a script is indexed: its SHA-256, shown in this order."""
    return sha256(script)


@dataclass(slots=True)
class ScriptTrace:
    """How a transaction touches one script.

    `funded` are the positions of outputs that pay it, `spent_count` is how many of its coins are
    inputs. Both are empty for the script that a peg-in claim satisfies: its coin was never here.
    """

    funded: list[int] = field(default_factory=list)
    spent_count: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AssetActivity:
    """What happened to one asset: sums over transactions. Hidden amounts are not in the sums."""

    tx_count: int = 0
    peg_in_count: int = 0
    peg_in_sats: int = 0
    peg_out_count: int = 0
    peg_out_sats: int = 0
    burn_count: int = 0
    burned_sats: int = 0
    issuance_count: int = 0
    issued_sats: int = 0
    blinded_issuance_count: int = 0
    token_sats: int = 0
    blinded_token_count: int = 0

    def __add__(self, other: "AssetActivity") -> "AssetActivity":
        return AssetActivity(
            **{name: getattr(self, name) + getattr(other, name) for name in ACTIVITY_NAMES}
        )

    def __sub__(self, other: "AssetActivity") -> "AssetActivity":
        return AssetActivity(
            **{name: getattr(self, name) - getattr(other, name) for name in ACTIVITY_NAMES}
        )


ACTIVITY_NAMES = tuple(item.name for item in fields(AssetActivity))
NO_ACTIVITY = AssetActivity()


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstIssuance:
    """Where an asset was made: input `vin` of `txid`, which spends `prevout`."""

    asset: bytes
    txid: bytes
    vin: int
    prevout: OutPoint
    contract_hash: bytes
    token: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Traces:
    """All that one transaction leaves: by script hash, by spent output (with the input's
    position), by asset."""

    scripts: Mapping[bytes, ScriptTrace]
    spends: Sequence[tuple[OutPoint, int]]
    assets: Mapping[bytes, AssetActivity]
    issued: Sequence[FirstIssuance]


def trace(tx: Transaction, spent: Mapping[OutPoint, bytes], params: ChainParams) -> Traces:
    """Find out what a transaction leaves in the index.

    Outputs that no one can spend are not indexed by script; they may still burn or peg out.

    Args:
        spent: scripts of the coins it spends; a coin that is not there leaves no script.
    """
    scripts: dict[bytes, ScriptTrace] = {}
    spends: list[tuple[OutPoint, int]] = []
    if not tx.is_coinbase:
        for vin, txin in enumerate(tx.inputs):
            if txin.is_pegin:
                claimed = tx.input_witnesses[vin].pegin
                if len(claimed) == PEGIN_WITNESS_ITEMS:
                    scripts.setdefault(script_hash(claimed[_CLAIM_SCRIPT_ITEM]), ScriptTrace())
                continue
            spends.append((txin.prevout, vin))
            script = spent.get(txin.prevout)
            if script:
                scripts.setdefault(script_hash(script), ScriptTrace()).spent_count += 1
    for vout, output in enumerate(tx.outputs):
        if not output.is_unspendable:
            scripts.setdefault(script_hash(output.script), ScriptTrace()).funded.append(vout)
    assets, issued = _asset_events(tx, params)
    return Traces(scripts=scripts, spends=spends, assets=assets, issued=issued)


def _asset_events(
    tx: Transaction, params: ChainParams
) -> tuple[dict[bytes, AssetActivity], list[FirstIssuance]]:
    events: list[tuple[bytes, AssetActivity]] = []
    issued: list[FirstIssuance] = []
    for output in tx.outputs:
        if output.is_unspendable and not output.is_fee:
            events += _end_of(output, params)
    for vin, txin in enumerate(tx.inputs):
        if txin.is_pegin:
            events += _peg_in(tx.input_witnesses[vin].pegin, params)
        if txin.issuance is not None:
            events += _issuance(txin)
            issued += _first_issuance(tx, vin)
    found: dict[bytes, AssetActivity] = {}
    for asset, event in events:
        known = found.get(asset)
        found[asset] = AssetActivity(tx_count=1) + event if known is None else known + event
    return found, issued


def _end_of(output: TxOut, params: ChainParams) -> list[tuple[bytes, AssetActivity]]:
    """A peg-out or a burn, where asset and amount are shown."""
    asset, amount = output.asset_id, output.value_sats
    if asset is None or amount is None:
        return []
    pegout = parse_pegout(output.script)
    if (
        pegout is not None
        and params.has_parent_chain
        and pegout[0] == params.parent_genesis_hash
        and asset == params.pegged_asset
    ):
        return [(asset, AssetActivity(peg_out_count=1, peg_out_sats=amount))]
    return [(asset, AssetActivity(burn_count=1, burned_sats=amount))] if amount > 0 else []


def _peg_in(items: Sequence[bytes], params: ChainParams) -> list[tuple[bytes, AssetActivity]]:
    try:
        claim = parse_pegin(items, params)
    except InvalidTransaction:
        return []
    if claim.asset != params.pegged_asset:
        return []
    return [(claim.asset, AssetActivity(peg_in_count=1, peg_in_sats=claim.value_sats))]


def _issuance(txin: TxIn) -> list[tuple[bytes, AssetActivity]]:
    issuance, ids = txin.issuance, issued_ids(txin)
    if issuance is None or ids is None:
        return []
    return [
        (
            ids.asset,
            AssetActivity(
                issuance_count=1,
                issued_sats=value_sats(issuance.amount) or 0,
                blinded_issuance_count=int(is_commitment(issuance.amount)),
                token_sats=value_sats(issuance.inflation_keys) or 0,
                blinded_token_count=int(is_commitment(issuance.inflation_keys)),
            ),
        )
    ]


def _first_issuance(tx: Transaction, vin: int) -> list[FirstIssuance]:
    txin = tx.inputs[vin]
    ids = issued_ids(txin)
    if txin.issuance is None or ids is None or txin.issuance.is_reissuance:
        return []
    return [
        FirstIssuance(
            asset=ids.asset,
            txid=tx.txid,
            vin=vin,
            prevout=txin.prevout,
            contract_hash=txin.issuance.entropy,
            token=ids.token,
        )
    ]
