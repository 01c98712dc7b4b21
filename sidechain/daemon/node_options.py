"""What a node is told beside its chain: files, RPC, the parent's node, limits, notifications."""

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from sidechain.api.credentials import Login, SaltedLogin
from sidechain.daemon.settings import OptionError, Settings
from sidechain.mempool.relations import Limits
from sidechain.params import MAX_BLOCK_WEIGHT_WU, ChainParams
from sidechain.policy.template import TemplateRules

RPC_PORT = 7040
PARENT_RPC_PORT = 18332
PARENT_TIMEOUT_S = 900
MAX_TIP_AGE_S = 24 * 3600
CHECK_BLOCKS = 6
CHECK_LEVEL = 3
RESERVED_WEIGHT_WU = 8_000
MIN_RESERVED_WEIGHT_WU = 2_000
_PROTECTED_LABELS = ("", "*", "bitcoin", "Bitcoin", "btc")
_COOKIE_MODES = {"owner": 0o600, "group": 0o640, "all": 0o644}


@dataclass(frozen=True, slots=True, kw_only=True)
class RpcOptions:
    """The JSON-RPC server. Port 0 lets the system choose; no cookie where its path is None.

    `addresses` has at least one; `allow` names networks that may connect besides this machine.
    """

    addresses: tuple[tuple[str, int], ...]
    allow: tuple[str, ...]
    logins: tuple[Login | SaltedLogin, ...]
    cookie_path: Path | None
    cookie_mode: int
    idle_timeout_s: int
    waiting_requests: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ParentOptions:
    """The parent's node; `user_password` None takes the cookie."""

    url: str
    user_password: str | None
    cookie_path: Path
    timeout_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NotifyOptions:
    """Commands to run; None for none."""

    block: str | None
    startup: tuple[str, ...]
    shutdown: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeOptions:
    """Everything a node is told beside the parameters of its chain.

    Attributes:
        folder: of the chain, `<datadir>/<chain>`.
        log_path: None for no file.
        parent: None where peg-ins are not checked against the parent's node.
        asset_labels: asset id in internal order by label, the pegged asset included.
        check_blocks: newest blocks to re-check at start, 0 for all.
        stop_at_height: 0 for never.
        esplora_port: None for no such server.
    """

    folder: Path
    pid_path: Path | None
    log_path: Path | None
    log_to_console: bool
    shrink_log: bool
    rpc: RpcOptions | None
    parent: ParentOptions | None
    limits: Limits
    template: TemplateRules
    notify: NotifyOptions
    asset_labels: dict[str, bytes]
    persist_mempool: bool
    transaction_index: bool
    reindex: bool
    check_blocks: int
    check_level: int
    stop_at_height: int
    max_tip_age_s: int
    mock_time_s: int
    esplora_port: int | None
    second_validation: bool


def node_options(settings: Settings, folder: Path, params: ChainParams) -> NodeOptions:
    """Read them.

    Args:
        folder: the data folder, without the chain's name.
    Raises:
        OptionError: malformed, or something this program does not do.
    """
    own = folder / params.name
    return NodeOptions(
        folder=own,
        pid_path=_file(settings, "pid", own, "sidechaind.pid"),
        log_path=_file(settings, "debuglogfile", own, "debug.log"),
        log_to_console=settings.flag("printtoconsole", not is_background(settings)),
        shrink_log=settings.flag("shrinkdebugfile", True),
        rpc=_rpc(settings, own) if settings.flag("server", True) else None,
        parent=_parent(settings) if params.validate_pegin else None,
        limits=_limits(settings),
        template=_template(settings),
        notify=NotifyOptions(
            block=settings.text("blocknotify") or None,
            startup=tuple(settings.all("startupnotify")),
            shutdown=tuple(settings.all("shutdownnotify")),
        ),
        asset_labels=_asset_labels(settings, params),
        persist_mempool=settings.flag("persistmempool", True),
        transaction_index=settings.flag("txindex", False),
        reindex=settings.flag("reindex", False) or settings.flag("reindex-chainstate", False),
        check_blocks=_at_least_zero(settings, "checkblocks", CHECK_BLOCKS),
        check_level=_at_least_zero(settings, "checklevel", CHECK_LEVEL),
        stop_at_height=_at_least_zero(settings, "stopatheight", 0),
        max_tip_age_s=_at_least_zero(settings, "maxtipage", MAX_TIP_AGE_S),
        mock_time_s=_at_least_zero(settings, "mocktime", 0),
        esplora_port=_port(settings, "esplora", 0) if settings.is_set("esplora") else None,
        second_validation=settings.flag("second-validation", False),
    )


