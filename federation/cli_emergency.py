"""`fedpeg emergency`: how two of three holders take coins out that the federation let expire.

Only `export` needs the sidechain, and is done beforehand. The others need federation.json, a
bitcoind without any index (`sign` not even that), and files that holders hand to each other.

Source: peg:10; docs/emergency.md.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import click

from federation import emergency
from federation.cli_member import asking, folder_option
from federation.cli_session import Failed, Session, command, show_btc
from federation.config import FederationFile
from federation.emergency import FoundCoins, Refused
from federation.emergency_file import ClaimScripts, PlanFile, read_fedpegscript
from federation.member_folder import BitcoindAccess
from federation.start import open_bitcoind
from peg.bitcoind import BitcoindClient, to_hex
from peg.emergency import (
    EmergencyCoin,
    blocks_to_wait,
    plan_emergency,
    spend_wait,
    unsigned_spend,
)
from peg.fedscript import FedScript, coin_script
from peg.status import outpoint_text, parse_outpoint
from sidechain.crypto.hashes import sha256d
from sidechain.primitives.transaction import OutPoint
from sidechain.script.script import p2wsh

FILE: Final = click.Path(path_type=Path, exists=True, dir_okay=False)
NEW_FILE: Final = click.Path(path_type=Path, dir_okay=False)
RATE_MAX: Final = 100_000
CLAIMS_LEFT_OUT: Final = (
    "no --claim-scripts: coins of deposits are left out, for their scripts cannot be known without "
    "the sidechain"
)

_federation_option = click.option(
    "--federation",
    "federation_path",
    type=FILE,
    help="federation.json of the federation that holds the coins. [default: the one of --data]",
)


def _to_option(*, required: bool = True) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.option(
        "--to",
        "new_federation",
        required=required,
        metavar="FILE|HEX",
        help="Who gets the coins: federation.json of the new federation, or its fedpegscript.",
    )


def _node_options(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--password-env", help="Environment variable with the password."),
        click.option("--user", help="User name, where there is no cookie file."),
        click.option("--cookie", type=FILE, help="Cookie file of that bitcoind."),
        click.option("--bitcoind", "url", help="URL of a bitcoind. [default: the one of --data]"),
    ):
        function = option(function)
    return function


def register(program: click.Group) -> None:
    """Add the commands to the program."""

    @program.group("emergency")
    def emergency_group() -> None:
        """Take the coins out with two of the three emergency keys, after the delay.

        For the holders of those keys, when the federation cannot go on: `plan` on any machine with
        bitcoind, `sign` by two holders with their own key files, `send` when the delay is over.
        Until then the members' signatures still work, so it is a race that the federation wins as
        long as it lives. `export` is done beforehand, while the sidechain is there.
        """

    _register_export(emergency_group)
    _register_plan(emergency_group)
    _register_sign(emergency_group)
    _register_send(emergency_group)


def _register_export(group: click.Group) -> None:
    @command(group, "export")
    @click.argument("file", type=NEW_FILE)
    @click.option("--member", help="Ask this member of the local federation.")
    @folder_option()
    async def export(
        session: Session, *, file: Path, member: str | None, folder: Path | None
    ) -> None:
        """Write the claim scripts of all deposits to FILE, for `plan` without a sidechain.

        Repeat it as deposits come: a deposit made later is not found with an older file.
        """
        async with asking(session, member, folder) as ask:
            audit = await ask("getaudit")
            peg = await ask("getpeginfo")
            info = await ask("getfederationinfo")
        if peg["lane"] is None:
            raise Failed("the peg is not open yet: there is nothing to take out")
        scripts = sorted({coin["claim_script"] for coin in audit["coins"]} - {None})
        found = ClaimScripts(
            parameter_hash=bytes.fromhex(info["parameter_hash"]),
            height=audit["height"],
            lane=peg["lane"]["lane"],
            anchor=parse_outpoint(peg["lane"]["anchor"]),
            scripts=tuple(bytes.fromhex(script) for script in scripts),
        )
        found.save(file)
        session.output.result(
            {"file": file, "height": found.height, "claim_scripts": len(scripts)},
            f"{file}: {len(scripts)} claim scripts at sidechain height {found.height}",
        )


def _register_plan(group: click.Group) -> None:
    @command(group, "plan")
    @click.argument("file", type=NEW_FILE)
    @_to_option()
    @_federation_option
    @click.option(
        "--claim-scripts", "claims_path", type=FILE, help="File that `export` made beforehand."
    )
    @click.option("--anchor", help="The lane's anchor (txid:vout), where it is not clear.")
    @click.option(
        "--rate",
        type=click.IntRange(1, RATE_MAX),
        help="Fee in sats a vbyte. [default: the node's estimate]",
    )
    @_node_options
    async def plan(
        session: Session,
        *,
        file: Path,
        new_federation: str,
        federation_path: Path | None,
        claims_path: Path | None,
        anchor: str | None,
        rate: int | None,
        **node: Any,
    ) -> None:
        """Find the federation's coins and write the unsigned transactions to FILE.

        Shows each coin with its lock, its age and the blocks that are left. It may be made and
        signed before the locks end; `send` waits for them.
        """
        _check_new(file)
        federation = _load(session, federation_path)
        plain, new_script = federation.fed_script(), read_fedpegscript(new_federation)
        claims = None if claims_path is None else ClaimScripts.load(claims_path)
        named = parse_outpoint(anchor) if anchor else claims.anchor if claims else None
        lane = claims.lane if claims is not None else 0
        if claims is not None:
            emergency.check_claim_scripts(claims, federation)
        async with _node(session, federation, **node) as bitcoind:
            coins = await _refusing(
                emergency.find_coins(
                    bitcoind,
                    plain,
                    claim_scripts=claims.scripts if claims else (),
                    lane=lane,
                    anchor=named,
                    tell=session.output.progress,
                )
            )
            rate_sats_per_kvb = await _rate(bitcoind, federation, rate)
        written, left_out = _made(federation, coins, new_script, lane, rate_sats_per_kvb)
        left_out = ([] if claims is not None else [CLAIMS_LEFT_OUT]) + left_out
        written.save(file)
        session.output.result(
            _plan_json(file, written, coins, plain, left_out),
            _plan_text(file, written, coins, plain, left_out),
        )


def _made(
    federation: FederationFile,
    coins: FoundCoins,
    new_script: bytes,
    lane: int,
    rate_sats_per_kvb: int,
) -> tuple[PlanFile, list[str]]:
    """The plan, checked as holders will check it, and what it leaves out."""
    made = plan_emergency(
        federation.fed_script(),
        new_script,
        lane=lane,
        anchor=coins.anchor,
        others=coins.others,
        rate_sats_per_kvb=rate_sats_per_kvb,
    )
    plan = PlanFile(
        parameter_hash=federation.parameter_hash(),
        lane=lane,
        new_fedpegscript=new_script,
        spends=made.spends,
        signatures=tuple({} for _ in made.spends),
    )
    _checked(plan, federation, new_script)
    return plan, [
        f"{outpoint_text(coin.outpoint)} is worth less than its own fee" for coin in made.left_out
    ]


def _register_sign(group: click.Group) -> None:
    @command(group, "sign")
    @click.argument("file", type=FILE)
    @click.option("--key", "key_path", type=FILE, required=True, help="Your key file (mode 0600).")
    @_to_option()
    @_federation_option
    @click.option("--anchor", help="The lane's anchor (txid:vout), where you know it.")
    @click.option("--out", type=NEW_FILE, help="Write the signed copy here instead of into FILE.")
    async def sign(
        session: Session,
        *,
        file: Path,
        key_path: Path,
        new_federation: str,
        federation_path: Path | None,
        anchor: str | None,
        out: Path | None,
    ) -> None:
        """Verify a plan and add one holder's signatures; needs no network.

        --to is what you know the new federation to be, not what somebody put beside the plan: a
        plan that pays anything else is refused. --anchor is the lane's anchor as you know it, from
        the exported file or your own node: a plan that begins with another coin is refused.
        """
        federation = _load(session, federation_path)
        plan = PlanFile.load(file)
        named = parse_outpoint(anchor) if anchor else None
        _checked(plan, federation, read_fedpegscript(new_federation), named)
        try:
            key = emergency.read_holder_key(key_path)
            signed, holder = emergency.sign_plan(plan, federation.fed_script(), key)
        except Refused as error:
            raise Failed(str(error)) from error
        target = out or file
        signed.save(target)
        holders = emergency.holders_of(signed)
        missing = "" if len(holders) >= 2 else ", one more has to sign"
        session.output.result(
            {"file": target, "holder": holder, "signed_by": holders},
            f"{target}: holder {holder} has signed {len(plan.spends)} transactions{missing}",
        )


def _register_send(group: click.Group) -> None:
    @command(group, "send")
    @click.argument("files", type=FILE, nargs=-1, required=True)
    @_federation_option
    @_node_options
    async def send(
        session: Session, *, files: tuple[Path, ...], federation_path: Path | None, **node: Any
    ) -> None:
        """Put the signatures of one or more copies together and broadcast.

        Refuses before the delay is over, with the number of blocks to wait. It may be repeated:
        what was sent before is left alone, what has to wait longer is sent next time.
        """
        federation = _load(session, federation_path)
        plain = federation.fed_script()
        try:
            plan = emergency.combine_plans([PlanFile.load(file) for file in files], plain)
        except Refused as error:
            raise Failed(str(error)) from error
        _checked(plan, federation, plan.new_fedpegscript)
        async with _node(session, federation, **node) as bitcoind:
            states = await _refusing(
                emergency.send_plan(bitcoind, plan, plain, session.output.progress)
            )
        rows = [
            {
                "txid": to_hex(state.txid),
                "status": state.status,
                "blocks_to_wait": state.blocks_to_wait,
            }
            for state in states
        ]
        texts = [
            f"{row['txid']}  {row['status']}"
            + (f", {row['blocks_to_wait']} more blocks" if row["blocks_to_wait"] else "")
            for row in rows
        ]
        session.output.result({"transactions": rows}, "\n".join(texts))


def _check_new(file: Path) -> None:
    if file.exists():
        raise Failed(f"{file} exists already; it may hold signatures: name another file")


def _load(session: Session, path: Path | None) -> FederationFile:
    """The old federation's file; one without Byzantine safety has coins to be saved too."""
    path = path or session.federation.folder.federation_file
    if not path.is_file():
        raise Failed(f"there is no {path}: name the federation file with --federation")
    return FederationFile.load(path, allow_no_byzantine_safety=True)


