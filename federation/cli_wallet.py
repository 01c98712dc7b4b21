"""Commands about money: wallets, payments on the sidechain, regtest bitcoin from the faucet."""

from pathlib import Path
from typing import Any

import click

from federation.cli_passphrase import (
    mnemonic_words,
    new_passphrase,
    passphrase_file_option,
    unlocked,
)
from federation.cli_session import JSON_WAIT_HELP, Amount, Failed, Session, command, show_btc
from federation.cli_tables import balance_text, history_line
from federation.cli_wait import Patience, wait_payment
from federation.local_state import FAUCET_WALLET
from peg.bitcoind import BitcoindClient, BitcoindError, amount_text, to_hex

CODE_INSUFFICIENT_FUNDS = -6
HISTORY_MAX = 10_000
BITCOIN_PREFIXES = ("bc1", "tb1", "bcrt1")
SIDECHAIN_PREFIXES = ("ert1", "el1")


def register(group: click.Group) -> click.Group:
    """Add the commands to the program; the group of wallets, for more of them."""
    wallet_group = _register_wallets(group)
    _register_faucet(group)
    _register_pay(group)
    return wallet_group


def _register_wallets(group: click.Group) -> click.Group:
    @group.group("wallet")
    def wallet_group() -> None:
        """Wallets for the sidechain's coins."""

    _register_making(wallet_group)
    _register_reading(wallet_group)
    return wallet_group


def _register_making(group: click.Group) -> None:
    @command(group, "create")
    @click.argument("name")
    @click.option("--encrypt", is_flag=True, help="Ask for a passphrase to encrypt the seed with.")
    @passphrase_file_option
    async def create(
        session: Session, *, name: str, encrypt: bool, passphrase_file: Path | None
    ) -> None:
        """Create a wallet from a fresh seed.

        The seed is encrypted if a passphrase is given, by --encrypt, a file or the environment.
        """
        async with session.wallets() as wallets:
            passphrase = new_passphrase(passphrase_file, encrypt=encrypt)
            made = await wallets.call("createwallet", name, passphrase)
        how = "encrypted" if made["encrypted"] else "not encrypted"
        session.output.result(made, f"wallet {made['name']} is made, {how}")

    @command(group, "restore")
    @click.argument("name")
    @click.option(
        "--mnemonic-file",
        type=click.Path(path_type=Path, exists=True, dir_okay=False),
        help="File with the words. [or a prompt]",
    )
    @click.option("--encrypt", is_flag=True, help="Ask for a passphrase to encrypt the seed with.")
    @passphrase_file_option
    async def restore(
        session: Session,
        *,
        name: str,
        mnemonic_file: Path | None,
        encrypt: bool,
        passphrase_file: Path | None,
    ) -> None:
        """Make a wallet from the words of a BIP39 mnemonic.

        Coins that the words already have on this sidechain are found by looking through all of it.
        """
        words = mnemonic_words(mnemonic_file)
        async with session.wallets() as wallets:
            passphrase = new_passphrase(passphrase_file, encrypt=encrypt)
            made = await wallets.call("restorewallet", name, words, passphrase)
        how = "encrypted" if made["encrypted"] else "not encrypted"
        session.output.result(made, f"wallet {made['name']} is restored, {how}")

    @command(group, "address")
    @click.argument("name")
    @click.option(
        "--explicit", is_flag=True, help="The plain form: what it is paid is visible to all."
    )
    async def address(session: Session, *, name: str, explicit: bool) -> None:
        """Show a fresh sidechain address of a wallet, confidential unless told otherwise."""
        async with session.wallets() as wallets:
            found = await wallets.call("getnewaddress", name, explicit)
        session.output.result({"wallet": name, "address": found}, str(found))