def is_background(settings: Settings) -> bool:
    """Whether the node runs behind the terminal that starts it."""
    return settings.flag("daemon", False) or settings.flag("daemonwait", False)


def data_folder(settings: Settings) -> Path:
    """The data folder; one that is named must exist.

    Raises:
        OptionError: it does not.
    """
    named = settings.text("datadir")
    if not named:
        return Path.home() / ".elements"
    path = Path(named).absolute()
    if not path.is_dir():
        raise OptionError(f'Specified data directory "{named}" does not exist.')
    return path


def _file(settings: Settings, option: str, folder: Path, default: str) -> Path | None:
    if settings.is_negated(option):
        return None
    return folder / (settings.text(option) or default)


def _at_least_zero(settings: Settings, option: str, default: int) -> int:
    number = settings.integer(option, default)
    if number < 0:
        raise OptionError(f"-{option}={number} must not be negative")
    return number


def _port(settings: Settings, option: str, default: int) -> int:
    number = settings.integer(option, default)
    if not 0 <= number <= 65_535:
        raise OptionError(f"Invalid port specified in -{option}: '{settings.text(option)}'")
    return number


def _rpc(settings: Settings, folder: Path) -> RpcOptions:
    password = settings.text("rpcpassword") or ""
    logins: list[Login | SaltedLogin] = []
    if password:
        logins.append(Login(user=settings.text("rpcuser") or "", password=password))
    try:
        logins += map(SaltedLogin.parse, settings.all("rpcauth"))
    except ValueError as error:
        raise OptionError(str(error)) from error
    readers = settings.text("rpccookieperms") or "owner"
    if readers not in _COOKIE_MODES:
        raise OptionError(
            f"Invalid -rpccookieperms={readers}; must be one of 'owner', 'group', or 'all'."
        )
    allow = tuple(settings.all("rpcallowip"))
    for network in allow:
        _check_network(network)
    return RpcOptions(
        addresses=_addresses(settings, allow, _port(settings, "rpcport", RPC_PORT)),
        allow=allow,
        logins=tuple(logins),
        cookie_path=None if password else _file(settings, "rpccookiefile", folder, ".cookie"),
        cookie_mode=_COOKIE_MODES[readers],
        idle_timeout_s=max(settings.integer("rpcservertimeout", 30), 1),
        waiting_requests=max(settings.integer("rpcworkqueue", 64), 1),
    )


def _check_network(text: str) -> None:
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError as error:
        raise OptionError(
            f"Invalid -rpcallowip subnet specification: {text}. Valid values are a single IP"
            " (e.g. 1.2.3.4), a network/netmask (e.g. 1.2.3.4/255.255.255.0), a network/CIDR"
            " (e.g. 1.2.3.4/24), all ipv4 (0.0.0.0/0), or all ipv6 (::/0)."
        ) from error


def _addresses(
    settings: Settings, allow: tuple[str, ...], port: int
) -> tuple[tuple[str, int], ...]:
    """Addresses and ports to listen on: those of `-rpcbind`, by default the loopback."""
    binds = settings.all("rpcbind")
    if binds and not allow:
        settings.notes.append(
            "option -rpcbind was ignored because -rpcallowip was not specified, refusing to"
            " allow everyone to connect"
        )
    if not binds or not allow:
        return ("127.0.0.1", port), ("::1", port)
    found = []
    for text in binds:
        host, own_port = _split_address(text)
        try:
            address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
        except ValueError as error:
            raise OptionError(f"-rpcbind={text}: not an address") from error
        found.append((str(address), port if own_port is None else own_port))
    return tuple(found)


def _split_address(text: str) -> tuple[str, int | None]:
    host, colon, port = text.rpartition(":")
    if text.startswith("[") and text.endswith("]"):
        return text[1:-1], None
    if not colon or (":" in host and not host.startswith("[")):
        return text, None
    if not port.isdigit() or int(port) > 65_535:
        raise OptionError(f"Invalid port specified in -rpcbind: '{text}'")
    return host.strip("[]"), int(port)


