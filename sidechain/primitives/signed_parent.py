"""A parent chain that is itself an Elements chain: its proofs and transactions.

Such a parent is read with this chain's own settings, so it must have the same form of headers.

Source: elements/peg.md 3.1, items 4 to 6.
"""

from dataclasses import dataclass

from sidechain.errors import InvalidEncoding
from sidechain.params import ChainParams
from sidechain.primitives.block import BlockHeader
from sidechain.primitives.encoding import Reader
from sidechain.primitives.merkle_proof import read_partial_tree
from sidechain.primitives.parent import ParentTx
from sidechain.primitives.transaction import Transaction

HIDDEN_SATS = -1
"""Value of an output that is no explicit amount of the parent's asset: no claim can name it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedMerkleBlock:
    """An Elements header and the transactions proved to be in its block, as in `MerkleBlock`."""

    header: BlockHeader
    tx_count: int
    matches: tuple[tuple[int, bytes], ...]


def parse_signed_merkle_block(proof: bytes, params: ChainParams) -> SignedMerkleBlock:
    """Read a proof as the parent's `gettxoutproof` makes it. Its signatures are not checked.

    Raises:
        InvalidEncoding: as `parent.parse_merkle_block`.
    """
    reader = Reader(proof)
    header = BlockHeader.read(reader, params)
    tree = read_partial_tree(reader)
    reader.done()
    if tree.root != header.merkle_root:
        raise InvalidEncoding("merkle root differs from the header's")
    return SignedMerkleBlock(header=header, tx_count=tree.tx_count, matches=tree.matches)


def parse_elements_parent_tx(data: bytes, params: ChainParams) -> ParentTx:
    """Read one Elements transaction, with or without witness.

    Raises:
        InvalidEncoding: malformed, not canonical, or followed by more bytes.
    """
    tx = Transaction.decode(data)
    asset = params.parent_pegged_asset
    amounts = [
        output.value_sats
        if output.asset_id == asset and output.value_sats is not None
        else HIDDEN_SATS
        for output in tx.outputs
    ]
    scripts = [output.script for output in tx.outputs]
    return ParentTx(
        txid=tx.txid,
        inputs=tuple(item.prevout for item in tx.inputs),
        outputs=tuple(zip(amounts, scripts, strict=True)),
        stripped=tx.serialize(include_witness=False),
        vsize=tx.vsize,
    )
