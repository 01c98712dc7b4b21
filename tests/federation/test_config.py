"""Federation file, member folder, founding: what is written is read back, wrong is refused."""

import copy
import json
import os
import stat
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from federation import founding
from federation.canonical import NotCanonical, canonical_json, strict_loads
from federation.config import (
    FederationFile,
    InvalidConfig,
    MemberConfig,
    take_birth_mark,
    witness_limit_bytes,
)
from federation.files import FileLayer
from federation.founding import AlreadyFounded, MemberPorts, found_federation
from peg.fedscript import parse_fed_script
from peg.parameters import LOCAL
from sidechain.crypto.keys import public_key
from sidechain.primitives.encoding import compact_size
from sidechain.script.script import parse_multisig
from tests.federation.disks import CountingDisk, Killed
from tests.federation.founded import entropy_of, found, member_folder


@pytest.fixture
def federation(tmp_path: Path) -> FederationFile:
    return found(tmp_path)


# -- canonical JSON


def test_canonical_json_when_nested_then_sorted_and_without_space() -> None:
    value = {"b": [1, "x", {}], "a": {"d": -5, "c": '"\\'}, "B": []}
    assert canonical_json(value) == b'{"B":[],"a":{"c":"\\"\\\\","d":-5},"b":[1,"x",{}]}'
    assert strict_loads(canonical_json(value).decode()) == value


@pytest.mark.parametrize(
    "value",
    [True, None, 1.0, {"a": False}, [None], "é", "line\n", {1: 2}, 2**53, -(2**53), b"x", {"é": 1}],
)
def test_canonical_json_when_form_is_open_to_choice_then_refused(value: object) -> None:
    with pytest.raises(NotCanonical):
        canonical_json(value)


@pytest.mark.parametrize(
    "text", ["", "{", '{"a":1,"a":2}', "1.5", "1e3", "NaN", "[-Infinity]", "[" * 100_000]
)
def test_json_when_not_of_the_allowed_kind_then_refused(text: str) -> None:
    with pytest.raises(NotCanonical):
        strict_loads(text)


# -- founding


def test_found_when_done_then_file_reads_back_equal(
    tmp_path: Path, federation: FederationFile
) -> None:
    again = FederationFile.load(tmp_path / "federation.json")
    assert again == federation
    assert again.parameter_hash() == federation.parameter_hash()
    assert (federation.n, federation.k) == (4, 3)
    assert [member.name for member in federation.members] == ["m0", "m1", "m2", "m3"]


def test_found_when_done_then_secrets_are_closed_and_fit_the_file(
    tmp_path: Path, federation: FederationFile
) -> None:
    for member in federation.members:
        folder = member_folder(tmp_path, member.index)
        assert stat.S_IMODE(folder.keys.stat().st_mode) == 0o700
        assert {path.name for path in folder.keys.iterdir()} == {
            "block.key",
            "peg.key",
            "tls.key",
            "tls.crt",
            "unborn",
        }
        for path in folder.keys.iterdir():
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
        for path, key in ((folder.block_key, member.block_key), (folder.peg_key, member.peg_key)):
            assert public_key(bytes.fromhex(path.read_text().strip())) == key
        assert folder.certificate.read_text() == member.certificate_pem
    emergency = sorted((tmp_path / "emergency").iterdir())
    assert stat.S_IMODE((tmp_path / "emergency").stat().st_mode) == 0o700
    assert [stat.S_IMODE(path.stat().st_mode) for path in emergency] == [0o600] * 3
    keys = tuple(public_key(bytes.fromhex(path.read_text().strip())) for path in emergency)
    assert keys == federation.emergency_keys
    assert not (tmp_path / "founding.partial").exists()


def test_federation_file_when_written_then_holds_no_secret(
    tmp_path: Path, federation: FederationFile
) -> None:
    text = (tmp_path / "federation.json").read_text()
    for path in tmp_path.rglob("*.key"):
        secret = path.read_text().strip()
        assert secret not in text
    assert "PRIVATE" not in text


