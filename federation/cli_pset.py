"""Commands about PSETs (`fedpeg wallet pset …`) and descriptors."""

import sys
from pathlib import Path
from typing import Any

import click

from federation.cli_passphrase import passphrase_file_option, unlocked
from federation.cli_session import Amount, Failed, Session, command, show_btc
from peg.bitcoind import amount_text

PSET_BYTES_MAX = 8_000_000

_pset_argument = click.argument("pset", metavar="FILE")


def register(wallet_group: click.Group) -> None:
    """Add the commands to the group of wallets."""
    _register_descriptors(wallet_group)

    @wallet_group.group("pset")
    def pset_group() -> None:
        """Transactions that are signed step by step, or elsewhere.

        FILE holds the base64 text of a PSET; - is standard input.
        """

    _register_making(pset_group)
    _register_joining(pset_group)


def read_pset(file: str) -> str:
    """The text of a file, or of standard input for "-".

    Raises:
        Failed: it cannot be read, or holds nothing that could be a PSET.
    """
    try:
        text = sys.stdin.read(PSET_BYTES_MAX) if file == "-" else Path(file).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise Failed(f"cannot read {file}: {error}") from error
    if not text.strip() or len(text) >= PSET_BYTES_MAX:
        raise Failed(f"{file} holds no PSET")
    return text.strip()


def _register_descriptors(group: click.Group) -> None:
    @command(group, "descriptor")
    @click.argument("name")
    @click.option(
        "--explicit", is_flag=True, help="Without the blinding key, which shows all amounts."
    )
    async def descriptor(session: Session, *, name: str, explicit: bool) -> None:
        """Show the descriptor of a wallet, with which other programs can watch it."""
        async with session.wallets() as wallets:
            found = await wallets.call("getdescriptor", name, explicit)
        session.output.result(found, found["descriptor"])

    @command(group, "watch")
    @click.argument("name")
    @click.argument("descriptor")
    async def watch(session: Session, *, name: str, descriptor: str) -> None:
        """Watch the wallet of a descriptor: ct(slip77(…),elwpkh(…)), or elwpkh(…) alone.

        It receives and shows balances; payments are made as PSETs and signed elsewhere.
        """
        async with session.wallets() as wallets:
            made = await wallets.call("importdescriptor", name, descriptor)
        session.output.result(made, f"wallet {made['name']} watches")


def _register_making(group: click.Group) -> None:
    @command(group, "create")
    @click.argument("wallet", metavar="FROM")
    @click.argument("address")
    @click.argument("amount", type=Amount())
    @click.option("--asset", default="", help="Id or label of the asset. [default: bitcoin]")
    async def create(
        session: Session, *, wallet: str, address: str, amount: int, asset: str
    ) -> None:
        """Make a payment as a PSET, blinded and unsigned; its coins are not set aside."""
        async with session.wallets() as wallets:
            made = await wallets.call("createpset", wallet, address, amount_text(amount), asset)
        session.output.result(made, made["pset"])

    @command(group, "show")
    @click.argument("wallet")
    @_pset_argument
    async def show(session: Session, *, wallet: str, pset: str) -> None:
        """Show what a PSET pays, and what it does to a wallet."""
        text = read_pset(pset)
        async with session.wallets() as wallets:
            found = await wallets.call("showpset", wallet, text)
        session.output.result(found, _view_text(found))

    @command(group, "sign")
    @click.argument("wallet")
    @_pset_argument
    @passphrase_file_option
    async def sign(
        session: Session, *, wallet: str, pset: str, passphrase_file: Path | None
    ) -> None:
        """Add the signatures of a wallet to a PSET."""
        text = read_pset(pset)
        async with session.wallets() as wallets, unlocked(wallets, wallet, passphrase_file):
            made = await wallets.call("signpset", wallet, text)
        if not made["signed"]:
            raise Failed(f"no input of this PSET is for wallet {wallet} to sign")
        session.output.result(made, made["pset"])


def _register_joining(group: click.Group) -> None:
    @command(group, "combine")
    @click.argument("psets", metavar="FILE...", nargs=-1, required=True)
    async def combine(session: Session, *, psets: tuple[str, ...]) -> None:
        """Put the signatures of several copies of a PSET together."""
        texts = [read_pset(file) for file in psets]
        async with session.wallets() as wallets:
            made = await wallets.call("combinepsets", texts)
        session.output.result(made, made["pset"])

    @command(group, "finalize")
    @_pset_argument
    async def finalize(session: Session, *, pset: str) -> None:
        """Show the transaction of a PSET in hex, once every input is signed."""
        text = read_pset(pset)
        async with session.wallets() as wallets:
            made = await wallets.call("finalizepset", text)
        if not made["complete"]:
            raise Failed("not every input of this PSET is signed")
        session.output.result(made, made["hex"])

    @command(group, "send")
    @_pset_argument
    async def send(session: Session, *, pset: str) -> None:
        """Send the transaction of a PSET whose inputs are all signed."""
        text = read_pset(pset)
        async with session.wallets() as wallets:
            txid = await wallets.call("sendpset", text)
        session.output.result({"txid": txid}, str(txid))


def _view_text(found: dict[str, Any]) -> str:
    lines = [f"transaction {found['txid']}, fee {show_btc(found['fee_sats'])}"]
    for output in found["outputs"]:
        amount = "hidden" if output["amount_sats"] is None else show_btc(output["amount_sats"])
        asset = output["label"] or output["asset"] or ""
        own = " (own)" if output["own"] else ""
        lines.append(f"pays {output['address'] or 'nobody'}: {amount} {asset}{own}".rstrip())
    for change in found["wallet"]:
        sign = "-" if change["amount_sats"] < 0 else "+"
        amount = show_btc(abs(change["amount_sats"]))
        lines.append(f"this wallet: {sign}{amount} {change['label'] or change['asset']}")
    signed = sum(bool(item["signatures"] or item["final"]) for item in found["inputs"])
    lines.append(f"{signed} of {len(found['inputs'])} inputs signed")
    return "\n".join(lines)
