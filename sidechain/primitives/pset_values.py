"""What the values of a PSET's fields must look like; elementsd's texts for those that do not.

Source: BIP 174, BIP 371, Elements' doc/pset.mediawiki.
"""

from sidechain.crypto.keys import is_public_key
from sidechain.errors import InvalidEncoding
from sidechain.params import ChainParams
from sidechain.primitives.confidential import ASSET_LENGTHS, VALUE_LENGTHS, check_field
from sidechain.primitives.encoding import Reader, compact_size
from sidechain.primitives.parent import parse_merkle_block, parse_parent_tx
from sidechain.primitives.pset_fields import Field, Form
from sidechain.primitives.signed_parent import parse_elements_parent_tx, parse_signed_merkle_block
from sidechain.primitives.transaction import Transaction, TxOut

WRONG_SIZE = "Size of value was not the stated size"
MAX_TREE_DEPTH = 128
_LEAF_MASK = 0xFE
_SCALAR_KEY_SIZE = 6 + 1 + 32
_SIZES = {Form.U8: 1, Form.U32: 4, Form.SATS: 8, Form.HASH: 32}
_KEY_SIZES = {0x02: 33, 0x03: 33, 0x04: 65, 0x06: 65, 0x07: 65}


def checked_value(field: Field, value: bytes, params: ChainParams) -> bytes:
    """A plain value as it is kept; empty where elementsd holds it for absent.

    Raises:
        InvalidEncoding: it has not the form of the field.
    """
    form = field.form
    size = _SIZES.get(form)
    if size is not None:
        return _sized(value, size, null_is_absent=form is Form.HASH)
    if form in (Form.BYTES, Form.STACK):
        return _stack(value) if form is Form.STACK else value
    if form is Form.PUBKEY:
        return value if value and _KEY_SIZES.get(value[0]) == len(value) else b""
    if form is Form.COUNT:
        read_count(value or b"\0")
        return value or b"\0"
    if form is Form.SCHNORR:
        _check_schnorr(value, "Input Taproot key path")
        return value
    if form is Form.TREE:
        check_tree(value)
        return value
    if not value:
        return b""
    if form in (Form.VALUE, Form.ASSET):
        if value == b"\0":
            return b""
        lengths = VALUE_LENGTHS if form is Form.VALUE else ASSET_LENGTHS
        if value[0] in lengths and lengths[value[0]] != len(value):
            raise InvalidEncoding(WRONG_SIZE)
        check_field(value, lengths)
        return value
    try:
        return _parsed(form, value, params)
    except InvalidEncoding as error:
        if error.reason == "trailing data":
            raise InvalidEncoding(WRONG_SIZE) from error
        raise


def _sized(value: bytes, size: int, *, null_is_absent: bool) -> bytes:
    if len(value) != size and not (null_is_absent and not value):
        raise InvalidEncoding(WRONG_SIZE)
    return b"" if null_is_absent and not any(value) else value


def _stack(value: bytes) -> bytes:
    if not value:
        return b""
    return b"" if not read_stack(value) else value


def _parsed(form: Form, value: bytes, params: ChainParams) -> bytes:
    """Values that are whole structures; parent transactions are kept without their witness."""
    if form is Form.OUTPUT:
        TxOut.decode(value)
    elif form is Form.TRANSACTION:
        Transaction.decode(value)
    elif form is Form.PARENT_TX:
        return parent_tx(value, params)
    else:
        return parent_proof(value, params)
    return value


def parent_tx(value: bytes, params: ChainParams) -> bytes:
    """A transaction of the parent chain as it is kept: without its witness.

    Raises:
        InvalidEncoding: it is none.
    """
    if params.parent_chain_signblockscript:
        return parse_elements_parent_tx(value, params).stripped
    return parse_parent_tx(value).stripped


def parent_proof(value: bytes, params: ChainParams) -> bytes:
    """A proof that a transaction is in a block of the parent chain.

    Raises:
        InvalidEncoding: it is none.
    """
    if params.parent_chain_signblockscript:
        parse_signed_merkle_block(value, params)
    else:
        parse_merkle_block(value)
    return value