def _parent(settings: Settings) -> ParentOptions:
    password = settings.text("mainchainrpcpassword") or ""
    host = settings.text("mainchainrpchost") or "127.0.0.1"
    if ":" in host and not host.startswith("["):
        host = f"[{host}]"
    port = _port(settings, "mainchainrpcport", PARENT_RPC_PORT)
    cookie = settings.text("mainchainrpccookiefile")
    parent_folder = Path.home() / ".bitcoin"
    return ParentOptions(
        url=f"http://{host}:{port}/",
        user_password=f"{settings.text('mainchainrpcuser') or ''}:{password}" if password else None,
        cookie_path=parent_folder / (cookie or "regtest/.cookie"),
        timeout_s=_at_least_zero(settings, "mainchainrpctimeout", PARENT_TIMEOUT_S),
    )


def _limits(settings: Settings) -> Limits:
    defaults = Limits()
    limits = Limits(
        bytes=settings.integer("maxmempool", 300) * 1_000_000,
        ancestors=settings.integer("limitancestorcount", defaults.ancestors),
        ancestor_vbytes=_kilobytes(settings, "limitancestorsize", defaults.ancestor_vbytes),
        descendants=settings.integer("limitdescendantcount", defaults.descendants),
        descendant_vbytes=_kilobytes(settings, "limitdescendantsize", defaults.descendant_vbytes),
        expiry_s=settings.integer("mempoolexpiry", 336) * 3600,
    )
    if limits.bytes < 0 or limits.bytes < limits.bytes_min:
        least = -(-limits.bytes_min // 1_000_000)
        raise OptionError(f"-maxmempool must be at least {least} MB")
    return limits


def _kilobytes(settings: Settings, option: str, default_bytes: int) -> int:
    return settings.integer(option, default_bytes // 1000) * 1000


def _template(settings: Settings) -> TemplateRules:
    weight = settings.integer("blockmaxweight", MAX_BLOCK_WEIGHT_WU)
    reserved = settings.integer("blockreservedweight", RESERVED_WEIGHT_WU)
    for option, number in (("blockmaxweight", weight), ("blockreservedweight", reserved)):
        if number > MAX_BLOCK_WEIGHT_WU:
            raise OptionError(
                f"Specified -{option} ({number}) exceeds consensus maximum block weight"
                f" ({MAX_BLOCK_WEIGHT_WU})"
            )
    if reserved < MIN_RESERVED_WEIGHT_WU:
        raise OptionError(
            f"Specified -blockreservedweight ({reserved}) is lower than minimum safety value of"
            f" ({MIN_RESERVED_WEIGHT_WU})"
        )
    return TemplateRules(
        max_weight_wu=max(weight, reserved),
        reserved_weight_wu=reserved,
        min_fee_sats_per_kvb=settings.amount_sats("blockmintxfee", 100),
        version=settings.integer("blockversion", 0) if settings.is_set("blockversion") else None,
    )


def _asset_labels(settings: Settings, params: ChainParams) -> dict[str, bytes]:
    labels: dict[str, bytes] = {}
    for text in settings.all("assetdir"):
        shown, colon, label = text.partition(":")
        if not colon:
            raise _label_error("-assetdir parameters malformed, expecting asset:label")
        try:
            asset = bytes.fromhex(shown)[::-1]
        except ValueError:
            asset = b""
        if len(asset) != 32:
            raise _label_error("The asset must be hex string of length 64")
        if label in _PROTECTED_LABELS:
            raise _label_error(f"'{label}' label is protected")
        _add_label(labels, label, asset)
    _add_label(labels, params.pegged_asset_name, params.pegged_asset)
    return labels


def _add_label(labels: dict[str, bytes], label: str, asset: bytes) -> None:
    if asset in labels.values():
        raise _label_error(f"duplicated asset '{asset[::-1].hex()}'")
    if label in labels:
        raise _label_error(f"duplicated label '{label}'")
    labels[label] = asset


def _label_error(text: str) -> OptionError:
    return OptionError(f"Error in -assetdir: {text}")
