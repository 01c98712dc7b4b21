"""Commands about the peg: deposits, payouts, their status, and who signed the blocks."""

from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import click

from federation import cli_deposits, cli_records
from federation.cli_deposits import address_text, only_wallet
from federation.cli_passphrase import passphrase_file_option, unlocked
from federation.cli_proofs import write_proof
from federation.cli_session import JSON_WAIT_HELP, Amount, Failed, Session, command, show_btc
from federation.cli_tables import blocks_table, peg_notes
from federation.cli_wait import (
    ParentMiner,
    Patience,
    describe_pegin,
    describe_pegout,
    pegout_lines,
    wait_pegin,
    wait_pegout,
)
from federation.cli_wallet import check_bitcoin_address
from federation.local import LocalFederation
from federation.local_state import FAUCET_WALLET, LocalError, LocalState
from peg.bitcoind import amount_text
from sidechain.api.client import RpcClient, RpcError
from sidechain.errors import Unavailable

CODE_INVALID_PARAMETER = -8
CODE_NOT_FOUND = -5
BLOCKS_SHOWN_MAX = 1_000
ASK_TIMEOUT_S = 10

_wait_option = click.option("--wait", is_flag=True, help="Show every stage and wait for the end.")
_mine_option = click.option(
    "--no-mine", is_flag=True, help="Leave mining to others while waiting (`fedpeg mine`)."
)
_new_option = click.option(
    "--new", is_flag=True, help="Start another one even if an equal one is unfinished."
)


def register(group: click.Group) -> None:
    """Add the commands to the program."""

    @group.group("peg")
    def peg_group() -> None:
        """Bring bitcoin to the sidechain and back."""

    _register_in(peg_group)
    cli_deposits.register(peg_group)
    _register_out(peg_group)
    _register_status(peg_group)
    cli_records.register(group, peg_group)
    _register_blocks(group)


def _register_in(group: click.Group) -> None:
    @command(
        group, "in", json_help=JSON_WAIT_HELP, short_help="Deposit bitcoin, mint it for a receiver."
    )
    @click.argument("amount", type=Amount(), required=False)
    @click.option(
        "--to",
        metavar="WALLET|ADDRESS",
        help="Who gets the coins: a wallet, or any sidechain address. [default: the only wallet]",
    )
    @click.option("--address", "only_address", is_flag=True, help="Only show a deposit address.")
    @_wait_option
    @_mine_option
    @_new_option
    @passphrase_file_option
    async def peg_in(
        session: Session,
        *,
        amount: int | None,
        to: str | None,
        only_address: bool,
        wait: bool,
        no_mine: bool,
        new: bool,
        passphrase_file: Path | None,
    ) -> None:
        """Deposit AMOUNT regtest bitcoin from the faucet and mint it for a wallet or an address.

        Any sidechain address will do, whoever's wallet it is of; to a confidential one the coins
        are minted blinded.

        With --address nothing is paid: the address shown takes deposits from any Bitcoin wallet.
        The wallet process claims each deposit when it is deep enough. Run again after an
        interruption, a peg-in of the same amount whose end was not shown yet goes on.
        """
        if only_address == (amount is not None):
            raise click.UsageError("give an AMOUNT, or --address for an address alone")
        session.output.streams = wait
        async with session.wallets() as wallets:
            names: list[str] = await wallets.call("listwallets")
            to = to or only_wallet(names)
            if amount is None:
                found = await wallets.call("getpeginaddress", to)
                session.output.result(found, address_text(found))
                return
            async with AsyncExitStack() as stack:
                if to in names:
                    keys = unlocked(wallets, to, passphrase_file, waiting=wait)
                    await stack.enter_async_context(keys)
                await _check_faucet(session, wallets, to, amount, new=new)
                view = await wallets.call("pegin", to, amount_text(amount), new)
                if wait:
                    async with session.bitcoind() as bitcoind, session.members() as members:
                        miner = ParentMiner(bitcoind, members, enabled=not no_mine)
                        patience = Patience(session, wallets)
                        view = await wait_pegin(patience, miner, view["id"])
                elif view["resumed"] and view["stage"] in ("final", "failed"):
                    # its end is shown now, so that the same command begins another one
                    view = {**await wallets.call("getpegin", view["id"]), "resumed": True}
        session.output.result(view, _begun_text(view, describe_pegin(view), wait=wait))


