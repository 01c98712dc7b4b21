"""What the command answers to a new user's mistakes, and federations side by side."""

from collections.abc import Callable

import pytest

from tests.e2e.local import Local

pytestmark = pytest.mark.e2e

UP = ("-n", "2", "-k", "2", "--block-time", "0")
REFUSED, USAGE = 1, 2


def check_refused(local: Local, *words: str, because: str) -> None:
    """Exit code 1, the reason in one line on standard error, nothing on standard output."""
    done = local.answer(*words)
    assert done.code == REFUSED
    assert because in done.stderr, done.stderr
    assert done.stderr.startswith("fedpeg: ") and done.stderr.count("\n") == 1, done.stderr
    assert done.stdout == ""


def test_refusals_of_money_matters_have_exit_code_1_and_a_reason(local: Local) -> None:
    local.fund("alice", "0.5")
    here = local.run("wallet", "address", "alice").stdout.strip()
    there = local.payout_address()
    bad = here[:-1] + ("q" if here[-1] != "q" else "p")
    before = local.available("alice")
    for words, because in (
        (("wallet", "balance", "nobody"), "nobody"),
        (("wallet", "create", "alice"), "alice"),
        (("wallet", "create", "../alice"), "name"),
        (("pay", "nobody", here, "0.1"), "nobody"),
        (("pay", "alice", bad, "0.1"), "Invalid Blech32 checksum"),
        (("pay", "alice", there, "0.1"), "address"),
        (("pay", "alice", here, "0.6"), "not enough coins"),
        (("pay", "alice", here, "0.00000001"), "are not relayed"),
        (("peg", "out", "alice", "nowhere", "0.1"), "nowhere is not an address"),
        (("peg", "out", "alice", here, "0.1"), "is a sidechain address"),
        (("peg", "out", "alice", there, "0.6"), "not enough coins"),
        (("peg", "out", "alice", there, "0.0001"), "20000 sat"),
        (("peg", "out", "alice", there, "1.5"), "100000000 sat"),
        (("peg", "out", "nobody", there, "0.1"), "nobody"),
        (("peg", "in", "0.0001", "--to", "alice"), "20000 sat"),
        (("peg", "in", "1", "--to", "nobody"), "nobody"),
        (("peg", "status", "in-99"), "in-99"),
        (("faucet", here, "1"), "is a sidechain address"),
        (("faucet", there, "20000000"), "faucet holds"),
        (("member", "kill", "m7"), "m7"),
        (("member", "start", "m0"), "m0 runs already"),
        (("logs", "m9"), "m9"),
    ):
        check_refused(local, *words, because=because)
    assert local.available("alice") == before
    assert local.wallets.call("listpegouts") == []


def test_usage_errors_have_exit_code_2(local: Local) -> None:
    for words in (
        ("nonsense",),
        ("peg", "in", "--to", "alice"),
        ("peg", "in", "1", "--to"),
        ("peg", "in", "-1", "--to", "alice"),
        ("peg", "in", "0.000000001", "--to", "alice"),
        ("peg", "in", "1e3", "--to", "alice"),
        ("pay", "alice", "x"),
        ("mine", "0"),
        ("up", "-n", "99"),
    ):
        done = local.answer(*words)
        assert (done.code, done.stdout) == (USAGE, "") and done.stderr


def test_exit_codes_are_those_of_the_process_too(local: Local) -> None:
    assert local.run("wallet", "balance", "nobody", code=REFUSED).stderr.startswith("fedpeg: ")
    assert local.run("nonsense", code=USAGE).stdout == ""


def test_up_when_it_runs_already_says_so(local: Local) -> None:
    before = local.processes()
    check_refused(local, "up", because="is up already")
    check_refused(local, "up", "-n", "4", because="holds a federation with n=2, k=2")
    assert local.processes() == before


def test_commands_without_a_federation_or_while_it_is_down_say_what_to_do(
    local: Local, new_local: Callable[[], Local]
) -> None:
    nowhere = new_local()
    for words in (("status",), ("down",), ("wallet", "list"), ("audit",), ("peg", "status")):
        check_refused(nowhere, *words, because="`fedpeg up` makes one")
    check_refused(nowhere, "up", "-n", "3", "-k", "2", because="one lying member can fork")
    assert not nowhere.data.exists() or [p.name for p in nowhere.data.iterdir()] == [".lock"]
    nowhere.data.mkdir(exist_ok=True)
    (nowhere.data / "diary.txt").write_text("dear diary")
    check_refused(nowhere, "up", because="holds other files")
    local.run("down")
    for words in (("wallet", "list"), ("audit",), ("mine", "1"), ("blocks",)):
        check_refused(local, *words, because="fedpeg up")


def test_federations_side_by_side_do_not_meet(local: Local, new_local: Callable[[], Local]) -> None:
    other = new_local()
    other.run("up", *UP)
    local.fund("carol", "0.3")
    other.fund("dora", "0.2")
    assert _ports(local) & _ports(other) == set()
    assert local.ask("getblockhash", 0) != other.ask("getblockhash", 0)
    assert local.wallets.call("listwallets") != other.wallets.call("listwallets")
    hashes = {f.run("status", "--json").json["parameter_hash"] for f in (local, other)}
    assert len(hashes) == 2
    mine = other.parent_height()
    local.mine()
    assert other.parent_height() == mine

    address = other.wallets.call("getnewaddress", "dora")
    local.run("pay", "carol", address, "0.1", "--wait")  # the same kind of chain, another one
    local.run("down")
    assert set(other.processes()) == {"bitcoind", "m0", "m1", "wallet"}
    other.pay("dora", "dora", "0.01")
    assert other.available("dora") < 20_000_000
    for name in other.names:
        assert other.member(name).call("getfederationinfo")["refused_connections"] == 0


def _ports(local: Local) -> set[int]:
    state = local.state
    ports = {state["bitcoind"]["rpc_port"], state["wallet"]["rpc_port"]}
    return ports | {m["port"] for m in state["members"]} | {m["rpc_port"] for m in state["members"]}