@asynccontextmanager
async def _node(
    session: Session,
    federation: FederationFile,
    *,
    url: str | None,
    cookie: Path | None,
    user: str | None,
    password_env: str | None,
) -> AsyncIterator[BitcoindClient]:
    if url is None:
        async with session.bitcoind() as own:
            await _refusing(emergency.check_chain(own, federation))
            yield own
        return
    if (cookie is None) == (user is None or password_env is None):
        raise click.UsageError("--bitcoind needs --cookie, or --user and --password-env")
    access = BitcoindAccess(
        url=url, cookie=cookie, user=user or "", password_env=password_env or ""
    )
    async with open_bitcoind(access) as client:
        await _refusing(emergency.check_chain(client, federation))
        yield client


async def _refusing(work: Any) -> Any:
    """What a step gives; its refusal becomes the command's."""
    try:
        return await work
    except Refused as error:
        raise Failed(str(error)) from error


def _checked(
    plan: PlanFile,
    federation: FederationFile,
    new_script: bytes,
    anchor: OutPoint | None = None,
) -> None:
    try:
        emergency.check_plan(plan, federation, new_script, anchor)
    except Refused as error:
        raise Failed(str(error)) from error


async def _rate(bitcoind: BitcoindClient, federation: FederationFile, given: int | None) -> int:
    """Fee rate in sats a kvB: the given one, else the node's within the federation's limits."""
    if given is not None:
        return given * 1_000
    estimate = await bitcoind.estimate_fee_sats_per_kvb()
    floor, cap = federation.peg.rate_floor_sats_per_kvb, federation.peg.rate_cap_sats_per_kvb
    return floor if estimate is None else min(max(estimate, floor), cap)


