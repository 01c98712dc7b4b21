"""The parameters of a chain from elementsd's options.

Defaults are elementsd's for custom chains, with one exception that clients.md fact 4 asks for:
fees are counted on discounted sizes unless `-acceptdiscountct=0` says otherwise. Decoded
transactions show discounted sizes only after `-acceptdiscountct=1`, as elementsd's do.

Source: elements/blocks.md 6.6, 7.1 and 8.1, elements/peg.md 3.4, clients.md 1.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sidechain.daemon.options import OPTIONS, Role
from sidechain.daemon.settings import OptionError, Settings
from sidechain.params import (
    BITCOIN_REGTEST,
    BITCOIN_REGTEST_GENESIS_HASH,
    DEFAULT_PAK_LIST,
    DEPLOYMENTS,
    ELEMENTS_REGTEST,
    MAX_MONEY_SATS,
    REGTEST_POW_LIMIT,
    AddressPrefixes,
    ChainParams,
    Deployment,
)
from sidechain.primitives.genesis import chain_params

_OP_TRUE = b"\x51"
_MAX_HEIGHT = 2**31 - 1
_TARGET = re.compile(r"[0-9a-fA-F]{1,64}")
_ACTIVATION_NAMES = frozenset(("segwit", "bip34", "dersig", "cltv", "csv"))

_FLAGS = {
    "con_signed_blocks": ("signed_blocks", True),
    "con_blockheightinheader": ("block_height_in_header", True),
    "con_elementsmode": ("elements_mode", True),
    "con_start_p2wsh_script": ("start_p2wsh_script", False),
    "con_connect_genesis_outputs": ("connect_genesis_outputs", True),
    "con_has_parent_chain": ("has_parent_chain", True),
    "con_dyna_deploy_signal": ("signal_dynafed", True),
    "enforce_pak": ("enforce_pak", False),
    "acceptnonstdtxn": ("accept_nonstandard", False),
    "acceptunlimitedissuances": ("accept_unlimited_issuances", False),
    "anyonecanspendaremine": ("anyone_can_spend_standard", True),
    "permitbaremultisig": ("permit_bare_multisig", True),
}
_INTEGERS = {
    "con_max_block_sig_size": ("max_block_sig_size", 74),
    "con_blocksubsidy": ("block_subsidy_sats", 0),
    "con_nsubsidyhalvinginterval": ("subsidy_halving_blocks", 150),
    "con_bip34height": ("bip34_height", 0),
    "con_bip65height": ("bip65_height", 0),
    "con_bip66height": ("bip66_height", 0),
    "con_csv_deploy_start": ("csv_height", 1),
    "con_nminerconfirmationwindow": ("miner_confirmation_window", 144),
    "con_nrulechangeactivationthreshold": ("rule_change_activation_threshold", 108),
    "dynamic_epoch_length": ("dynamic_epoch_length", 10),
    "total_valid_epochs": ("total_valid_epochs", 2),
    "initialfreecoins": ("initial_free_coins_sats", 0),
    "initialreissuancetokens": ("initial_reissuance_tokens", 0),
    "peginconfirmationdepth": ("pegin_confirmation_depth", 8),
    "bytespersigop": ("bytes_per_sigop", 20),
}
_AT_LEAST_ONE = frozenset(
    (
        "con_nsubsidyhalvinginterval",
        "con_nminerconfirmationwindow",
        "dynamic_epoch_length",
        "total_valid_epochs",
    )
)
_NON_NEGATIVE = frozenset(
    (
        "con_max_block_sig_size",
        "con_blocksubsidy",
        "initialfreecoins",
        "initialreissuancetokens",
        "bytespersigop",
    )
)
_AMOUNTS = {
    "minrelaytxfee": ("min_relay_fee_sats_per_kvb", 100),
    "dustrelayfee": ("dust_relay_fee_sats_per_kvb", 100),
    "incrementalrelayfee": ("incremental_relay_fee_sats_per_kvb", 100),
    "peginminamount": ("pegin_min_sats", 0),
    "peginsubsidythreshold": ("pegin_subsidy_threshold_sats", 0),
}
_HASHES = {
    "parentgenesisblockhash": ("parent_genesis_hash", BITCOIN_REGTEST_GENESIS_HASH),
    "con_parent_pegged_asset": ("parent_pegged_asset", bytes(32)),
}
_SCRIPTS = {
    "signblockscript": ("signblockscript", _OP_TRUE),
    "con_mandatorycoinbase": ("mandatory_coinbase", b""),
    "con_parent_chain_signblockscript": ("parent_chain_signblockscript", b""),
}
_HEIGHTS = {"peginminheight": "pegin_min_height", "peginsubsidyheight": "pegin_subsidy_height"}


def params_from_options(options: Sequence[str]) -> ChainParams:
    """Parameters from command line options (`-name=value`) that concern the chain only.

    Options that concern only the running of a node (ports, credentials, caches) are no
    parameters and must not be given; `-mainchainrpc…` ones are passed over.

    Raises:
        InvalidEncoding: unknown or malformed option, or a chain that is not supported.
    """
    settings = Settings.from_command_line(options)
    for name in settings.command_line:
        if OPTIONS[name].role is not Role.CHAIN and not name.startswith("mainchainrpc"):
            raise OptionError(f"option -{name} does not concern the chain")
    settings.select_chain()
    return params_from_settings(settings)


def params_from_settings(settings: Settings) -> ChainParams:
    """Parameters of the chain that was selected.

    Raises:
        InvalidEncoding: a malformed value, or a chain that is not supported.
    """
    fields: dict[str, Any] = {}
    for option, (field, flag) in _FLAGS.items():
        fields[field] = settings.flag(option, flag)
    for option, (field, number) in _INTEGERS.items():
        fields[field] = _bounded(option, settings.integer(option, number))
    for option, (field, sats) in _AMOUNTS.items():
        fields[field] = settings.amount_sats(option, sats)
    for option, (field, default) in _HASHES.items():
        fields[field] = settings.hash(option, default)
    for option, (field, default) in _SCRIPTS.items():
        fields[field] = settings.hex_bytes(option, default)
    # Unlike the others, an empty fedpegscript is the default one.
    fields["fedpegscript"] = settings.hex_bytes("fedpegscript", b"") or _OP_TRUE
    fields |= _peg_heights(settings) | _deployments(settings) | _policy(settings)
    _check_amounts(settings, fields)
    return chain_params(
        name=settings.section,
        parent_pow_limit=_target(settings),
        pak=_pak(settings) or DEFAULT_PAK_LIST,
        genesis_style=settings.text("con_genesis_style") or "elements",
        pegged_asset_name=_label(settings),
        validate_pegin=settings.flag("validatepegin", fields["has_parent_chain"]),
        segwit_height=_segwit_height(settings),
        prefixes=_prefixes(settings),
        parent_prefixes=_parent_prefixes(settings),
        **_assets(settings),
        **fields,
    )


def _policy(settings: Settings) -> dict[str, Any]:
    create = settings.flag("creatediscountct", False)
    fields: dict[str, Any] = {
        "accept_discount_ct": settings.flag("acceptdiscountct", True) or create,
        "show_discount_ct": settings.flag("acceptdiscountct", False) or create,
        "multi_data_permitted": settings.flag(
            "multi_data_permitted", settings.flag("enforce_pak", False)
        ),
        "max_data_carrier_bytes": None,
    }
    if settings.flag("datacarrier", True):
        fields["max_data_carrier_bytes"] = settings.integer("datacarriersize", 83)
    return fields


def _check_amounts(settings: Settings, fields: dict[str, Any]) -> None:
    incremental = fields["incremental_relay_fee_sats_per_kvb"]
    if not settings.is_set("minrelaytxfee"):
        # Setting only the increment raises the floor with it.
        floor = max(fields["min_relay_fee_sats_per_kvb"], incremental)
        fields["min_relay_fee_sats_per_kvb"] = floor
    if fields["pegin_subsidy_threshold_sats"] < fields["pegin_min_sats"]:
        raise OptionError(
            f"Peg-in subsidy threshold ({settings.text('peginsubsidythreshold') or '0.00'}) must"
            " be greater than or equal to peg-in minimum amount"
            f" ({settings.text('peginminamount')})"
        )
    for name in ("initial_free_coins_sats", "block_subsidy_sats"):
        if fields[name] > MAX_MONEY_SATS:
            raise OptionError("more coins than 21 million")


def _bounded(option: str, number: int) -> int:
    least = 1 if option in _AT_LEAST_ONE else 0 if option in _NON_NEGATIVE else -_MAX_HEIGHT
    if number < least:
        raise OptionError(f"-{option}={number} must be at least {least}")
    return number


def _peg_heights(settings: Settings) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for option, field in _HEIGHTS.items():
        height = settings.integer(option, _MAX_HEIGHT)
        if height < 0:
            raise OptionError(f"Invalid block height ({height}) for -{option}. Must be positive.")
        fields[field] = height if height < _MAX_HEIGHT else None
    return fields


def _deployments(settings: Settings) -> dict[str, Any]:
    found = dict(DEPLOYMENTS)
    for text in settings.all("vbparams"):
        name, *numbers = _deployment_fields(text, (3, 4), "deployment:start:end")
        start, timeout, least = (*map(_deployment_number, numbers), 0)[:3]
        found[name] = replace(
            found[name], start=start, timeout=timeout, min_activation_height=least
        )
    seen: set[str] = set()
    for text in settings.all("evbparams"):
        name, *numbers = _deployment_fields(text, (5,), "deployment:start:end:period:threshold")
        if name in seen:
            settings.warnings.append(f"ignoring a second -evbparams of {name}: {text}")
            continue
        seen.add(name)
        given = [None if number == "" else _deployment_number(number) for number in numbers]
        found[name] = _changed(found[name], *given)
    return found


def _changed(
    known: Deployment,
    start: int | None,
    timeout: int | None,
    period: int | None,
    threshold: int | None,
) -> Deployment:
    """A deployment with the fields given; without a count of its own it never gets one."""
    return replace(
        known,
        start=known.start if start is None else start,
        timeout=known.timeout if timeout is None else timeout,
        period=known.period if period is None or known.period is None else period,
        threshold=known.threshold if threshold is None or known.period is None else threshold,
    )


def _deployment_fields(text: str, counts: tuple[int, ...], form: str) -> list[str]:
    fields = text.split(":")
    if len(fields) not in counts:
        raise OptionError(f"Version bits parameters malformed, expecting {form}")
    if fields[0] not in DEPLOYMENTS:
        raise OptionError(f"Invalid deployment ({fields[0]})")
    return fields


def _deployment_number(text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise OptionError(f"Invalid number ({text}) of a deployment") from error


def _segwit_height(settings: Settings) -> int:
    """Of the heights of `-testactivationheight`, a custom chain heeds this one alone."""
    height = 0
    for text in settings.all("testactivationheight"):
        name, at, number = text.partition("@")
        if not at or name not in _ACTIVATION_NAMES or not number.isdigit():
            raise OptionError(f"Invalid activation values for -testactivationheight={text}")
        if name == "segwit":
            height = int(number)
    return height


def _target(settings: Settings) -> int:
    text = settings.text("con_parentpowlimit")
    if text is None:
        return REGTEST_POW_LIMIT
    digits = text.removeprefix("0x")
    if not _TARGET.fullmatch(digits):
        raise OptionError(f"-con_parentpowlimit={text} is not a target")
    return int(digits, 16)


def _pak(settings: Settings) -> tuple[bytes, ...]:
    try:
        return tuple(bytes.fromhex(text) for text in settings.all("pak"))
    except ValueError as error:
        raise OptionError("-pak is not hex") from error


def _label(settings: Settings) -> str:
    text = settings.text("defaultpeggedassetname")
    return "bitcoin" if text is None else text


def _assets(settings: Settings) -> dict[str, bytes]:
    options = {"feeasset": "policy_asset", "subsidyasset": "subsidy_asset"}
    return {
        field: settings.hash(option, b"")
        for option, field in options.items()
        if settings.is_set(option)
    }


def _byte(settings: Settings, option: str, default: int) -> int:
    # elementsd keeps the low eight bits.
    return settings.integer(option, default) & 0xFF


def _prefixes(settings: Settings) -> AddressPrefixes:
    known = ELEMENTS_REGTEST
    return replace(
        known,
        pubkey=_byte(settings, "pubkeyprefix", known.pubkey),
        script=_byte(settings, "scriptprefix", known.script),
        blinded=_byte(settings, "blindedprefix", known.blinded or 0),
        secret=_byte(settings, "secretprefix", known.secret),
        bech32_hrp=settings.text("bech32_hrp") or known.bech32_hrp,
        blech32_hrp=settings.text("blech32_hrp") or known.blech32_hrp,
        extended_public=_version(settings, "extpubkeyprefix", known.extended_public),
        extended_secret=_version(settings, "extprvkeyprefix", known.extended_secret),
    )


def _parent_prefixes(settings: Settings) -> AddressPrefixes:
    known = BITCOIN_REGTEST
    return replace(
        known,
        pubkey=_byte(settings, "parentpubkeyprefix", known.pubkey),
        script=_byte(settings, "parentscriptprefix", known.script),
        bech32_hrp=settings.text("parent_bech32_hrp") or known.bech32_hrp,
        blech32_hrp=settings.text("parent_blech32_hrp") or known.blech32_hrp,
    )


def _version(settings: Settings, option: str, default: bytes) -> bytes:
    found = settings.hex_bytes(option, default)
    if len(found) != 4:
        raise OptionError(f"-{option} must be hex string of length 8")
    return found