def _register_reading(group: click.Group) -> None:
    @command(group, "list")
    async def list_wallets(session: Session) -> None:
        """List the wallets with what they hold."""
        async with session.wallets() as wallets:
            found = []
            for name in await wallets.call("listwallets"):
                info = await wallets.call("getwalletinfo", name)
                balance = await wallets.call("getbalances", name)
                found.append({**info, "available_sats": balance["available_sats"]})
        lines = [
            f"{w['name']:<20} {show_btc(w['available_sats']):>14}"
            f"{'  encrypted' if w['encrypted'] else ''}"
            for w in found
        ]
        session.output.result({"wallets": found}, "\n".join(lines) or "no wallets yet")

    @command(group, "balance")
    @click.argument("name")
    async def balance(session: Session, *, name: str) -> None:
        """Show what a wallet holds: bitcoin first, then every other asset on a line of its own."""
        async with session.wallets() as wallets:
            found = await wallets.call("getbalances", name)
        session.output.result(found, balance_text(found))

    @command(group, "history")
    @click.argument("name")
    @click.option(
        "-n",
        "--count",
        type=click.IntRange(1, HISTORY_MAX),
        default=100,
        show_default=True,
        help="How many.",
    )
    async def history(session: Session, *, name: str, count: int) -> None:
        """Show the newest transactions of a wallet, oldest of them first."""
        async with session.wallets() as wallets:
            entries = await wallets.call("listtransactions", name, count)
        session.output.result(
            {"wallet": name, "transactions": entries},
            "\n".join(history_line(entry) for entry in entries) or "no transactions yet",
        )


def _register_faucet(group: click.Group) -> None:
    @command(group, "faucet")
    @click.argument("address")
    @click.argument("amount", type=Amount())
    @click.option("--confirm", is_flag=True, help="Mine a block, so that it is confirmed.")
    async def faucet(session: Session, *, address: str, amount: int, confirm: bool) -> None:
        """Send regtest bitcoin to a Bitcoin address."""
        async with session.bitcoind() as bitcoind:
            await check_bitcoin_address(bitcoind, address)
            try:
                txid = await bitcoind.send_to_address(FAUCET_WALLET, address, amount)
            except BitcoindError as error:
                if error.code != CODE_INSUFFICIENT_FUNDS or "too small" in error.message:
                    raise
                held = await bitcoind.wallet_balance_sats(FAUCET_WALLET)
                raise Failed(
                    f"the faucet holds {show_btc(held)} that can be spent: "
                    "`fedpeg mine 101` makes more"
                ) from error
            if confirm:
                await bitcoind.generate(1, await bitcoind.new_address(FAUCET_WALLET))
        session.output.result(
            {"txid": to_hex(txid), "amount_sats": amount, "confirmed": confirm}, to_hex(txid)
        )


async def check_bitcoin_address(bitcoind: BitcoindClient, address: str) -> bytes:
    """The script of a Bitcoin address of the federation's parent chain.

    Raises:
        Failed: it is none; says what it looks like instead.
    """
    script = await bitcoind.address_script(address)
    if script is not None:
        return script
    if address.startswith(SIDECHAIN_PREFIXES):
        raise Failed(f"{address} is a sidechain address, not a Bitcoin one: try `fedpeg pay`")
    raise Failed(f"{address} is not an address of this Bitcoin network (regtest)")


def _register_pay(group: click.Group) -> None:
    @command(group, "pay", json_help=JSON_WAIT_HELP)
    @click.argument("wallet", metavar="FROM")
    @click.argument("address")
    @click.argument("amount", type=Amount())
    @click.option("--asset", default="", help="Id or label of the asset. [default: bitcoin]")
    @click.option("--wait", is_flag=True, help="Wait until it is final.")
    @passphrase_file_option
    async def pay(
        session: Session,
        *,
        wallet: str,
        address: str,
        amount: int,
        asset: str,
        wait: bool,
        passphrase_file: Path | None,
    ) -> None:
        """Pay a sidechain address from a wallet.

        A confidential address (el1…) is paid blinded: others see neither amount nor asset.
        """
        if address.startswith(BITCOIN_PREFIXES):
            raise Failed(
                f"{address} is a Bitcoin address, not a sidechain one: try `fedpeg peg out`"
            )
        session.output.streams = wait
        async with session.wallets() as wallets:
            async with unlocked(wallets, wallet, passphrase_file):
                txid = await wallets.call(
                    "sendtoaddress", wallet, address, amount_text(amount), asset
                )
            found: dict[str, Any] = {"txid": txid, "amount_sats": amount}
            if wait:
                found["height"] = await wait_payment(Patience(session, wallets), wallet, txid)
        session.output.result(found, str(txid))