def _coin_row(coin: EmergencyCoin, plain: FedScript, tip_height: int) -> dict[str, Any]:
    script = coin_script(plain, coin.claim_script)
    return {
        "outpoint": outpoint_text(coin.outpoint),
        "value_sats": coin.value_sats,
        "witness_script": script.script.hex(),
        "tweak": None if coin.claim_script is None else coin.claim_script.hex(),
        "csv": script.csv,
        "age": tip_height - coin.height + 1,
        "blocks_left": blocks_to_wait(coin, plain, tip_height),
    }


def _plan_json(
    file: Path, plan: PlanFile, found: FoundCoins, plain: FedScript, left_out: list[str]
) -> dict[str, Any]:
    return {
        "file": file,
        "tip_height": found.tip_height,
        "new_fed_script": p2wsh(plan.new_fedpegscript).hex(),
        "transactions": [
            {
                "txid": to_hex(sha256d(unsigned_spend(spend, plain))),
                "unsigned": unsigned_spend(spend, plain).hex(),
                "fee_sats": spend.fee_sats,
                "blocks_to_wait": spend_wait(spend, plain, found.tip_height),
                "coins": [_coin_row(coin, plain, found.tip_height) for coin in spend.coins],
            }
            for spend in plan.spends
        ],
        "left_out": left_out,
    }


def _plan_text(
    file: Path, plan: PlanFile, found: FoundCoins, plain: FedScript, left_out: list[str]
) -> str:
    lines = []
    for number, spend in enumerate(plan.spends):
        name = "with the anchor" if number == 0 else "more coins"
        lines.append(
            f"transaction {number} ({name}): {to_hex(sha256d(unsigned_spend(spend, plain)))}, "
            f"fee {spend.fee_sats} sats"
        )
        for coin in spend.coins:
            row = _coin_row(coin, plain, found.tip_height)
            kind = "FED" if coin.claim_script is None else "deposit"
            left = row["blocks_left"]
            state = f"{left} blocks left" if left else "free"
            lines.append(
                f"  {row['outpoint']}  {show_btc(coin.value_sats)} BTC  {kind}, age {row['age']} "
                f"of {row['csv']}: {state}"
            )
    lines += [f"left out: {reason}" for reason in left_out]
    wait = spend_wait(plan.spends[0], plain, found.tip_height)
    when = f"can be sent in {wait} blocks" if wait else "can be sent when two have signed"
    return "\n".join([*lines, f"{file}: {len(plan.spends)} transactions, {when}"])
