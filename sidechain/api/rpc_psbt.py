"""RPC methods that complete partially signed transactions: coins, signatures, final witnesses.

Source: elements/interfaces.md 3, BIP 174, Elements' doc/pset.mediawiki.
"""

from typing import Any

from sidechain.api.arguments import array_argument, flag_argument, text_argument
from sidechain.api.pset_analysis import analysis
from sidechain.api.pset_merge import combine
from sidechain.api.pset_signing import Provider, PsetSigner, update_output
from sidechain.api.pset_transaction import final_transaction, read_pset
from sidechain.api.registry import INVALID_PARAMETER, Registry, RpcError
from sidechain.api.rpc_build import hash_type_argument
from sidechain.api.rpc_descriptors import DescriptorMethods
from sidechain.chain import Chain
from sidechain.primitives.pset import FieldMap, Pset
from sidechain.primitives.transaction import TxOut
from sidechain.script.script import is_p2sh, witness_program


class PsbtMethods:
    """Reads coins of a chain where a transaction's are asked for; changes nothing."""

    def __init__(
        self, chain: Chain, descriptors: DescriptorMethods, *, indexed: bool = True
    ) -> None:
        """
        Args:
            descriptors: reads descriptors.
            indexed: whether transactions of blocks are found by txid alone (`-txindex`).
        """
        self._chain = chain
        self._descriptors = descriptors
        self._indexed = indexed

    def register(self, registry: Registry) -> None:
        """Offer the methods."""
        add = registry.add
        add("combinepsbt", self.combinepsbt, "Put copies of a PSET together.")
        add("finalizepsbt", self.finalizepsbt, "Turn complete signatures into witnesses.")
        add("utxoupdatepsbt", self.utxoupdatepsbt, "Add what chain and descriptors know.")
        add("analyzepsbt", self.analyzepsbt, "What a PSET still needs.")
        add(
            "descriptorprocesspsbt",
            self.descriptorprocesspsbt,
            "Add what chain and descriptors know, and sign with their keys.",
        )

    def combinepsbt(self, txs: Any) -> str:
        """Put copies of a PSET together."""
        texts = array_argument(txs)
        if not texts:
            raise RpcError(INVALID_PARAMETER, "Parameter 'txs' cannot be empty")
        params = self._chain.params
        return combine([read_pset(text_argument(text), params) for text in texts]).text()

    def finalizepsbt(self, psbt: Any, extract: Any = None) -> dict[str, Any]:
        """Turn complete signatures into witnesses; the transaction once all are."""
        params = self._chain.params
        pset = read_pset(text_argument(psbt), params)
        wants_transaction = flag_argument(extract, True)
        signer = PsetSigner(pset, params, Provider())
        done = [
            signer.sign(position, finalize=True).is_complete for position in range(len(pset.inputs))
        ]
        complete = all(done)
        if complete and wants_transaction:
            return {"hex": final_transaction(pset).raw.hex(), "complete": True}
        return {"psbt": pset.text(), "complete": complete}

    def analyzepsbt(self, psbt: Any) -> dict[str, Any]:
        """What a PSET still needs, and who comes next."""
        params = self._chain.params
        return analysis(read_pset(text_argument(psbt), params), params)

    def utxoupdatepsbt(self, psbt: Any, descriptors: Any = None) -> str:
        """Add what the inputs spend, and what descriptors know of keys and scripts."""
        provider = Provider()
        if descriptors is not None:
            for item in array_argument(descriptors):
                self._descriptors.provide(item, provider)
        provider.secrets.clear()
        pset = read_pset(text_argument(psbt), self._chain.params)
        self._process(pset, provider, hash_type=1, finalize=False)
        return pset.text()

    def descriptorprocesspsbt(
        self,
        psbt: Any,
        descriptors: Any,
        sighashtype: Any = None,
        bip32derivs: Any = None,
        finalize: Any = None,
    ) -> dict[str, Any]:
        """Add what chain and descriptors know, sign with their keys, and finalize."""
        provider = Provider()
        for item in array_argument(descriptors):
            self._descriptors.provide(item, provider)
        hash_type = hash_type_argument(sighashtype)
        if not flag_argument(bip32derivs, True):
            provider.origins.clear()
        finalizes = flag_argument(finalize, True)
        params = self._chain.params
        pset = read_pset(text_argument(psbt), params)
        self._process(pset, provider, hash_type=hash_type, finalize=finalizes)
        complete = all(found.is_final for found in pset.inputs)
        shown = {"psbt": pset.text(), "complete": complete}
        if complete:
            shown["hex"] = final_transaction(pset).raw.hex()
        return shown

    def _process(self, pset: Pset, provider: Provider, *, hash_type: int, finalize: bool) -> None:
        params = self._chain.params
        for found in pset.inputs:
            self._add_spent(found, provider)
        signer = PsetSigner(pset, params, provider, hash_type=hash_type)
        for position, found in enumerate(pset.inputs):
            if not found.is_final:
                signer.sign(position, finalize=finalize)
        for found in pset.outputs:
            update_output(found, params, provider)
        if all(_is_later_segwit(found) for found in pset.inputs):
            for found in pset.inputs:
                found.values.pop("non_witness_utxo", None)

    def _add_spent(self, found: FieldMap, provider: Provider) -> None:
        """Add the transaction an input spends of, or at least a segwit output."""
        if found.get("non_witness_utxo"):
            return
        chain, outpoint = self._chain, found.outpoint
        entry = chain.mempool.get(outpoint.txid)
        known = None if entry is not None else chain.find_transaction(outpoint.txid)
        if entry is not None or (known is not None and self._indexed):
            tx = entry.tx if entry is not None else known[0] if known is not None else None
            if tx is not None:
                found.values["non_witness_utxo"] = tx.raw
        elif known is not None and chain.coin(outpoint) is not None:
            output = known[0].outputs[outpoint.index]
            inner = provider.scripts.get(output.script[2:22]) if is_p2sh(output.script) else None
            if witness_program(inner or output.script) is not None:
                found.values["witness_utxo"] = output.serialize()


def _is_later_segwit(found: FieldMap) -> bool:
    """Whether an input spends a segwit output above version 0."""
    if not found.get("witness_utxo"):
        return False
    program = witness_program(TxOut.decode(found.get("witness_utxo")).script)
    return program is not None and program[0] > 0
