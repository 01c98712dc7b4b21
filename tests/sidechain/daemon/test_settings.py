"""Command line and configuration file: forms, precedence, errors; as elementsd 28.99 reads them."""

from pathlib import Path

import pytest

from sidechain.daemon.chain_options import params_from_settings
from sidechain.daemon.node_options import NodeOptions, node_options
from sidechain.daemon.settings import OptionError, Settings
from sidechain.errors import InvalidEncoding


def read(folder: Path, file: str = "", *words: str) -> Settings:
    """Settings of a command line and a file, with the chain selected."""
    (folder / "elements.conf").write_text(file)
    settings = Settings.from_command_line(words)
    settings.read_files(folder)
    settings.select_chain()
    return settings


def options(folder: Path, *words: str) -> NodeOptions:
    settings = read(folder, "", "-chain=x", *words)
    return node_options(settings, folder, params_from_settings(settings))


@pytest.mark.parametrize(
    ("words", "flag"),
    [
        (["-txindex"], True),
        (["--txindex"], True),
        (["-txindex=1"], True),
        (["-txindex=0"], False),
        (["-notxindex"], False),
        (["-notxindex=0"], True),
        (["-txindex=0", "-txindex=1"], True),
        (["-txindex=1", "-notxindex"], False),
        (["-txindex="], True),
        (["-txindex=yes"], False),
        (["-txindex=2x"], True),
    ],
)
def test_flag_when_written_in_any_form_then_as_elementsd(words: list[str], flag: bool) -> None:
    assert Settings.from_command_line(words).flag("txindex", False) is flag


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["-foo=1"], "Error parsing command line arguments: Invalid parameter -foo=1"),
        (["-regtest.rpcport=1"], "Invalid parameter -regtest.rpcport=1"),
        (["word"], "Command line contains unexpected token 'word'"),
        (["-nodatadir"], "Negating of -datadir is meaningless and therefore forbidden"),
        (["-proxy"], "Can not set -proxy with no value. Please specify value with -proxy=value."),
        (["-includeconf=x"], '-includeconf cannot be used from commandline; -includeconf="x"'),
    ],
)
def test_command_line_when_wrong_then_elementsds_words(words: list[str], text: str) -> None:
    with pytest.raises(OptionError) as refused:
        Settings.from_command_line(words)
    assert text in refused.value.reason


@pytest.mark.parametrize(
    ("file", "words", "value"),
    [
        ("rpcuser=file\nchain=x", [], "file"),
        ("rpcuser=file\nchain=x", ["-rpcuser=line"], "line"),
        ("chain=x\nrpcuser=top\n[x]\nrpcuser=own", [], "own"),
        ("chain=x\nrpcuser=top\n[y]\nrpcuser=other", [], "top"),
        ("chain=x\nx.rpcuser=dotted", [], "dotted"),
        ("chain=x\nrpcuser=first\nrpcuser=second", [], "first"),
        ("chain=x\nrpcuser=first\nnorpcuser=1\nrpcuser=third", [], "third"),
        ("  rpcuser =  spaced  # with a comment\n# rpcuser=no\n\nchain=x", [], "spaced"),
    ],
)
def test_value_when_set_in_several_places_then_the_nearest_counts(
    tmp_path: Path, file: str, words: list[str], value: str
) -> None:
    assert read(tmp_path, file, *words).text("rpcuser") == value


def test_list_when_set_in_several_places_then_all_of_them(tmp_path: Path) -> None:
    file = "chain=x\nrpcauth=c\n[x]\nrpcauth=b"
    assert read(tmp_path, file, "-rpcauth=a").all("rpcauth") == ["a", "b", "c"]
    assert read(tmp_path, file, "-norpcauth", "-rpcauth=a").all("rpcauth") == ["a", "b", "c"]
    assert read(tmp_path, file, "-norpcauth").all("rpcauth") == []
    assert read(tmp_path, file, "-rpcauth=z", "-norpcauth").all("rpcauth") == []


