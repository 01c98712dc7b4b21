"""RPC methods that prove that a block contains transactions, and read such proofs.

Source: elements/interfaces.md 3.
"""

from dataclasses import replace
from typing import Any

from sidechain.api.arguments import array_argument, hash_argument, hex_argument
from sidechain.api.registry import (
    INVALID_ADDRESS_OR_KEY,
    INVALID_PARAMETER,
    MISC_ERROR,
    Registry,
    RpcError,
)
from sidechain.chain import Chain
from sidechain.errors import InvalidEncoding
from sidechain.primitives.block import Block, BlockHeader
from sidechain.primitives.encoding import Reader
from sidechain.primitives.merkle_proof import build_partial_tree, read_partial_tree
from sidechain.primitives.transaction import OutPoint


class ProofMethods:
    """Reads a chain; changes nothing."""

    def __init__(self, chain: Chain, *, indexed: bool = True) -> None:
        """
        Args:
            indexed: whether a transaction is found that has no coin left.
        """
        self._chain = chain
        self._indexed = indexed

    def register(self, registry: Registry) -> None:
        """Offer the methods."""
        add = registry.add
        add("gettxoutproof", self.gettxoutproof, "Prove that a block has transactions.")
        add("verifytxoutproof", self.verifytxoutproof, "Txids that a proof proves.")

    def gettxoutproof(self, txids: Any, blockhash: Any = None) -> str:
        """Prove that a block has transactions: its header and a partial merkle tree."""
        wanted: dict[bytes, None] = {}
        texts = array_argument(txids)
        if not texts:
            raise RpcError(INVALID_PARAMETER, "Parameter 'txids' cannot be empty")
        for text in texts:
            txid = hash_argument(text, "txid")
            if txid in wanted:
                raise RpcError(INVALID_PARAMETER, f"Invalid parameter, duplicated txid: {text}")
            wanted[txid] = None
        block = self._block(list(wanted), blockhash)
        ids = [tx.txid for tx in block.transactions]
        chosen = [position for position, txid in enumerate(ids) if txid in wanted]
        if len(chosen) != len(wanted):
            raise RpcError(
                INVALID_ADDRESS_OR_KEY,
                "Not all transactions found in specified or retrieved block",
            )
        # elementsd's proofs leave the signatures of a dynamic federation's block out.
        header = replace(block.header, signblock_witness=())
        return (header.serialize() + build_partial_tree(ids, chosen)).hex()

    def _block(self, txids: list[bytes], blockhash: Any) -> Block:
        chain = self._chain
        if blockhash is None:
            return chain.block(self._height(txids))
        wanted = hash_argument(blockhash, "blockhash")
        height = chain.height_of(wanted)
        if height is not None:
            return chain.block(height)
        node = chain.branches.node(wanted)
        if node is None:
            raise RpcError(INVALID_ADDRESS_OR_KEY, "Block not found")
        if not node.has_data:
            raise RpcError(MISC_ERROR, "Block not available (not fully downloaded)")
        return chain.branches.side_block(wanted)

    def _height(self, txids: list[bytes]) -> int:
        """Of the block of the first transaction that has a coin left; with an index of any."""
        for txid in txids:
            found = self._chain.find_transaction(txid)
            if found is None:
                continue
            tx, height = found
            outpoints = (OutPoint(txid, index) for index in range(len(tx.outputs)))
            if self._indexed or any(self._chain.coin(each) is not None for each in outpoints):
                return height
        raise RpcError(INVALID_ADDRESS_OR_KEY, "Transaction not yet in block")

    def verifytxoutproof(self, proof: Any) -> list[str]:
        """Txids that a proof proves of a block of this chain; none where it does not hold."""
        reader = Reader(hex_argument(proof, "proof"))
        try:
            header = BlockHeader.read(reader, self._chain.params)
        except InvalidEncoding as error:
            raise RpcError(MISC_ERROR, "DataStream::read(): end of data: iostream error") from error
        try:
            tree = read_partial_tree(reader)
        except InvalidEncoding:
            return []
        if tree.root != header.merkle_root:
            return []
        height = self._chain.height_of(header.hash)
        if height is None:
            raise RpcError(INVALID_ADDRESS_OR_KEY, "Block not found in chain")
        if len(self._chain.block(height).transactions) != tree.tx_count:
            return []
        return [txid[::-1].hex() for _, txid in tree.matches]