def test_scripts_when_founded_then_of_the_specified_form(federation: FederationFile) -> None:
    keys = tuple(member.block_key for member in federation.members)
    assert parse_multisig(federation.signblockscript) == (3, keys)
    script = parse_fed_script(federation.fedpegscript)
    assert script == federation.fed_script()
    assert script.keys == tuple(member.peg_key for member in federation.members)
    assert (script.k, script.csv, script.emergency_keys) == (3, 288, federation.emergency_keys)


def test_chain_when_founded_then_fixed_by_rule(federation: FederationFile) -> None:
    params = federation.chain_params()
    assert params.name == "fedpeg-test"
    assert params.signblockscript == federation.signblockscript
    assert params.max_block_sig_size == witness_limit_bytes(4, 3) == 361
    assert params.start_p2wsh_script and not params.enforce_pak
    assert params.mandatory_coinbase == b"\x6a"
    assert params.pegin_confirmation_depth == federation.peg.pegin_depth == 6
    assert (params.dynamic_epoch_length, params.total_valid_epochs) == (10, 30)
    assert params.accept_discount_ct and not params.anyone_can_spend_standard
    assert any(params.genesis_hash) and any(params.pegged_asset)


@pytest.mark.parametrize(("n", "k"), [(4, 3), (7, 5), (8, 6), (15, 11)])
def test_witness_limit_when_computed_then_largest_possible_witness(n: int, k: int) -> None:
    script = 1 + 34 * n + 2
    stack = [b"", *[bytes(72)] * k, bytes(script)]
    largest = 1 + sum(len(compact_size(len(item))) + len(item) for item in stack)
    assert witness_limit_bytes(n, k) == largest


def test_parameter_hash_when_params_are_equal_then_equal_whoever_the_hosts(
    federation: FederationFile,
) -> None:
    plain = federation.to_json()
    assert federation.parameter_hash() == sha256(canonical_json(plain["params"])).digest()
    moved = copy.deepcopy(plain)
    moved["members"][0]["host"] = "192.0.2.7"
    moved["members"][1]["port"] = 5
    assert FederationFile.from_json(moved).parameter_hash() == federation.parameter_hash()
    slower = copy.deepcopy(plain)
    slower["params"]["peg"]["batch_wait"] += 1
    assert FederationFile.from_json(slower).parameter_hash() != federation.parameter_hash()
    order = json.loads(json.dumps(plain))
    order["params"] = dict(reversed(list(order["params"].items())))
    assert FederationFile.from_json(order) == federation


@pytest.mark.parametrize(("n", "k"), [(1, 1), (3, 3), (5, 4), (7, 5), (15, 11)])
def test_found_when_other_sizes_then_sane(tmp_path: Path, n: int, k: int) -> None:
    federation = found(tmp_path, n=n, k=k)
    assert (federation.n, federation.k) == (n, k)
    FederationFile.load(tmp_path / "federation.json", allow_no_byzantine_safety=True)


def test_found_when_repeated_with_same_entropy_then_same_keys_and_another_gives_others(
    tmp_path: Path,
) -> None:
    one, two = found(tmp_path / "1", seed="a"), found(tmp_path / "2", seed="a")
    other = found(tmp_path / "3", seed="b")
    assert one.params_json() == two.params_json()
    assert one.parameter_hash() != other.parameter_hash()