def check_keyed(field: Field, key: bytes, value: bytes) -> None:
    """Check an entry whose key says something beyond its number.

    Args:
        key: the whole of it.
    Raises:
        InvalidEncoding: key or value has not the form of the field.
    """
    match field.form:
        case Form.BY_PUBKEY | Form.PATH_BY_PUBKEY:
            if len(key) not in (34, 66):
                what = field.long_key or "BIP32 keypath"
                raise InvalidEncoding(f"Size of key was not the expected size for the type {what}")
            if not is_public_key(key[1:]):
                raise InvalidEncoding("Invalid pubkey")
            if field.form is Form.PATH_BY_PUBKEY:
                _check_path(value)
        case Form.BY_HASH | Form.PATH_BY_XPUB:
            if len(key) != field.key_size:
                raise InvalidEncoding(
                    f"Size of key was not the expected size for the type {field.long_key}"
                )
            if field.form is Form.PATH_BY_XPUB:
                if not is_public_key(key[46:]):
                    raise InvalidEncoding("Invalid pubkey")
                _check_path(value)
        case Form.BY_LEAF:
            if len(key) != field.key_size:
                raise InvalidEncoding(field.long_key)
            _check_schnorr(value, "Input Taproot script path")
        case Form.BY_CONTROL_BLOCK:
            if len(key) < 34:
                raise InvalidEncoding("Taproot leaf script key is not at least 34 bytes")
            if (len(key) - 2) % 32:
                raise InvalidEncoding(
                    "Input Taproot leaf script key's control block size is not valid"
                )
            if not value:
                raise InvalidEncoding("Input Taproot leaf script must be at least 1 byte")
        case Form.PATH_BY_XONLY:
            if len(key) != field.key_size:
                raise InvalidEncoding(f"{field.long_key} key is not at 33 bytes")
            _, origin = read_leaf_path(value)
            _check_path(origin)
        case _:
            if len(key) < _SCALAR_KEY_SIZE:
                raise InvalidEncoding("SpanReader::read(): end of data")
            if len(key) != _SCALAR_KEY_SIZE:
                raise InvalidEncoding(field.long_key)
            if value not in (b"", b"\0"):
                raise InvalidEncoding("Global scalar value was not empty")


def _check_path(origin: bytes) -> None:
    if len(origin) % 4 or not origin:
        raise InvalidEncoding("Invalid length for HD key path")


def _check_schnorr(value: bytes, what: str) -> None:
    if len(value) < 64:
        raise InvalidEncoding(f"{what} signature is shorter than 64 bytes")
    if len(value) > 65:
        raise InvalidEncoding(f"{what} signature is longer than 65 bytes")


def read_count(value: bytes) -> int:
    """The number in a count field.

    Raises:
        InvalidEncoding: it is not one compact size.
    """
    reader = Reader(value)
    count = reader.compact_size()
    if reader.remaining:
        raise InvalidEncoding(WRONG_SIZE)
    return count


def read_stack(value: bytes) -> tuple[bytes, ...]:
    """The items of a witness.

    Raises:
        InvalidEncoding: they do not fill the value.
    """
    if not value:
        return ()
    reader = Reader(value)
    items = tuple(reader.vec() for _ in range(reader.compact_size()))
    if reader.remaining:
        raise InvalidEncoding(WRONG_SIZE)
    return items


def read_leaf_path(value: bytes) -> tuple[tuple[bytes, ...], bytes]:
    """The leaf hashes of a taproot key, sorted, and where the key comes from.

    Raises:
        InvalidEncoding: cut off.
    """
    reader = Reader(value)
    hashes = sorted({reader.read(32) for _ in range(reader.compact_size())})
    return tuple(hashes), reader.read(reader.remaining)


def leaf_path(hashes: tuple[bytes, ...], origin: bytes) -> bytes:
    """The value that `read_leaf_path` reads."""
    return compact_size(len(hashes)) + b"".join(hashes) + origin


def read_tree(value: bytes) -> list[tuple[int, int, bytes]]:
    """Depth, leaf version and script of every leaf of a taproot tree.

    Raises:
        InvalidEncoding: cut off, or a leaf is impossible.
    """
    if not value:
        raise InvalidEncoding("Output Taproot tree must not be empty")
    reader, leaves = Reader(value), []
    while reader.remaining:
        depth, version, script = reader.u8(), reader.u8(), reader.vec()
        if depth > MAX_TREE_DEPTH:
            raise InvalidEncoding(
                "Output Taproot tree has as leaf greater than Taproot maximum depth"
            )
        if version & ~_LEAF_MASK:
            raise InvalidEncoding("Output Taproot tree has a leaf with an invalid leaf version")
        leaves.append((depth, version, script))
    return leaves


def check_tree(value: bytes) -> None:
    """Check that the leaves, in depth-first order, make one tree.

    Raises:
        InvalidEncoding: they do not.
    """
    # Depths of the subtrees that wait for their right sibling, from the root down.
    waiting: list[int] = []
    done = False
    for depth, _, _ in read_tree(value):
        if done or (waiting and depth < waiting[-1]):
            raise InvalidEncoding("Output Taproot tree is malformed")
        while waiting and waiting[-1] == depth:
            waiting.pop()
            depth -= 1
        done = depth == 0
        if not done:
            waiting.append(depth)
    if not done:
        raise InvalidEncoding("Output Taproot tree is malformed")
