"""Commands about assets: issue, reissue, burn, list, label."""

from pathlib import Path
from typing import Any

import click

from federation.cli_passphrase import passphrase_file_option, unlocked
from federation.cli_session import Amount, Session, command, show_btc
from peg.bitcoind import amount_text


def register(group: click.Group) -> None:
    """Add the commands to the program."""

    @group.group("asset")
    def asset_group() -> None:
        """Assets of one's own on the sidechain."""

    _register_issue(asset_group)
    _register_reissue(asset_group)
    _register_burn(asset_group)
    _register_reading(asset_group)


def _register_issue(group: click.Group) -> None:
    @command(group, "issue")
    @click.argument("wallet")
    @click.argument("amount", type=Amount())
    @click.option(
        "--tokens",
        type=Amount(),
        default=0,
        help="Reissuance tokens: who holds one can issue more. [default: none]",
    )
    @click.option("--explicit", is_flag=True, help="Show everybody how much is issued.")
    @click.option("--contract-hash", default="", help="32 bytes in hex that the id commits to.")
    @click.option("--label", default="", help="What this wallet process calls the asset.")
    @passphrase_file_option
    async def issue(
        session: Session,
        *,
        wallet: str,
        amount: int,
        tokens: int,
        explicit: bool,
        contract_hash: str,
        label: str,
        passphrase_file: Path | None,
    ) -> None:
        """Issue AMOUNT of a new asset to a wallet; amounts have eight decimals."""
        async with session.wallets() as wallets, unlocked(wallets, wallet, passphrase_file):
            made = await wallets.call(
                "issueasset",
                wallet,
                amount_text(amount),
                amount_text(tokens),
                explicit,
                contract_hash,
                label,
            )
        session.output.result(made, made["asset"])


def _register_reissue(group: click.Group) -> None:
    @command(group, "reissue")
    @click.argument("wallet")
    @click.argument("asset")
    @click.argument("amount", type=Amount())
    @passphrase_file_option
    async def reissue(
        session: Session, *, wallet: str, asset: str, amount: int, passphrase_file: Path | None
    ) -> None:
        """Issue AMOUNT more of an asset (id or label) that the wallet has a token of."""
        async with session.wallets() as wallets, unlocked(wallets, wallet, passphrase_file):
            made = await wallets.call("reissueasset", wallet, asset, amount_text(amount))
        session.output.result(made, made["txid"])


def _register_burn(group: click.Group) -> None:
    @command(group, "burn")
    @click.argument("wallet")
    @click.argument("asset")
    @click.argument("amount", type=Amount())
    @passphrase_file_option
    async def burn(
        session: Session, *, wallet: str, asset: str, amount: int, passphrase_file: Path | None
    ) -> None:
        """Destroy AMOUNT of an asset (id or label); everybody can see how much.

        Bitcoin is not burned but paid out: `fedpeg peg out`.
        """
        async with session.wallets() as wallets, unlocked(wallets, wallet, passphrase_file):
            txid = await wallets.call("destroyamount", wallet, asset, amount_text(amount))
        session.output.result({"txid": txid, "asset": asset, "amount_sats": amount}, str(txid))


def _register_reading(group: click.Group) -> None:
    @command(group, "list")
    @click.argument("wallet")
    async def list_issuances(session: Session, *, wallet: str) -> None:
        """List what a wallet issued and reissued."""
        async with session.wallets() as wallets:
            found = await wallets.call("listissuances", wallet)
        session.output.result(
            {"wallet": wallet, "issuances": found},
            "\n".join(_line(item) for item in found) or "nothing issued yet",
        )

    @command(group, "label")
    @click.argument("asset")
    @click.argument("label")
    async def label_asset(session: Session, *, asset: str, label: str) -> None:
        """Give an asset a name, to use in place of its id."""
        async with session.wallets() as wallets:
            found = await wallets.call("labelasset", asset, label)
        session.output.result(found, f"{found['asset']} is {found['label']}")


def _line(item: dict[str, Any]) -> str:
    amount = "hidden" if item["asset_sats"] is None else show_btc(item["asset_sats"])
    kind = "reissued" if item["is_reissuance"] else "issued"
    return f"{item['asset']}  {kind:<8} {amount:>16}  {item['label'] or ''}".rstrip()