def test_found_when_there_is_a_federation_then_refused_and_untouched(tmp_path: Path) -> None:
    found(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(AlreadyFounded):
        found(tmp_path, seed="other")
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_found_when_killed_anywhere_then_no_federation_or_a_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def founded_on(folder: Path, layer: FileLayer) -> FederationFile:
        monkeypatch.setattr(founding, "FileLayer", lambda: layer)
        return found(folder, n=1, k=1)

    def die(_: str) -> None:
        raise Killed

    counting = CountingDisk()
    founded_on(tmp_path / "whole", counting)
    for at in range(counting.done):
        folder = tmp_path / f"at-{at}"
        with pytest.raises(Killed):
            founded_on(folder, CountingDisk(at, die))
        file = folder / "federation.json"
        federation = (
            FederationFile.load(file, allow_no_byzantine_safety=True)
            if file.exists()
            else founded_on(folder, FileLayer())
        )
        key = bytes.fromhex(member_folder(folder, 0).block_key.read_text().strip())
        assert public_key(key) == federation.members[0].block_key


def test_found_when_numbers_make_no_federation_then_refused(tmp_path: Path) -> None:
    def attempt(**change: Any) -> None:
        arguments: dict[str, Any] = {
            "n": 4,
            "k": 3,
            "chain_name": "fedpeg-test",
            "block_time_ms": 1_000,
            "ports": [MemberPorts(link=1 + i, rpc=100 + i) for i in range(4)],
            "peg": LOCAL,
            "bitcoind_url": "http://127.0.0.1:1",
            "bitcoind_cookie": ".cookie",
            "entropy": entropy_of("x"),
            "unix_time_s": 0,
        }
        found_federation(tmp_path, **arguments | change)

    for change in (
        {"ports": []},
        {"k": 2},
        {"ports": [MemberPorts(link=1, rpc=2)] * 4},
        {"chain_name": "Bad Name"},
        {"chain_name": "liquidv1"},
        {"entropy": bytes},
    ):
        with pytest.raises(InvalidConfig):
            attempt(**change)
    assert not (tmp_path / "federation.json").exists()


def test_certificate_when_made_then_self_signed_p256_for_ten_years(
    federation: FederationFile,
) -> None:
    certificate = x509.load_pem_x509_certificate(federation.members[0].certificate_pem.encode())
    assert certificate.issuer == certificate.subject
    life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    assert life.days == 3_650
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert not constraints.ca
    certificate.verify_directly_issued_by(certificate)


# -- refusing


def edit(path: str, value: object) -> Callable[[dict[str, Any]], None]:
    def change(plain: dict[str, Any]) -> None:
        *way, last = path.split(".")
        target: Any = plain
        for step in way:
            target = target[int(step) if step.isdigit() else step]
        if value is None:
            del target[last]
        elif last.isdigit():
            target[int(last)] = value
        else:
            target[last] = value

    return change


def swap_members(plain: dict[str, Any]) -> None:
    plain["members"].reverse()


def same_key(plain: dict[str, Any]) -> None:
    plain["members"][1]["block_key"] = plain["members"][0]["block_key"]


def same_address(plain: dict[str, Any]) -> None:
    plain["members"][1]["port"] = plain["members"][0]["port"]


def same_certificate(plain: dict[str, Any]) -> None:
    plain["members"][1]["certificate"] = plain["members"][0]["certificate"]


def exchanged_peg_keys(plain: dict[str, Any]) -> None:
    one, two = plain["members"][:2]
    one["peg_key"], two["peg_key"] = two["peg_key"], one["peg_key"]


def exchanged_block_keys(plain: dict[str, Any]) -> None:
    one, two = plain["members"][:2]
    one["block_key"], two["block_key"] = two["block_key"], one["block_key"]


WRONG: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "no params": (edit("params", None), "params is missing"),
    "extra": (edit("extra", 1), "unknown: extra"),
    "extra param": (edit("params.extra", 1), "unknown: params.extra"),
    "format": (edit("params.format", 2), "params.format"),
    "chain name": (edit("params.chain_name", "A B"), "params.chain_name"),
    "reserved chain": (edit("params.chain_name", "regtest"), "only custom chains are"),
    "upper hex": (edit("params.fedpegscript", "AB"), "lower-case hex"),
    "odd hex": (edit("params.fedpegscript", "abc"), "lower-case hex"),
    "other fedpegscript": (edit("params.fedpegscript", "51"), "peg keys"),
    "other signblockscript": (edit("params.signblockscript", "51"), "block keys"),
    "two emergency keys": (edit("params.emergency_keys", []), "list of 3"),
    "bad emergency key": (edit("params.emergency_keys.0", "02" + "ff" * 32), "point"),
    "n": (edit("params.peg.n", 5), "there are 4"),
    "k above n": (edit("params.peg.k", 5), "must be 1 to 4"),
    "k unsafe": (edit("params.peg.k", 2), "allow-no-byzantine-safety"),
    "csv": (edit("params.peg.csv", 100), "fedpegscript"),
    "peg field": (edit("params.peg.batch_wait", None), "params.peg"),
    "peg float": (edit("params.peg.batch_wait", 1.5), "params.peg"),
    "peg sanity": (edit("params.peg.reset_depth", 2), "S6"),
    "option missing": (edit("params.chain.enforce_pak", None), "enforce_pak"),
    "option unknown": (edit("params.chain.con_taproot", 1), "con_taproot"),
    "option bool": (edit("params.chain.enforce_pak", True), "enforce_pak"),
    "option fixed": (edit("params.chain.con_start_p2wsh_script", 0), "N4"),
    "option text": (edit("params.chain.con_mandatorycoinbase", "6a00"), "N4"),
    "option depth": (edit("params.chain.peginconfirmationdepth", 8), "N4"),
    "option witness": (edit("params.chain.con_max_block_sig_size", 400), "N4"),
    "option epoch": (edit("params.chain.dynamic_epoch_length", 0), "out of range"),
    "option genesis": (edit("params.chain.parentgenesisblockhash", "00"), "64 lower-case"),
    "no members": (edit("members", []), "members is not a list"),
    "member text": (edit("members.0", "m0"), "members[0] is not an object"),
    "order": (swap_members, "order of their index"),
    "same key": (same_key, "twice"),
    "same address": (same_address, "same address"),
    "same certificate": (same_certificate, "same certificate"),
    "peg keys exchanged": (exchanged_peg_keys, "peg keys"),
    "block keys exchanged": (exchanged_block_keys, "block keys"),
    "port": (edit("members.2.port", 70_000), "members[2].port"),
    "port text": (edit("members.2.port", "80"), "members[2].port"),
    "host": (edit("members.2.host", ""), "members[2].host"),
    "certificate": (edit("members.2.certificate", "none"), "members[2].certificate"),
    "member extra": (edit("members.2.note", "x"), "members[2].note"),
}