def test_option_of_one_chain_when_at_the_top_of_the_file_then_refused(tmp_path: Path) -> None:
    settings = read(tmp_path, "chain=x\nrpcport=1234")
    assert settings.text("rpcport") is None
    with pytest.raises(OptionError, match=r"-rpcport only applied on x network when in \[x\]"):
        settings.check()
    read(tmp_path, "chain=x\nrpcport=1\n[x]\nrpcport=2").check()
    read(tmp_path, "chain=x\nrpcport=1", "-rpcport=2").check()


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("rpcuser", "parse error on line 1: rpcuser"),
        ("\nnolisten", "if you intended to specify a negated option, use nolisten=1 instead"),
        ("-rpcuser=x", "options in configuration file must be specified without leading -"),
        ("conf=other", "conf cannot be set in the configuration file"),
        ("rpcpassword=a#b", "using # in rpcpassword can be ambiguous"),
        ("nodatadir=1", "Negating of -datadir is meaningless"),
        ("includeconf=missing.conf", "Failed to include configuration file missing.conf"),
    ],
)
def test_file_when_wrong_then_elementsds_words(tmp_path: Path, file: str, text: str) -> None:
    with pytest.raises(OptionError) as refused:
        read(tmp_path, file, "-chain=x")
    assert refused.value.reason.startswith("Error reading configuration file: ")
    assert text in refused.value.reason


def test_name_in_a_file_when_unknown_then_only_a_warning(tmp_path: Path) -> None:
    settings = read(tmp_path, "chain=x\nfoo=1\n[x]\nbar=2")
    assert settings.notes == [
        "Ignoring unknown configuration value foo",
        "Ignoring unknown configuration value x.bar",
    ]


def test_included_file_when_named_then_read_but_not_what_it_includes(tmp_path: Path) -> None:
    (tmp_path / "more.conf").write_text("rpcuser=more\nincludeconf=third.conf")
    (tmp_path / "third.conf").write_text("rpcpassword=never")
    file = "chain=x\nincludeconf=more.conf"
    settings = read(tmp_path, file)
    assert settings.text("rpcuser") == "more" and settings.text("rpcpassword") is None
    assert any("ignoring -includeconf=third.conf" in warning for warning in settings.warnings)
    assert read(tmp_path, file, "-noincludeconf").text("rpcuser") is None
    own = "[x]\nincludeconf=more.conf"
    assert read(tmp_path, own, "-chain=y").text("rpcuser") is None
    assert read(tmp_path, own, "-chain=x").text("rpcuser") == "more"


def test_file_when_named_on_the_command_line_then_it_must_be_there(tmp_path: Path) -> None:
    (tmp_path / "elements.conf").write_text("rpcuser=usual")
    (tmp_path / "other.conf").write_text("rpcuser=other")
    hiding = Settings.from_command_line(["-conf=other.conf"])
    with pytest.raises(OptionError, match="file which is ignored"):
        hiding.read_files(tmp_path)
    named = Settings.from_command_line(["-conf=other.conf", "-allowignoredconf"])
    named.read_files(tmp_path)
    assert named.text("rpcuser") == "other" and len(named.warnings) == 1
    none = Settings.from_command_line(["-noconf"])
    none.read_files(tmp_path)
    assert none.text("rpcuser") is None
    with pytest.raises(OptionError, match="could not be opened"):
        Settings.from_command_line(["-conf=no.conf"]).read_files(tmp_path)


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["-chain=liquidv1"],
        ["-regtest"],
        ["-chain=x", "-testnet"],
        ["-chain=a/b"],
        ["-chain=.."],
        ["-chain="],
    ],
)
def test_chain_when_none_of_ours_is_named_then_refused(tmp_path: Path, words: list[str]) -> None:
    with pytest.raises(OptionError):
        read(tmp_path, "", *words)


def test_option_without_meaning_when_set_then_one_warning_each(tmp_path: Path) -> None:
    settings = read(tmp_path, "chain=x\ndbcache=4", "-listen=0", "-connect=a", "-connect=b")
    settings.check()
    assert [warning.split()[1] for warning in settings.notes] == [
        "-connect",
        "-listen",
        "-dbcache",
    ]
    with pytest.raises(OptionError, match="-prune is not supported"):
        read(tmp_path, "chain=x", "-prune=550").check()
    read(tmp_path, "chain=x", "-prune=0").check()
    # A limit that is not kept must not be thought to be.
    with pytest.raises(OptionError, match="-rpcwhitelist is not supported"):
        read(tmp_path, "chain=x", "-rpcwhitelist=u:getblockcount").check()


