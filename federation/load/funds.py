"""Money for measurements: a wallet of their own, filled by a peg-in when it holds too little."""

import asyncio
from collections.abc import Callable
from typing import Final

from federation.cli_session import Failed
from federation.local import LocalFederation
from federation.local_state import FAUCET_WALLET, LocalState
from peg.bitcoind import amount_text
from sidechain.api.client import RpcClient, RpcError
from sidechain.primitives.transaction import Transaction

POLL_S: Final = 0.2
FUNDING_TIMEOUT_S: Final = 120
PAYMENT_FEE_SATS: Final = 100_000
"""Room for the fee of the payment that leaves the wallet."""


class Funds:
    """The wallet of one kind of measurement; users' wallets are left alone.

    Args:
        wallet: its name.
        member: whom to send transactions to, and to ask about them.
        tell: is told what is waited for.
    """

    def __init__(
        self,
        federation: LocalFederation,
        state: LocalState,
        *,
        wallet: str,
        member: RpcClient,
        tell: Callable[[str], None],
    ) -> None:
        self._federation = federation
        self._state = state
        self._wallet = wallet
        self._member = member
        self._tell = tell

    async def pay(self, address: str, value_sats: int) -> Transaction:
        """Pay to an address; the final transaction.

        Raises:
            Failed: it cannot be paid for, or did not become final in time.
            RpcError, Unavailable, BitcoindError: whoever refuses.
        """
        async with self._federation.wallet_client(self._state) as wallets:
            await self.fill(wallets, value_sats + PAYMENT_FEE_SATS)
            txid = await wallets.call(
                "sendtoaddress", self._wallet, address, amount_text(value_sats)
            )
        return await self.until_final(bytes.fromhex(txid)[::-1])

    async def until_final(self, txid: bytes) -> Transaction:
        """Wait until a block has a transaction.

        Raises:
            Failed: it takes too long.
        """
        shown = txid[::-1].hex()
        loop = asyncio.get_running_loop()
        give_up_s = loop.time() + FUNDING_TIMEOUT_S
        height = int(await self._member.call("getblockcount"))
        while loop.time() < give_up_s:
            try:
                found = await self._member.call("getrawtransaction", shown, True)
            except RpcError:
                found = {}  # the member we ask has not heard of it yet
            if "blockhash" in found:
                return Transaction.decode(bytes.fromhex(found["hex"]))
            await self._member.call("waitforblockheight", height + 1, 1_000)
            height = int(await self._member.call("getblockcount"))
        raise Failed(f"transaction {shown} did not become final in time")

    async def fill(self, wallets: RpcClient, need_sats: int) -> None:
        """Have so much in the wallet."""
        known = [
            str(e["name"] if isinstance(e, dict) else e) for e in await wallets.call("listwallets")
        ]
        if self._wallet not in known:
            await wallets.call("createwallet", self._wallet)
        elif (await wallets.call("getbalances", self._wallet))["available_sats"] >= need_sats:
            return
        value = amount_text(2 * need_sats)
        self._tell(f"pegging in {value} for wallet {self._wallet}")
        begun = await wallets.call("pegin", self._wallet, value, True)
        await self._follow_pegin(wallets, str(begun["id"]))

    async def _follow_pegin(self, wallets: RpcClient, pegin_id: str) -> None:
        try:
            async with (
                self._federation.bitcoind_client(self._state) as bitcoind,
                asyncio.timeout(FUNDING_TIMEOUT_S),
            ):
                while (view := await wallets.call("getpegin", pegin_id))["stage"] != "final":
                    if view["stage"] == "failed":
                        raise Failed(f"the peg-in that funds the payments: {view['reason']}")
                    if view["stage"] in ("funded", "confirming"):
                        await bitcoind.generate(1, await bitcoind.new_address(FAUCET_WALLET))
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            raise Failed(f"the peg-in {pegin_id} did not become final in time") from None