@pytest.mark.parametrize(("change", "message"), WRONG.values(), ids=WRONG.keys())
def test_federation_file_when_wrong_then_refused_with_the_place(
    federation: FederationFile, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    plain = json.loads(json.dumps(federation.to_json()))
    FederationFile.from_json(plain)
    change(plain)
    with pytest.raises(InvalidConfig) as caught:
        FederationFile.from_json(plain)
    assert message in str(caught.value)


def test_federation_when_one_liar_can_fork_it_then_only_with_permission(tmp_path: Path) -> None:
    found(tmp_path, n=3, k=2)
    path = tmp_path / "federation.json"
    with pytest.raises(InvalidConfig, match="one lying member can fork"):
        FederationFile.load(path)
    assert FederationFile.load(path, allow_no_byzantine_safety=True).k == 2


def test_more_than_fifteen_members_when_named_then_refused(federation: FederationFile) -> None:
    plain = federation.to_json()
    plain["members"] = plain["members"] * 4
    with pytest.raises(InvalidConfig, match="1 to 15"):
        FederationFile.from_json(plain)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"params":{},"params":{}}', b"1.0"]
)
def test_file_when_not_such_json_then_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "federation.json"
    path.write_bytes(content)
    with pytest.raises(InvalidConfig):
        FederationFile.load(path)


def test_file_when_absent_or_huge_then_refused(tmp_path: Path) -> None:
    path = tmp_path / "federation.json"
    with pytest.raises(InvalidConfig, match="cannot read"):
        FederationFile.load(path)
    path.write_bytes(b" " * 1_000_001)
    with pytest.raises(InvalidConfig, match="too large"):
        FederationFile.load(path)


# -- member


def test_member_config_when_founded_then_reads_back_with_paths_from_its_folder(
    tmp_path: Path,
) -> None:
    found(tmp_path)
    config = MemberConfig.load(tmp_path / "members" / "m2")
    assert (config.index, config.listen_port, config.rpc_port) == (2, 20_002, 21_002)
    assert config.bitcoind.cookie == tmp_path / "bitcoind" / "regtest" / ".cookie"
    assert (config.block_interval_ms, config.min_interval_ms) == (1_000, 170)
    assert (config.timeout_base_ms, config.timeout_step_ms) == (500, 100)
    assert (config.timeout_cap_ms, config.gossip_interval_ms) == (10_000, 280)
    assert config.esplora_port == 22_002
    again = replace(config, future_limit_s=31, allow_no_byzantine_safety=True)
    again.save(tmp_path / "members" / "m2")
    assert MemberConfig.load(tmp_path / "members" / "m2") == again