async def _check_faucet(
    session: Session, wallets: RpcClient, to: str, amount_sats: int, *, new: bool
) -> None:
    """Refuse a new peg-in that the faucet cannot pay, before anything is begun.

    Raises:
        Failed: it cannot; says how it can.
    """
    async with session.bitcoind() as bitcoind:
        held_sats = await bitcoind.wallet_balance_sats(FAUCET_WALLET)
    if held_sats >= amount_sats:
        return
    for known in await wallets.call("listpegins"):
        is_same = (known["to"], known["amount_sats"]) == (to, amount_sats)
        if is_same and known["deposit"] is not None and not new:
            return  # paid already
    raise Failed(
        f"the faucet holds {show_btc(held_sats)} that can be spent: `fedpeg mine 101` makes more"
    )


def _begun_text(view: dict[str, Any], standing: str, *, wait: bool) -> str:
    """What is said of a peg-in or peg-out at the end of the command that began it."""
    if wait:
        return f"{view['id']}: {standing}"
    if view.get("resumed") and (view.get("done") or view["stage"] in ("final", "failed")):
        return f"{view['id']} has ended: {standing}; the same command again begins another one"
    again = "goes on" if view.get("resumed") else "begun"
    return f"{view['id']} {again}: `fedpeg peg status {view['id']}` shows where it stands"


def _register_out(group: click.Group) -> None:
    @command(
        group, "out", json_help=JSON_WAIT_HELP, short_help="Burn coins, be paid bitcoin for them."
    )
    @click.argument("wallet", metavar="FROM")
    @click.argument("address", metavar="BTC_ADDRESS")
    @click.argument("amount", type=Amount())
    @_wait_option
    @_mine_option
    @_new_option
    @passphrase_file_option
    async def peg_out(
        session: Session,
        *,
        wallet: str,
        address: str,
        amount: int,
        wait: bool,
        no_mine: bool,
        new: bool,
        passphrase_file: Path | None,
    ) -> None:
        """Burn AMOUNT of a wallet's coins; the federation pays it to a Bitcoin address.

        The payment is AMOUNT less the federation's fixed fee. Run again after an interruption, a
        peg-out of the same amount to the same address whose end was not shown yet goes on.
        """
        session.output.streams = wait
        async with session.wallets() as wallets:
            async with session.bitcoind() as bitcoind:
                await check_bitcoin_address(bitcoind, address)
            async with unlocked(wallets, wallet, passphrase_file):
                view = await wallets.call("pegout", wallet, address, amount_text(amount), new)
            if wait:
                async with session.bitcoind() as bitcoind, session.members() as members:
                    miner = ParentMiner(bitcoind, members, enabled=not no_mine)
                    view = await wait_pegout(Patience(session, wallets), miner, view["id"])
            elif view["resumed"] and view["done"]:
                view = {**await wallets.call("getpegout", view["id"]), "resumed": True}
        text = _begun_text(view, describe_pegout(view), wait=wait)
        if wait:
            paid = view.get("payout") or {}
            view["parent_confirmations"] = paid.get("depth", paid.get("confirmations", 0))
            text = (
                f"{view['id']}: paid {show_btc(view['payout_sats'])} to {address}"
                f"{' in ' + str(paid['txid']) if paid.get('txid') else ''}"
            )
        session.output.result(view, text)


def _register_status(group: click.Group) -> None:
    @command(group, "status", short_help="Show one peg-in or peg-out, or all.")
    @click.argument("peg_id", metavar="[ID]", required=False)
    @click.option(
        "--receipt",
        type=click.Path(path_type=Path, dir_okay=False),
        help="Write a file that proves it, for `receipt verify`.",
    )
    async def status(session: Session, *, peg_id: str | None, receipt: Path | None) -> None:
        """Show one peg-in or peg-out (by id, txid:vout or deposit address), or all.

        With each deposit that does not go on by itself: why, and what can be done. With each
        peg-out that is not paid yet: its place, and when it is likely to be. A burn may be
        anybody's, named by its txid:vout.

        --receipt writes what proves to strangers that the burn is final, and once it is confirmed
        that it was paid; or that a deposit was claimed.
        """
        if receipt is not None and peg_id is None:
            raise click.UsageError("--receipt needs the ID of one peg-in or peg-out")
        async with session.wallets() as wallets:
            if peg_id is None:
                pegins = await wallets.call("listpegins")
                pegouts = await wallets.call("listpegouts")
            else:
                pegins, pegouts = await _find(session, wallets, peg_id)
        if receipt is not None:
            await _write_receipt(session, (pegins or pegouts)[0], receipt)
            return
        peg = await _peg_state(session)
        lines = [f"! {note}" for note in peg_notes(peg or {})]
        lines += [_line(view, describe_pegin(view)) for view in pegins]
        for view in pegouts:
            lines.append(_line(view, describe_pegout(view)))
            lines += [f"{'':<8} {text}" for text in pegout_lines(view) if peg_id is not None]
        found: Any = {"pegins": pegins, "pegouts": pegouts, "peg": peg}
        if peg_id is not None:
            found = (pegins or pegouts)[0]
        session.output.result(found, "\n".join(lines) or "no peg-ins and no peg-outs yet")