def test_rpc_when_options_are_given_then_who_where_and_how(tmp_path: Path) -> None:
    plain = options(tmp_path)
    assert plain.rpc is not None
    assert plain.rpc.addresses[0] == ("127.0.0.1", 7040)
    assert plain.rpc.cookie_path == tmp_path / "x" / ".cookie" and not plain.rpc.logins
    user = options(tmp_path, "-rpcuser=u", "-rpcpassword=p", "-rpcport=5", "-rpcauth=a:b$c")
    assert user.rpc is not None
    assert user.rpc.cookie_path is None and len(user.rpc.logins) == 2
    assert user.rpc.addresses[0] == ("127.0.0.1", 5)
    open_ = options(tmp_path, "-rpcbind=0.0.0.0:9", "-rpcallowip=10.0.0.0/8", "-rpcbind=[::1]")
    assert open_.rpc is not None
    assert open_.rpc.addresses == (("0.0.0.0", 9), ("::1", 7040))
    assert options(tmp_path, "-rpcbind=0.0.0.0").rpc.addresses[0][0] == "127.0.0.1"  # type: ignore[union-attr]
    assert options(tmp_path, "-server=0").rpc is None
    cookie = options(tmp_path, "-rpccookiefile=other", "-rpccookieperms=group")
    assert cookie.rpc is not None
    assert cookie.rpc.cookie_path == tmp_path / "x" / "other" and cookie.rpc.cookie_mode == 0o640


def test_parent_when_options_are_given_then_where_and_how(tmp_path: Path) -> None:
    plain = options(tmp_path)
    assert plain.parent is not None
    assert plain.parent.url == "http://127.0.0.1:18332/" and plain.parent.timeout_s == 900
    assert plain.parent.user_password is None
    assert plain.parent.cookie_path == Path.home() / ".bitcoin" / "regtest" / ".cookie"
    named = options(
        tmp_path,
        "-mainchainrpchost=::1",
        "-mainchainrpcport=9",
        "-mainchainrpcuser=u",
        "-mainchainrpcpassword=p",
        "-mainchainrpctimeout=5",
    )
    assert named.parent is not None
    assert named.parent.url.endswith("//[::1]:9/") and named.parent.user_password == "u:p"
    assert options(tmp_path, "-validatepegin=0").parent is None


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["-rpcport=65536"], "Invalid port specified in -rpcport: '65536'"),
        (["-rpcport=x"], "is not a whole number"),
        (["-rpcauth=a"], "Invalid -rpcauth argument."),
        (["-rpccookieperms=me"], "must be one of 'owner', 'group', or 'all'."),
        (["-rpcallowip=x"], "Invalid -rpcallowip subnet specification: x."),
        (["-rpcbind=x", "-rpcallowip=::/0"], "not an address"),
        (["-maxmempool=1"], "-maxmempool must be at least 5 MB"),
        (["-blockmaxweight=4000001"], "exceeds consensus maximum block weight (4000000)"),
        (["-blockreservedweight=1999"], "lower than minimum safety value of (2000)"),
        (["-blockmintxfee=x"], "Invalid amount for -blockmintxfee=<amount>: 'x'"),
        (["-assetdir=00:a"], "Error in -assetdir: The asset must be hex string of length 64"),
        (["-assetdir=x"], "-assetdir parameters malformed, expecting asset:label"),
        (["-assetdir=" + "11" * 32 + ":bitcoin"], "'bitcoin' label is protected"),
        (
            ["-assetdir=" + "11" * 32 + ":a", "-assetdir=" + "12" * 32 + ":a"],
            "duplicated label 'a'",
        ),
        (
            ["-assetdir=" + "11" * 32 + ":a", "-assetdir=" + "11" * 32 + ":b"],
            "duplicated asset '" + "11" * 32 + "'",
        ),
    ],
)
def test_node_option_when_wrong_then_elementsds_words(
    tmp_path: Path, words: list[str], text: str
) -> None:
    with pytest.raises(InvalidEncoding) as refused:
        options(tmp_path, *words)
    assert text in refused.value.reason


def test_labels_when_given_then_the_pegged_asset_has_one_too(tmp_path: Path) -> None:
    found = options(tmp_path, "-assetdir=" + "11" * 32 + ":gold", "-defaultpeggedassetname=coin")
    assert found.asset_labels["gold"] == bytes.fromhex("11" * 32)
    assert set(found.asset_labels) == {"gold", "coin"}
