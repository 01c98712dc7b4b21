"""Commands about deposit addresses, those of users who will not be there to claim too."""

from typing import Any

import click

from federation.cli_session import Failed, Session, command, show_btc


def register(group: click.Group) -> None:
    """Add the commands to `fedpeg peg`."""
    _register_address(group)
    _register_register(group)


def only_wallet(names: list[str]) -> str:
    """The wallet that is meant when none is named.

    Raises:
        Failed: there is none. click.UsageError: there are several.
    """
    if not names:
        raise Failed("there is no wallet yet: `fedpeg wallet create NAME` makes one")
    if len(names) > 1:
        raise click.UsageError(f"name a wallet with --to: there are {', '.join(names)}")
    return names[0]


def address_text(found: dict[str, Any]) -> str:
    """A deposit address with what a depositor must know."""
    before = found.get("claim_before_height")
    expiry = "" if before is None else f"; valid for claims below sidechain block {before} at least"
    by = "by itself" if found.get("max_fee_sats") is None else "by the members"
    lines = [
        found["address"],
        f"at least {show_btc(found['min_pegin_sats'])}; claimed {by} at "
        f"{found['required_confirmations']} confirmations; deposits older than "
        f"{found['claim_within_blocks']} blocks cannot be claimed{expiry}",
    ]
    if found.get("max_fee_sats") is not None:
        lines.append(
            f"each deposit costs at most {show_btc(found['max_fee_sats'])}; the rest reaches "
            f"{found['to']} in plain, and nobody has to be there; {found['members']} members know"
        )
    return "\n".join(lines)


_max_fee_option = click.option(
    "--max-fee",
    type=click.IntRange(min=1),
    metavar="SATS",
    help="Most that the claim of one deposit may cost, satoshis. [default: 2000]",
)
_key_option = click.option(
    "--internal-key",
    metavar="HEX",
    help="An x-only key of your own that may claim with a signature too, 32 bytes.",
)


def _register_address(group: click.Group) -> None:
    @command(group, "address", short_help="Show a Bitcoin deposit address.")
    @click.option(
        "--to",
        metavar="WALLET|ADDRESS",
        help="Who gets the coins: a wallet, or a sidechain address. [default: the only wallet]",
    )
    @click.option("--keyless", is_flag=True, help="Members claim; no wallet has to run for it.")
    @_max_fee_option
    @_key_option
    async def address(
        session: Session,
        *,
        to: str | None,
        keyless: bool,
        max_fee: int | None,
        internal_key: str | None,
    ) -> None:
        """Show a Bitcoin address; what is paid to it is minted for a wallet or an address.

        Pay it from any Bitcoin wallet or exchange. The wallet process claims each deposit when it
        is deep enough.

        With --keyless the members of the federation claim instead, and nobody has to be online
        but them: the address commits to the receiver, so that no claim can pay anybody else. They
        may take up to --max-fee of each deposit for the network fee. The coins arrive unblinded.
        """
        if not keyless and (max_fee is not None or internal_key is not None):
            raise click.UsageError("--max-fee and --internal-key go with --keyless")
        async with session.wallets() as wallets:
            target = to or only_wallet(await wallets.call("listwallets"))
            if keyless:
                found = await wallets.call("getkeylessaddress", target, max_fee, internal_key)
            else:
                found = await wallets.call("getpeginaddress", target)
        session.output.result(found, address_text(found))


def _register_register(group: click.Group) -> None:
    @command(group, "register", short_help="Tell the members of a keyless address again.")
    @click.argument("to", metavar="ADDRESS")
    @_max_fee_option
    @_key_option
    async def register_again(
        session: Session, *, to: str, max_fee: int | None, internal_key: str | None
    ) -> None:
        """Tell the members again for whom a keyless deposit address is.

        ADDRESS is the Bitcoin deposit address, if it was made here; else the sidechain address it
        was made for, with the same --max-fee and --internal-key. Members keep what they are told
        and tell each other: this is for when all of them lost it. Deposits made meanwhile are
        found.
        """
        async with session.wallets() as wallets:
            found = await wallets.call("registerkeyless", to, max_fee, internal_key)
        session.output.result(found, address_text(found))