async def _write_receipt(session: Session, view: dict[str, Any], path: Path) -> None:
    """Write what proves a peg-in or peg-out to strangers.

    Raises:
        Failed: there is nothing to prove yet.
    """
    outpoint = view.get("burn") or view.get("deposit")
    if view["height"] is None or outpoint is None:
        what = "burn" if "burn" in view else "claim"
        raise Failed(f"{view['id']} has no receipt yet: its {what} is in no final block")
    async with session.members() as members:
        found: dict[str, Any] = await members.call("getreceipt", outpoint)
    paid = "payment" in found or found["kind"] != "peg-out"
    more = "" if paid else "; it is not paid on the committed chain yet: ask again later"
    write_proof(session, found, path, f"the receipt of {view['id'] or outpoint}{more}")


async def _peg_state(session: Session) -> dict[str, Any] | None:
    """What stands still in the peg, by a member that answers; None when none does."""
    try:
        async with session.members() as members:
            info = await members.call("getfederationinfo")
    except (LocalError, RpcError, Unavailable):
        return None
    return dict(info["peg"])


async def _find(session: Session, wallets: Any, peg_id: str) -> tuple[list[Any], list[Any]]:
    try:
        return [await wallets.call("getpegin", peg_id)], []
    except RpcError as error:
        if error.code != CODE_INVALID_PARAMETER:
            raise
    try:
        return [], [await wallets.call("getpegout", peg_id)]
    except RpcError as error:
        if error.code != CODE_INVALID_PARAMETER:
            raise
    if ":" in peg_id:
        try:
            async with session.members() as members:
                return [], [_anybodys(await members.call("getpegout", peg_id))]
        except RpcError as error:
            if error.code not in (CODE_INVALID_PARAMETER, CODE_NOT_FOUND):
                raise
    raise Failed(f"there is no peg-in and no peg-out {peg_id!r}")


def _anybodys(found: dict[str, Any]) -> dict[str, Any]:
    """A burn that no wallet here made, in the form of the wallets' peg-outs."""
    return {
        "id": None,
        "wallet": "(others)",
        "amount_sats": found["amount_sats"],
        "payout_sats": found["payout_sats"],
        "address": found["address"],
        "stage": found["status"],
        "done": found["txid"] is not None,
        "burn": found["burn"],
        "fee_sats": None,
        "height": found["height"],
        "reason": ", ".join(found["reasons"]),
        "payout": found,
    }


def _line(view: dict[str, Any], text: str) -> str:
    amount = "" if view["amount_sats"] is None else show_btc(view["amount_sats"])
    owner = view["wallet"] or f"{view['to'][:9]}…"
    warning = f" [{view['warning']}]" if view.get("warning") else ""
    return f"{view['id'] or '-':<8} {owner:<12} {amount:>12}  {text}{warning}"


def _register_blocks(group: click.Group) -> None:
    @command(group, "blocks")
    @click.option("--signers", is_flag=True, help="Show who proposed and who signed.")
    @click.option(
        "-n",
        "--count",
        type=click.IntRange(1, BLOCKS_SHOWN_MAX),
        default=20,
        show_default=True,
        help="How many.",
    )
    async def blocks(session: Session, *, signers: bool, count: int) -> None:
        """Show the newest sidechain blocks."""
        state = session.state()
        found = await newest_blocks(session.federation, state, count)
        names = [member.name for member in state.members]
        session.output.result({"blocks": found}, blocks_table(found, names, signers=signers))


async def newest_blocks(
    federation: LocalFederation, state: LocalState, count: int
) -> list[dict[str, Any]]:
    """The newest blocks with their signers, lowest first.

    Which round decided is known only to members that took part; so all are asked, and the first
    that knows says who proposed.

    Raises:
        Failed: no member answers.
    """
    rows: dict[int, dict[str, Any]] = {}
    problem = "none runs, `fedpeg up` starts them"
    running = federation.running()
    for member in state.members:
        if member.name not in running:
            continue
        async with federation.member_client(member, timeout_s=ASK_TIMEOUT_S) as client:
            try:
                answer = await client.call("getblocksigners", None, count)
            except (RpcError, Unavailable) as error:
                problem = f"{member.name}: {error}"
                continue
        for row in answer:
            if rows.get(row["height"], {}).get("round") is None:
                rows[row["height"]] = row
    if not rows and problem:
        raise Failed(f"no member of the federation answers: {problem}")
    return [rows[height] for height in sorted(rows)][-count:]
