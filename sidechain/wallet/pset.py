"""Partially signed Elements transactions, version 2, as base64 text.

libwally reads and writes the format. A transaction leaves here blinded: who signs it need not
know how to blind. It carries proofs of what its own inputs and all outputs hold, so that signers
and people can be shown amounts that the chain hides.

Source: elements doc/pset.mediawiki, BIP 370; clients.md 2.
"""

from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import wallycore

from sidechain.crypto.hashes import tagged_hash
from sidechain.errors import InvalidEncoding
from sidechain.primitives.confidential import NULL
from sidechain.primitives.encoding import Reader, le32, vec
from sidechain.primitives.transaction import OutPoint, Transaction, TxOut
from sidechain.script.sighash import SIGHASH_ALL, SighashCache
from sidechain.wallet.blinding import WALLY_REFUSALS, ZERO, Opened
from sidechain.wallet.builder import Draft, p2wpkh_witness
from sidechain.wallet.keys import Branch, PublicAccount, SecretKey
from sidechain.wallet.selection import OwnedCoin, WalletRefusal

VERSION = 2
MAX_PSET_CHARS = 8_000_000
"""Of one text. A transaction of standard weight with everything known about it is a tenth of it."""

_MAGIC = b"pset\xff"
_WITH_WITNESS = wallycore.WALLY_TX_FLAG_USE_WITNESS | wallycore.WALLY_TX_FLAG_USE_ELEMENTS


@dataclass(frozen=True, slots=True, kw_only=True)
class PsetInput:
    """One input: what it spends (None if the text does not say) and whether it is signed."""

    outpoint: OutPoint
    output: TxOut | None
    signatures: int
    is_final: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PsetView:
    """What a PSET says: the transaction as it will be, with the signatures left out."""

    tx: Transaction
    inputs: tuple[PsetInput, ...]

    @property
    def is_final(self) -> bool:
        """Whether every input has its final witness."""
        return all(item.is_final for item in self.inputs)


def create_pset(
    draft: Draft, account: PublicAccount, path_of: Callable[[bytes], tuple[Branch, int] | None]
) -> str:
    """The PSET of a draft, blinded and unsigned.

    Args:
        path_of: branch and index of an own script, None for others'.
    Raises:
        InvalidEncoding: the origin of the account's key is not known, which signers need.
    """
    if account.origin is None:
        raise InvalidEncoding("the keys of this wallet are not all known: unlock it once")
    raw_tx = wallycore.tx_from_bytes(draft.tx.raw, _WITH_WITNESS)
    handle = wallycore.psbt_from_tx(raw_tx, VERSION, wallycore.WALLY_PSBT_INIT_PSET)
    for position, coin in enumerate(draft.spent):
        _add_coin(handle, position, coin, account)
    for position, (receiver, opened) in enumerate(zip(draft.receivers, draft.opened, strict=True)):
        path = path_of(draft.tx.outputs[position].script)
        if path is not None:
            keypath = _keypath(account, *path)
            wallycore.psbt_set_output_keypaths(handle, position, keypath)
        if receiver is not None:
            _show_output(handle, position, receiver, opened, draft.tx.outputs[position])
    return _encode(handle)


def view_pset(text: str) -> PsetView:
    """Read a PSET.

    Raises:
        InvalidEncoding: not base64, not a PSET of version 2, or one that makes no transaction.
    """
    handle = _decode(text)
    tx = _unsigned(handle)
    inputs = tuple(
        PsetInput(
            outpoint=txin.prevout,
            output=_witness_utxo(handle, position),
            signatures=wallycore.psbt_get_input_signatures_size(handle, position),
            is_final=bool(wallycore.psbt_is_input_finalized(handle, position)),
        )
        for position, txin in enumerate(tx.inputs)
    )
    return PsetView(tx=tx, inputs=inputs)


