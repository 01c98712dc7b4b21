"""The fields of a PSET: number, name, form, and what elementsd says of one that is wrong.

Each table is in the order in which elementsd writes the fields.

Source: BIP 174, BIP 370, BIP 371, Elements' doc/pset.mediawiki; texts as elementsd answers them.
"""

from dataclasses import dataclass
from enum import Enum, auto


class Form(Enum):
    """What the value of a field looks like; the keyed ones say something in their key, too."""

    BYTES = auto()
    U8 = auto()
    U32 = auto()
    SATS = auto()
    COUNT = auto()
    HASH = auto()
    VALUE = auto()
    ASSET = auto()
    PUBKEY = auto()
    OUTPUT = auto()
    TRANSACTION = auto()
    PARENT_TX = auto()
    PARENT_PROOF = auto()
    STACK = auto()
    SCHNORR = auto()
    TREE = auto()
    BY_PUBKEY = auto()
    PATH_BY_PUBKEY = auto()
    PATH_BY_XPUB = auto()
    BY_HASH = auto()
    BY_LEAF = auto()
    BY_CONTROL_BLOCK = auto()
    PATH_BY_XONLY = auto()
    SCALAR = auto()


KEYED = frozenset(
    {
        Form.BY_PUBKEY,
        Form.PATH_BY_PUBKEY,
        Form.PATH_BY_XPUB,
        Form.BY_HASH,
        Form.BY_LEAF,
        Form.BY_CONTROL_BLOCK,
        Form.PATH_BY_XONLY,
        Form.SCALAR,
    }
)


@dataclass(frozen=True, slots=True)
class Field:
    """One kind of entry. `doubled` and `long_key` are the texts for a second one, and for a key
    that has more than its number; `own` fields stand in Elements' proprietary space."""

    number: int
    name: str
    form: Form
    doubled: str = ""
    long_key: str = ""
    own: bool = False
    key_size: int = 1


def _table(text: str) -> tuple[Field, ...]:
    """Read rows of number, name, form and key size, and the two texts; `fc.` marks own fields.

    "already provided" is added to the first text; a row that starts with a bar goes on.
    """
    fields = []
    for row in text.strip().replace("\n|", "|").splitlines():
        words, doubled, long_key = (*(part.strip() for part in row.split("|")), "", "")[:3]
        number, name, form = words.split()
        form, _, key_size = form.partition(":")
        fields.append(
            Field(
                int(number.removeprefix("fc."), 16),
                name,
                Form[form.upper()],
                f"{doubled} already provided",
                long_key,
                own=number.startswith("fc."),
                key_size=int(key_size or 1),
            )
        )
    return tuple(fields)


