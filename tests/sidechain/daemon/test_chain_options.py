"""Parameters of a chain from elementsd's options."""

import pytest

from sidechain.daemon.chain_options import params_from_options
from sidechain.errors import InvalidEncoding
from sidechain.params import BITCOIN_REGTEST, DEFAULT_PAK_LIST, NEVER_ACTIVE, Deployment


def test_options_when_absent_leave_the_defaults_of_elements() -> None:
    params = params_from_options(["-chain=plain"])
    assert params.signblockscript == params.fedpegscript == b"\x51"
    assert params.max_block_sig_size == 74
    assert params.pak == DEFAULT_PAK_LIST
    assert params.parent_prefixes == BITCOIN_REGTEST
    assert not params.multi_data_permitted


def test_options_when_given_reach_their_fields() -> None:
    pak = "02" * 66
    params = params_from_options(
        [
            "-chain=many",
            f"-pak={pak}",
            f"-pak={pak}",
            "-con_parentpowlimit=00ff",
            "-con_start_p2wsh_script",
            "-enforce_pak=1",
            "-bech32_hrp=xx",
            "-mainchainrpcport=18443",
            "-evbparams=taproot:-1:::",
        ]
    )
    assert params.pak == (bytes.fromhex(pak),) * 2
    assert params.parent_pow_limit == 255
    assert params.start_p2wsh_script
    assert params.multi_data_permitted
    assert params.prefixes.bech32_hrp == "xx"


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["-chain=x", "-no_such_option=1"],
        ["-chain=x", "-con_max_block_sig_size=many"],
        ["-chain=x", "-signblockscript=5"],
        ["-chain=x", "-parentgenesisblockhash=00ff"],
        ["-chain=x", "-parentgenesisblockhash=" + "00" * 32],
        ["-chain=x", "-con_has_parent_chain=0"],
        ["-chain=x", "-con_signed_blocks=0"],
        ["-chain=x", "-con_elementsmode=0"],
        ["-chain=x", "-con_genesis_style=bitcoin"],
        ["-chain=x", "-evbparams=dynafed:0::"],
        ["-chain=x", "-evbparams=nosuch:0:::"],
        ["-chain=x", "-vbparams=dynafed:0"],
        ["-chain=x", "-evbparams=simplicity:-1:::"],
        ["-chain=x", "-vbparams=simplicity:500:1000"],
        ["-chain=x", "-testactivationheight=segwit"],
        ["-chain=x", "-testactivationheight=other@5"],
        ["-chain=x", "-con_nminerconfirmationwindow=0"],
        ["-chain=x", "-dynamic_epoch_length=0"],
        ["-chain=liquidv1"],
    ],
)
def test_options_of_a_chain_we_do_not_run_are_refused(options: list[str]) -> None:
    with pytest.raises(InvalidEncoding):
        params_from_options(options)


def test_discount_when_not_chosen_then_fees_are_discounted_but_nothing_more_is_shown() -> None:
    """clients.md fact 4; elementsd's own default on custom chains does not discount."""
    silent = params_from_options(["-chain=x"])
    assert silent.accept_discount_ct and not silent.show_discount_ct
    on = params_from_options(["-chain=x", "-acceptdiscountct=1"])
    assert on.accept_discount_ct and on.show_discount_ct
    off = params_from_options(["-chain=x", "-acceptdiscountct=0"])
    assert not off.accept_discount_ct and not off.show_discount_ct
    both = params_from_options(["-chain=x", "-acceptdiscountct=0", "-creatediscountct=1"])
    assert both.accept_discount_ct and both.show_discount_ct


def test_parent_when_there_is_none_then_peg_ins_are_not_validated() -> None:
    alone = params_from_options(
        ["-chain=x", "-con_has_parent_chain=0", "-parentgenesisblockhash=" + "00" * 32]
    )
    assert not alone.has_parent_chain and not alone.validate_pegin


def test_peg_in_minimum_when_above_the_subsidy_threshold_then_refused() -> None:
    minimum = ["-chain=x", "-peginminamount=0.5", "-peginminheight=3"]
    with pytest.raises(InvalidEncoding, match="must be greater than or equal"):
        params_from_options(minimum)
    params = params_from_options([*minimum, "-peginsubsidythreshold=0.50"])
    assert params.pegin_min_sats == params.pegin_subsidy_threshold_sats == 50_000_000
    assert params.pegin_min_height == 3 and params.pegin_subsidy_height is None


def test_increment_when_raised_alone_then_the_relay_floor_follows() -> None:
    params = params_from_options(["-chain=x", "-incrementalrelayfee=0.00002"])
    assert params.min_relay_fee_sats_per_kvb == 2_000
    both = ["-chain=x", "-incrementalrelayfee=0.00002", "-minrelaytxfee=0.00001"]
    assert params_from_options(both).min_relay_fee_sats_per_kvb == 1_000


@pytest.mark.parametrize(
    ("option", "start", "timeout", "period", "threshold"),
    [
        ("-evbparams=dynafed:0:500:10:8", 0, 500, None, None),
        ("-evbparams=dynafed:-1:::", -1, 2**63 - 1, None, None),
        ("-evbparams=taproot:0::10:8", 0, 2**63 - 1, 10, 8),
        ("-evbparams=taproot::::", -1, 2**63 - 1, 128, 128),
        ("-vbparams=testdummy:7:9", 7, 9, None, None),
    ],
)
def test_deployment_when_set_then_only_those_with_a_count_of_their_own_change_it(
    option: str, start: int, timeout: int, period: int | None, threshold: int | None
) -> None:
    """elements/blocks.md 8.1."""
    params = params_from_options(["-chain=x", option])
    found = getattr(params, option.partition("=")[2].partition(":")[0])
    assert (found.start, found.timeout) == (start, timeout)
    assert (found.period, found.threshold) == (period, threshold)


@pytest.mark.parametrize(
    "option",
    [
        "-evbparams=dynafed:-1",
        "-evbparams=nothing:-1:::",
        "-evbparams=dynafed:x:::",
        "-vbparams=dynafed:1",
        "-vbparams=dynafed:1:2:3:4",
        "-testactivationheight=segwit",
        "-testactivationheight=nothing@4",
        "-peginminheight=-1",
        "-dynamic_epoch_length=0",
        "-total_valid_epochs=0",
        "-initialfreecoins=-1",
        "-minrelaytxfee=1.000000001",
        "-minrelaytxfee=",
        "-con_parentpowlimit=",
        "-extpubkeyprefix=00",
        "-pak=zz",
        "-rpcport=1",
    ],
)
def test_chain_option_when_malformed_then_refused(option: str) -> None:
    with pytest.raises(InvalidEncoding):
        params_from_options(["-chain=x", option])


def test_deployments_when_given_by_options_then_as_elements_reads_them() -> None:
    params = params_from_options(
        [
            "-chain=bits",
            "-evbparams=dynafed:5::7:8",
            "-evbparams=dynafed:900:::",
            "-evbparams=taproot:10:500:20:",
            "-vbparams=dynafed:1:400:300",
            "-vbparams=testdummy:-2:0",
            "-testactivationheight=segwit@12",
            "-testactivationheight=bip34@99",
            "-con_bip66height=3",
        ]
    )
    # The period of dynafed is the chain's own, whatever is asked for, and the first one counts.
    assert params.dynafed == Deployment(bit=25, start=5, timeout=400, min_activation_height=300)
    assert params.taproot == Deployment(bit=2, start=10, timeout=500, period=20, threshold=128)
    assert params.testdummy.start == NEVER_ACTIVE
    assert (params.segwit_height, params.bip34_height, params.bip66_height) == (12, 0, 3)