def test_member_config_when_of_the_first_version_then_the_system_chooses_the_esplora_port(
    tmp_path: Path,
) -> None:
    found(tmp_path)
    path = tmp_path / "members" / "m0" / "member.json"
    content = json.loads(path.read_text())
    del content["esplora_port"]
    path.write_text(json.dumps(content))
    assert MemberConfig.load(path.parent).esplora_port == 0


def test_blocks_on_demand_when_asked_for_then_intervals_of_n18(tmp_path: Path) -> None:
    found_federation(
        tmp_path,
        n=4,
        k=3,
        chain_name="fedpeg-test",
        block_time_ms=0,
        ports=[MemberPorts(link=1 + i, rpc=100 + i) for i in range(4)],
        peg=LOCAL,
        bitcoind_url="http://127.0.0.1:1",
        bitcoind_cookie="/abs/.cookie",
        entropy=os.urandom,
        unix_time_s=0,
    )
    config = MemberConfig.load(tmp_path / "members" / "m0")
    assert (config.block_interval_ms, config.min_interval_ms) == (60_000, 170)
    assert config.bitcoind.cookie == Path("/abs/.cookie")


MEMBER_WRONG: dict[str, tuple[str, object, str]] = {
    "index": ("index", 64, "index"),
    "port": ("listen_port", -1, "listen_port"),
    "flag": ("allow_no_byzantine_safety", 2, "allow_no_byzantine_safety"),
    "interval": ("min_interval_ms", 2_000, "min_interval_ms is above"),
    "timeout": ("timeout_base_ms", 20_000, "timeout_base_ms is above"),
    "missing": ("rpc_port", None, "rpc_port is missing"),
    "extra": ("password", "x", "unknown: password"),
    "url": ("bitcoind", {"url": "ftp://x", "cookie": "c"}, "bitcoind.url"),
    "password": ("bitcoind", {"url": "http://x", "password": "x"}, "bitcoind.user"),
    "both": ("bitcoind", {"url": "http://x", "cookie": "c", "user": "u"}, "unknown"),
}


@pytest.mark.parametrize(
    ("name", "value", "message"), MEMBER_WRONG.values(), ids=MEMBER_WRONG.keys()
)
def test_member_config_when_wrong_then_refused_with_the_place(
    tmp_path: Path, name: str, value: object, message: str
) -> None:
    found(tmp_path)
    path = tmp_path / "members" / "m0" / "member.json"
    plain = json.loads(path.read_text())
    edit(name, value)(plain)
    path.write_text(json.dumps(plain))
    with pytest.raises(InvalidConfig, match=message):
        MemberConfig.load(path.parent)


def test_bitcoind_password_when_named_then_comes_from_the_environment_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found(tmp_path)
    path = tmp_path / "members" / "m0" / "member.json"
    plain = json.loads(path.read_text())
    plain["bitcoind"] = {"url": "http://h:1", "user": "u", "password_env": "FEDPEG_TEST_PASSWORD"}
    path.write_text(json.dumps(plain))
    config = MemberConfig.load(path.parent)
    monkeypatch.delenv("FEDPEG_TEST_PASSWORD", raising=False)
    with pytest.raises(InvalidConfig, match="FEDPEG_TEST_PASSWORD"):
        config.bitcoind.password()
    monkeypatch.setenv("FEDPEG_TEST_PASSWORD", "hunter2")
    assert config.bitcoind.password() == "hunter2"
    assert "hunter2" not in repr(config)


def test_birth_mark_when_taken_then_gone_for_ever(tmp_path: Path) -> None:
    found(tmp_path)
    folder = member_folder(tmp_path, 0)
    take_birth_mark(folder)
    assert not folder.birth_mark.exists()
    with pytest.raises(InvalidConfig, match="started before"):
        take_birth_mark(folder)


def test_birth_mark_when_disk_fails_after_removal_then_not_taken_as_done(tmp_path: Path) -> None:
    found(tmp_path)

    def fail(_: str) -> None:
        raise OSError("no")

    with pytest.raises(OSError, match="no"):
        take_birth_mark(member_folder(tmp_path, 0), CountingDisk(1, fail))
