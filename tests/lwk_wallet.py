"""A wallet of the package lwk, as its documentation tells a user to open one."""

from dataclasses import dataclass
from typing import Self

import lwk


@dataclass(slots=True)
class LwkWallet:
    """Keys, wallet and client. Every method that asks the server blocks."""

    network: lwk.Network
    signer: lwk.Signer
    wallet: lwk.Wollet
    client: lwk.EsploraClient

    @classmethod
    def open(
        cls, url: str, *, policy_asset: str, genesis_hash: str, parent_genesis_hash: str, words: str
    ) -> Self:
        """Open the wallet of a mnemonic; nothing is asked yet.

        Args:
            policy_asset, genesis_hash, parent_genesis_hash: as `fedpeg env` prints them.
        """
        builder = lwk.CustomElementsNetworkBuilder()
        builder.with_policy_asset(policy_asset)
        builder.with_genesis_hash(genesis_hash)
        builder.with_parent_genesis_hash(parent_genesis_hash)
        network = builder.build()
        signer = lwk.Signer(lwk.Mnemonic(words), network)
        wallet = lwk.Wollet(network, signer.wpkh_slip77_descriptor(), datadir=None)
        return cls(network, signer, wallet, lwk.EsploraClient(url, network))

    def address(self) -> str:
        """The next address that was not used yet: confidential."""
        return str(self.wallet.address(None).address())

    def balance_sats(self) -> int:
        """What lwk counts as ours after a scan, in the policy asset."""
        update = self.client.full_scan(self.wallet)
        if update is not None:
            self.wallet.apply_update(update)
        return int(self.wallet.balance()[self.network.policy_asset()])

    def heights(self) -> dict[str, int | None]:
        """Transactions known since the last scan, newest first, with their heights."""
        return {str(tx.txid()): tx.height() for tx in self.wallet.transactions()}

    def pay(self, address: str, value_sats: int, fee_rate_sats_per_kvb: int | None = None) -> str:
        """Send; None takes lwk's own fee rate. Returns the txid."""
        builder = self.network.tx_builder()
        builder.add_lbtc_recipient(lwk.Address(address), value_sats)
        rate = None if fee_rate_sats_per_kvb is None else float(fee_rate_sats_per_kvb)
        builder.fee_rate(rate)
        signed = self.wallet.finalize(self.signer.sign(builder.finish(self.wallet)))
        return str(self.client.broadcast(signed.extract_tx()))

    def fee_sats(self, txid: str) -> int:
        """What one of our transactions paid."""
        (found,) = [tx.fee() for tx in self.wallet.transactions() if str(tx.txid()) == txid]
        return int(found)