GLOBAL = _table(
    """
01 xpub path_by_xpub:79 | global xpub | global xpub
02 tx_version u32 | global transaction version is | Global transaction version key
03 fallback_locktime u32 | global fallback locktime is | Global fallback locktime key
04 input_count count | global input count is | Global input count key
05 output_count count | global output count is | Global output count key
06 tx_modifiable u8 | tx modifiable flags is | Global tx modifiable flags key
fc.00 scalar scalar | the same scalar offset was provided multiple times
| Global scalar offset key was not the expected length
fb version u32 | version | Global version key
"""
)
INPUT = _table(
    """
00 non_witness_utxo transaction | input non-witness utxo | Non-witness utxo key
01 witness_utxo output | input witness utxo | Witness utxo key
02 partial_sig by_pubkey | input partial signature for pubkey | partial signature pubkey
03 sighash u32 | input sighash type | Sighash type key
04 redeem_script bytes | input redeemScript | Input redeemScript key
05 witness_script bytes | input witnessScript | Input witnessScript key
06 bip32 path_by_pubkey
0a ripemd160 by_hash:21 | input ripemd160 preimage | ripemd160 preimage
0b sha256 by_hash:33 | input sha256 preimage | sha256 preimage
0c hash160 by_hash:21 | input hash160 preimage | hash160 preimage
0d hash256 by_hash:33 | input hash256 preimage | hash256 preimage
13 tap_key_sig schnorr | input Taproot key signature | Input Taproot key signature key
14 tap_script_sig by_leaf:65 | input Taproot script signature
| Input Taproot script signature key is not 65 bytes
15 tap_script by_control_block | input Taproot leaf script
16 tap_bip32 path_by_xonly:33 | input Taproot BIP32 keypath | Input Taproot BIP32 keypath
17 tap_internal_key hash | input Taproot internal key | Input Taproot internal key key
18 tap_merkle_root hash | input Taproot merkle root | Input Taproot merkle root key
07 final_script_sig bytes | input final scriptSig | Final scriptSig key
08 final_script_witness stack | input final scriptWitness | Final scriptWitness key
0e previous_txid hash | previous txid is | Previous txid key
0f previous_vout u32 | previous output's index is | Previous output's index
10 sequence u32 | sequence is | Sequence key
11 time_locktime u32 | required time based locktime is | Required time based locktime
12 height_locktime u32 | required height based locktime is | Required height based locktime
fc.00 issuance_value sats | input issuance value | Input issuance value
fc.01 issuance_value_commitment value | input issuance value commitment
| Input issuance value commitment key
fc.02 issuance_value_rangeproof bytes | input issuance value rangeproof
| Input issuance value rangeproof key
fc.03 issuance_keys_rangeproof bytes | input issuance inflation keys rangeproof
| Input issuance inflation keys rangeproof key
fc.04 pegin_tx parent_tx | peg-in tx | Peg-in tx key
fc.05 pegin_proof parent_proof | peg-in txout proof | Peg-in txout proof key
fc.06 pegin_genesis_hash hash | peg-in genesis hash | Peg-in genesis hash
fc.07 pegin_claim_script bytes | peg-in claim script | Peg-in claim script key
fc.08 pegin_value sats | input issuance value | Input issuance value
fc.09 pegin_witness stack | input peg-in witness | Input peg-in witness key
fc.0a issuance_keys sats | input issuance inflation keys | Input issuance inflation keys
fc.0b issuance_keys_commitment value | input issuance inflation keys commitment
| Input issuance inflation keys commitment key
fc.0c issuance_blinding_nonce hash | input issuance blinding nonce | Input issuance blinding nonce
fc.0d issuance_asset_entropy hash | input issuance asset entropy | Input issuance asset entropy
fc.0e utxo_rangeproof bytes | input utxo rangeproof | Input UTXO rangeproof key
fc.0f issuance_value_proof bytes | input blind issuance value proof | Input blind issuance value key
fc.10 issuance_keys_proof bytes | input blind issuance inflation keys value proof
| Input blind issuance inflation keys value proof key
fc.11 explicit_value sats | explicit value is | Input explicit value
fc.12 value_proof bytes | explicit value proof is | Input explicit value proof
fc.13 explicit_asset hash | explicit asset is | Input explicit asset
fc.14 asset_proof bytes | explicit asset proof is | Input explicit asset proof
fc.15 blinded_issuance u8 | issuance needs blinded flag is | Input issuance needs blinded flag
"""
)
OUTPUT = _table(
    """
00 redeem_script bytes | output redeemScript | Output redeemScript key
01 witness_script bytes | output witnessScript | Output witnessScript key
02 bip32 path_by_pubkey
03 amount sats | output amount is | Output amount key
04 script bytes | output script is | Output script key
fc.01 value_commitment value | output value commitment | Output value cmmitment key
fc.02 asset hash | output asset | Output asset key
fc.03 asset_commitment asset | output asset commitment | Output asset commitment key
fc.04 rangeproof bytes | output value rangeproof | Output value rangeproof key
fc.05 surjection_proof bytes | output asset surjection proof | Output asset surjection proof key
fc.06 blinding_pubkey pubkey | output blinding pubkey | Output blinding pubkey key
fc.07 ecdh_pubkey pubkey | output ecdh pubkey | Output ecdh pubkey key
fc.08 blinder_index u32 | output blinder_index | Output blinder_index key
fc.09 blind_value_proof bytes | output blind value proof | Output blind value proof key
fc.0a blind_asset_proof bytes | output blind asset proof | Output blind asset proof key
05 tap_internal_key hash | output Taproot internal key | Output Taproot internal key key
06 tap_tree tree | output Taproot tree | Output Taproot tree key
07 tap_bip32 path_by_xonly:33 | output Taproot BIP32 keypath | Output Taproot BIP32 keypath
"""
)


def _index(name: str) -> int:
    return next(position for position, field in enumerate(INPUT) if field.name == name)


SIGNING_NAMES = frozenset(
    field.name for field in INPUT[_index("partial_sig") : _index("final_script_sig")]
)
"""What an input needs until it is final; elementsd writes none of it afterwards."""
