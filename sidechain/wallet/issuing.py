"""Issuing, reissuing and burning assets, and the record of what a wallet issued.

Source: elements/transactions.md 5 and 8.4.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sidechain.errors import InvalidEncoding
from sidechain.params import MAX_MONEY_SATS
from sidechain.primitives.confidential import NULL, explicit_value, is_commitment
from sidechain.primitives.encoding import Reader, le32, le64
from sidechain.primitives.issuance import (
    asset_from_entropy,
    issuance_entropy,
    issued_ids,
    token_from_entropy,
)
from sidechain.primitives.transaction import Issuance, OutPoint, Transaction
from sidechain.wallet.blinding import ZERO, issuance_script, unblind_issuance
from sidechain.wallet.builder import Draft, Issue, Payment, Terms, build_issue, build_payment
from sidechain.wallet.keys import PublicAccount, SecretKey
from sidechain.wallet.selection import OwnedCoin, WalletRefusal

BURN_SCRIPT = b"\x6a"

_UNKNOWN_SATS = 2**64 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuanceRecord:
    """One issuance or reissuance that a wallet made.

    `entropy` is the asset's, which a reissuance needs; `contract_hash` is zero in a reissuance.
    Amounts are None where hidden and not opened, 0 where nothing was issued.
    """

    txid: bytes
    vin: int
    asset: bytes
    token: bytes
    entropy: bytes
    contract_hash: bytes
    is_reissuance: bool
    is_hidden: bool
    asset_sats: int | None
    token_sats: int | None

    def encode(self) -> bytes:
        """As stored."""
        flags = bytes([self.is_reissuance | self.is_hidden << 1])
        amounts = b"".join(
            le64(_UNKNOWN_SATS if sats is None else sats)
            for sats in (self.asset_sats, self.token_sats)
        )
        head = self.txid + le32(self.vin) + self.asset + self.token + self.entropy
        return head + self.contract_hash + flags + amounts

    @classmethod
    def decode(cls, data: bytes) -> "IssuanceRecord":
        """Read what `encode` wrote. Raises InvalidEncoding."""
        reader = Reader(data)
        txid, vin = reader.read(32), reader.u32()
        asset, token, entropy, contract = (reader.read(32) for _ in range(4))
        flags = reader.u8()
        amounts = [reader.u64() for _ in range(2)]
        reader.done()
        if flags > 3:
            raise InvalidEncoding("unknown kind of issuance")
        asset_sats, token_sats = (None if sats == _UNKNOWN_SATS else sats for sats in amounts)
        return cls(
            txid=txid,
            vin=vin,
            asset=asset,
            token=token,
            entropy=entropy,
            contract_hash=contract,
            is_reissuance=bool(flags & 1),
            is_hidden=bool(flags & 2),
            asset_sats=asset_sats,
            token_sats=token_sats,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class NewAsset:
    """What is to be issued, and to which own output it goes.

    Amounts are in the smallest unit; `token_sats` 0 makes an asset that can never grow. `hidden`
    blinds the issued amounts; then every reissuance is blinded too.
    """

    asset_sats: int
    token_sats: int
    contract_hash: bytes
    hidden: bool


def build_issuance(
    new: NewAsset,
    coins: Sequence[OwnedCoin],
    terms: Terms,
    account: PublicAccount,
    *,
    to_script: bytes,
) -> Draft:
    """Issue a new asset on the first input; asset and tokens go to one own script.

    Args:
        account: whose blinding keys hide the amounts and the outputs.
    Raises:
        WalletRefusal: "amount", "no-blinding-key", or as `build_payment`.
    """
    if not 0 < new.asset_sats <= MAX_MONEY_SATS or not 0 <= new.token_sats <= MAX_MONEY_SATS:
        raise WalletRefusal("amount", "issued amounts are above 0 and at most 21000000")
    if len(new.contract_hash) != 32:
        raise WalletRefusal("amount", "a contract hash is 32 bytes")
    receiver = account.blinding_public_key(to_script)
    if receiver is None and (new.hidden or new.token_sats):
        # a token whose output is explicit could never be used
        raise WalletRefusal("no-blinding-key", "this wallet cannot blind: unlock it once")

    def outputs(prevout: OutPoint) -> tuple[Payment, ...]:
        entropy = issuance_entropy(prevout, new.contract_hash)
        asset = asset_from_entropy(entropy)
        token = token_from_entropy(entropy, confidential_amount=new.hidden)
        made = [_to(to_script, receiver, asset, new.asset_sats)]
        if new.token_sats:
            made.append(_to(to_script, receiver, token, new.token_sats))
        return tuple(made)

    issuance = Issuance(
        blinding_nonce=ZERO,
        entropy=new.contract_hash,
        amount=explicit_value(new.asset_sats),
        inflation_keys=explicit_value(new.token_sats) if new.token_sats else NULL,
    )
    secret = _secret_of(account) if new.hidden else None
    issue = Issue(issuance=issuance, outputs=outputs, secret=secret)
    return build_issue(issue, [], coins, terms)


def build_reissuance(
    record: IssuanceRecord,
    asset_sats: int,
    coins: Sequence[OwnedCoin],
    terms: Terms,
    account: PublicAccount,
    *,
    to_script: bytes,
) -> Draft:
    """Issue more of an asset with its token, which goes back to the wallet.

    The amount is hidden if and only if the first issuance's was.

    Raises:
        WalletRefusal: "amount", "no-token", "no-blinding-key", or as `build_payment`.
    Source: elements/transactions.md 5.1.
    """
    if not 0 < asset_sats <= MAX_MONEY_SATS:
        raise WalletRefusal("amount", "issued amounts are above 0 and at most 21000000")
    tokens = [coin for coin in coins if coin.asset == record.token]
    usable = [coin for coin in tokens if coin.abf != ZERO]
    if not usable:
        what = "has an explicit token: send it to itself first" if tokens else "has no token"
        raise WalletRefusal("no-token", f"this wallet {what} of the asset")
    receiver = account.blinding_public_key(to_script)
    if receiver is None:
        raise WalletRefusal("no-blinding-key", "this wallet cannot blind: unlock it once")
    token = min(usable, key=lambda coin: (coin.height is None, coin.outpoint.serialize()))

    def outputs(_prevout: OutPoint) -> tuple[Payment, ...]:
        return (
            _to(to_script, receiver, record.asset, asset_sats),
            _to(to_script, receiver, token.asset, token.value_sats),
        )

    issuance = Issuance(
        blinding_nonce=token.abf,
        entropy=record.entropy,
        amount=explicit_value(asset_sats),
        inflation_keys=NULL,
    )
    secret = _secret_of(account) if record.is_hidden else None
    issue = Issue(issuance=issuance, outputs=outputs, secret=secret)
    rest = [coin for coin in coins if coin.outpoint != token.outpoint]
    return build_issue(issue, [token], rest, terms)


def build_asset_burn(
    asset: bytes, value_sats: int, coins: Sequence[OwnedCoin], terms: Terms
) -> Draft:
    """Destroy an amount of an asset; everybody can see how much.

    Raises:
        WalletRefusal: "amount" for the pegged asset, or as `build_payment`.
    """
    if asset == terms.params.pegged_asset:
        # the reserves of these would be nobody's: a peg-out pays them out instead
        raise WalletRefusal("amount", "the pegged asset is not burned but pegged out")
    payment = Payment(script=BURN_SCRIPT, asset=asset, value_sats=value_sats)
    return build_payment([payment], coins, terms)


def issuances_of(
    tx: Transaction, account: PublicAccount, is_own_input: Callable[[OutPoint], bool]
) -> list[IssuanceRecord]:
    """What a transaction issues on inputs of a wallet, amounts opened where its keys do."""
    found = []
    for position, (txin, witness) in enumerate(zip(tx.inputs, tx.input_witnesses, strict=True)):
        issuance, ids = txin.issuance, issued_ids(txin)
        if issuance is None or ids is None or txin.is_pegin or not is_own_input(txin.prevout):
            continue
        secret = account.blinding_secret(issuance_script(txin.prevout)) or SecretKey(ZERO)
        opened = unblind_issuance(txin, witness, secret)
        amounts = [
            0 if field == NULL else None if item is None else item.value_sats
            for field, item in zip((issuance.amount, issuance.inflation_keys), opened, strict=True)
        ]
        record = IssuanceRecord(
            txid=tx.txid,
            vin=position,
            asset=ids.asset,
            token=ids.token,
            entropy=ids.entropy,
            contract_hash=ZERO if issuance.is_reissuance else issuance.entropy,
            is_reissuance=issuance.is_reissuance,
            is_hidden=is_commitment(issuance.amount),
            asset_sats=amounts[0],
            token_sats=amounts[1],
        )
        found.append(record)
    return found


def _to(script: bytes, receiver: bytes | None, asset: bytes, value_sats: int) -> Payment:
    return Payment(script=script, asset=asset, value_sats=value_sats, blinding_key=receiver)


def _secret_of(account: PublicAccount) -> Callable[[OutPoint], SecretKey]:
    def secret(prevout: OutPoint) -> SecretKey:
        found = account.blinding_secret(issuance_script(prevout))
        if found is None:
            raise WalletRefusal("no-blinding-key", "this wallet cannot blind: unlock it once")
        return found

    return secret