def sign_pset(
    text: str,
    coins: Mapping[OutPoint, OwnedCoin],
    secret_of: Callable[[OwnedCoin], SecretKey],
) -> tuple[str, int]:
    """Sign the inputs that spend own coins, SIGHASH_ALL.

    What the PSET says of such an input must be what the wallet knows: a signature over another
    amount is worthless at best.

    Args:
        coins: the wallet's own, by outpoint.
    Returns:
        The PSET with the signatures, and how many inputs were signed.
    Raises:
        InvalidEncoding: as `view_pset`.
        WalletRefusal: "pset" when it lies about an own coin, or wants another kind of signature.
    """
    handle = _decode(text)
    tx = _unsigned(handle)
    cache, signed = SighashCache(tx), 0
    for position, txin in enumerate(tx.inputs):
        coin = None if txin.is_pegin else coins.get(txin.prevout)
        if coin is None or wallycore.psbt_is_input_finalized(handle, position):
            continue
        _check_own_input(handle, position, coin)
        signature, key = p2wpkh_witness(cache, position, coin.output, secret_of(coin))
        wallycore.psbt_add_input_signature(handle, position, key, signature)
        signed += 1
    return _encode(handle), signed


def combine_psets(texts: Iterable[str]) -> str:
    """One PSET with what several copies of it know; where they differ the first is right.

    libwally's combiner refuses blinded outputs, so the maps are merged here.

    Raises:
        InvalidEncoding: as `view_pset`, there is none, or they are not of one transaction.
    Source: BIP 174, "Combiner".
    """
    handles = [_decode(text) for text in texts]
    if not handles:
        raise InvalidEncoding("there is nothing to combine")
    if len({_unsigned(handle).txid for handle in handles}) != 1:
        raise InvalidEncoding("these are not of the same transaction")
    first, *others = [_maps(bytes(wallycore.psbt_to_bytes(handle, 0))) for handle in handles]
    for other in others:
        for known, more in zip(first, other, strict=True):
            for key, value in more.items():
                known.setdefault(key, value)
    return _encode(_decode(b64encode(_join(first)).decode()))


def finalize_pset(text: str) -> str:
    """Turn signatures into final witnesses where they are complete.

    Raises:
        InvalidEncoding: as `view_pset`.
    """
    handle = _decode(text)
    try:
        wallycore.psbt_finalize(handle)
    except WALLY_REFUSALS as error:
        raise InvalidEncoding("a signature in this PSET does not fit its input") from error
    return _encode(handle)


def extract_pset(text: str) -> Transaction:
    """The signed transaction of a PSET whose inputs are all final.

    Raises:
        InvalidEncoding: as `view_pset`.
        WalletRefusal: "pset" when an input is not final.
    """
    handle = _decode(text)
    if not wallycore.psbt_is_finalized(handle):
        raise WalletRefusal("pset", "not every input of this PSET is signed")
    return _transaction(handle, wallycore.WALLY_PSBT_EXTRACT_FINAL)


def _add_coin(handle: Any, position: int, coin: OwnedCoin, account: PublicAccount) -> None:
    spent = coin.output
    nonce = None if spent.nonce == NULL else spent.nonce
    utxo = wallycore.tx_elements_output_init(spent.script, spent.asset, spent.value, nonce)
    wallycore.psbt_set_input_witness_utxo(handle, position, utxo)
    wallycore.psbt_set_input_sighash(handle, position, SIGHASH_ALL)
    wallycore.psbt_set_input_keypaths(handle, position, _keypath(account, coin.branch, coin.index))
    if coin.abf != ZERO and coin.vbf != ZERO:
        seed = tagged_hash("fedpeg/pset", coin.outpoint.serialize() + coin.abf + coin.vbf)
        wallycore.psbt_generate_input_explicit_proofs(
            handle, position, coin.value_sats, coin.asset, coin.abf, coin.vbf, seed
        )


def _show_output(
    handle: Any, position: int, receiver: bytes, opened: Opened, output: TxOut
) -> None:
    """Add what a blinded output holds, with proofs that it does."""
    wallycore.psbt_set_output_blinding_public_key(handle, position, receiver)
    wallycore.psbt_set_output_blinder_index(handle, position, 0)
    wallycore.psbt_set_output_amount(handle, position, opened.value_sats)
    wallycore.psbt_set_output_asset(handle, position, opened.asset)
    seed = tagged_hash("fedpeg/pset", le32(position) + opened.abf + opened.vbf)
    value_proof = wallycore.explicit_rangeproof(
        opened.value_sats, seed, opened.vbf, output.value, output.asset
    )
    asset_proof = wallycore.explicit_surjectionproof(opened.asset, opened.abf, output.asset)
    wallycore.psbt_set_output_value_blinding_rangeproof(handle, position, value_proof)
    wallycore.psbt_set_output_asset_blinding_surjectionproof(handle, position, asset_proof)


def _keypath(account: PublicAccount, branch: Branch, index: int) -> Any:
    origin = account.origin
    if origin is None:
        raise InvalidEncoding("the keys of this wallet are not all known: unlock it once")
    keypath = wallycore.map_keypath_public_key_init(1)
    path = [*origin.path, int(branch), index]
    key = account.public_key(branch, index)
    wallycore.map_keypath_add(keypath, key, origin.fingerprint, path)
    return keypath


def _check_own_input(handle: Any, position: int, coin: OwnedCoin) -> None:
    wanted = wallycore.psbt_get_input_sighash(handle, position)
    if wanted not in (0, SIGHASH_ALL):
        raise WalletRefusal("pset", f"input {position} asks for another signature than ALL")
    said, known = _witness_utxo(handle, position), coin.output
    if said is None or (said.asset, said.value, said.script) != (
        known.asset,
        known.value,
        known.script,
    ):
        raise WalletRefusal("pset", f"the PSET does not tell the truth about input {position}")


def _witness_utxo(handle: Any, position: int) -> TxOut | None:
    utxo = wallycore.psbt_get_input_witness_utxo(handle, position)
    if utxo is None:
        return None
    nonce = NULL
    if wallycore.tx_output_get_nonce_len(utxo):
        nonce = bytes(wallycore.tx_output_get_nonce(utxo))
    return TxOut(
        bytes(wallycore.tx_output_get_asset(utxo)),
        bytes(wallycore.tx_output_get_value(utxo)),
        nonce,
        bytes(wallycore.tx_output_get_script(utxo)),
    )


def _unsigned(handle: Any) -> Transaction:
    return _transaction(handle, wallycore.WALLY_PSBT_EXTRACT_NON_FINAL)


def _transaction(handle: Any, flags: int) -> Transaction:
    try:
        raw = wallycore.tx_to_bytes(wallycore.psbt_extract(handle, flags), _WITH_WITNESS)
    except WALLY_REFUSALS as error:
        raise InvalidEncoding("this PSET makes no transaction") from error
    return Transaction.decode(bytes(raw))


def _decode(text: str) -> Any:
    stripped = text.strip()
    if len(stripped) > MAX_PSET_CHARS or not stripped.isascii():
        raise InvalidEncoding("this is no PSET")
    try:
        handle = wallycore.psbt_from_base64(stripped, wallycore.WALLY_PSBT_PARSE_FLAG_STRICT)
        is_ours = wallycore.psbt_is_elements(handle)
        length = wallycore.psbt_get_length(handle, wallycore.WALLY_PSBT_SERIALIZE_FLAG_REDUNDANT)
    except WALLY_REFUSALS as error:
        raise InvalidEncoding("this is no PSET") from error
    if not is_ours or wallycore.psbt_get_version(handle) != VERSION:
        raise InvalidEncoding("only PSETs of version 2 are known")
    if length != len(b64decode(stripped)):
        raise InvalidEncoding("this PSET has more bytes than it should")
    return handle


def _maps(raw: bytes) -> list[dict[bytes, bytes]]:
    """The maps of a PSET in their order: global, inputs, outputs."""
    reader = Reader(raw)
    if reader.read(len(_MAGIC)) != _MAGIC:
        raise InvalidEncoding("this is no PSET")
    maps: list[dict[bytes, bytes]] = []
    while reader.remaining:
        found: dict[bytes, bytes] = {}
        while key := reader.vec():
            found[key] = reader.vec()
        maps.append(found)
    return maps


def _join(maps: Iterable[Mapping[bytes, bytes]]) -> bytes:
    body = b"".join(
        b"".join(vec(key) + vec(value) for key, value in sorted(found.items())) + b"\0"
        for found in maps
    )
    return _MAGIC + body


def _encode(handle: Any) -> str:
    return str(wallycore.psbt_to_base64(handle, 0))
