"""Every option of elementsd 28.99 by name: those that act here, and those that mean nothing here.

A name that is not in this table is an error, as in elementsd. An option that means nothing here
is accepted, so that existing scripts and files work, and one line says so.

Source: elements/interfaces.md 6, elements/blocks.md 6.6 and 7.1, clients.md 2; the names are
those that elementsd itself answers to.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType


class Role(Enum):
    """What an option does here."""

    CHAIN = "chain"
    """A parameter of the chain or of its policy: it becomes part of `ChainParams`."""
    NODE = "node"
    """Something this process obeys."""
    NOTHING = "nothing"
    """Accepted and without effect."""
    REFUSED = "refused"
    """Known to elementsd and not to be ignored in silence: the start fails when it is set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One option.

    Attributes:
        name: without dashes.
        role: what it does here.
        value: how the value is called in the help, empty for a flag.
        help: what it does, or why it does nothing.
        own_section: in a file it counts only in the section of its chain.
        no_negation: `-noname` is an error.
        needs_value: `-name` without a value is an error.
    """

    name: str
    role: Role
    value: str
    help: str
    own_section: bool = False
    no_negation: bool = False
    needs_value: bool = False


_CHAIN_OPTIONS: Mapping[str, str] = {
    "chain=<name>": "Name of the chain; it enters the genesis block. Needed.",
    "signblockscript=<hex>": "Script that block signatures must satisfy (default: 51).",
    "fedpegscript=<hex>": "Script that guards deposits on the parent chain (default: 51).",
    "con_signed_blocks": "Blocks are signed; only 1 is supported (default: 1).",
    "con_max_block_sig_size=<n>": "Most bytes of a block's signatures (default: 74).",
    "con_blockheightinheader": "Headers name their height (default: 1).",
    "con_elementsmode": "Elements' transaction format; only 1 is supported (default: 1).",
    "con_genesis_style=<style>": "Form of the genesis block; only elements is supported.",
    "con_has_parent_chain": "There is a parent chain to peg to (default: 1).",
    "parentgenesisblockhash=<hex>": "Genesis block of the parent (default: Bitcoin regtest).",
    "con_parentpowlimit=<hex>": "Easiest target of the parent's proof of work.",
    "con_parent_chain_signblockscript=<hex>": "Signers of a parent without proof of work.",
    "con_parent_pegged_asset=<hex>": "Pegged asset on a parent that has assets.",
    "con_start_p2wsh_script": "Deposits go to native P2WSH from the first epoch (default: 0).",
    "con_mandatorycoinbase=<hex>": "Script that every coinbase output with value must pay.",
    "con_blocksubsidy=<n>": "Satoshis created by each block at first (default: 0).",
    "con_nsubsidyhalvinginterval=<n>": "Blocks after which the subsidy halves (default: 150).",
    "con_connect_genesis_outputs": "Genesis outputs can be spent (default: 1).",
    "con_bip34height=<n>": "Height from which coinbases name their height (default: 0).",
    "con_bip65height=<n>": "Height from which CHECKLOCKTIMEVERIFY counts (default: 0).",
    "con_bip66height=<n>": "Height from which signatures are strict DER (default: 0).",
    "con_csv_deploy_start=<n>": "Height from which CHECKSEQUENCEVERIFY counts (default: 1).",
    "con_nminerconfirmationwindow=<n>": "Blocks of one count of version bits (default: 144).",
    "con_nrulechangeactivationthreshold=<n>": "Votes that lock a rule in (default: 108).",
    "con_dyna_deploy_signal": "Templates signal for dynamic federations (default: 1).",
    "testactivationheight=<name@height>": "Height of segwit, bip34, dersig, cltv or csv.",
    "vbparams=<deployment:start:end[:min_activation_height]>": "Version bits of a deployment.",
    "evbparams=<deployment:start:end:period:threshold>": "Same, empty fields keep defaults.",
    "dynamic_epoch_length=<n>": "Blocks of an epoch of dynamic federations (default: 10).",
    "total_valid_epochs=<n>": "Epochs for which a fedpegscript stays valid (default: 2).",
    "enforce_pak": "Peg-outs need an authorization proof (default: 0).",
    "pak=<hex>": "Entry of the first authorization list; may be repeated.",
    "initialfreecoins=<n>": "Satoshis anyone can spend from the genesis block (default: 0).",
    "initialreissuancetokens=<n>": "Reissuance tokens of the genesis block (default: 0).",
    "feeasset=<hex>": "Asset that fees are counted in (default: the pegged asset).",
    "subsidyasset=<hex>": "Asset of the block subsidy (default: the pegged asset).",
    "defaultpeggedassetname=<label>": "Label of the pegged asset (default: bitcoin).",
    "peginconfirmationdepth=<n>": "Depth that a claimed deposit needs (default: 8).",
    "peginminheight=<n>": "Height from which peg-ins have a least amount (default: off).",
    "peginminamount=<amount>": "Least amount of a peg-in in coins (default: 0).",
    "peginsubsidyheight=<n>": "Height from which small peg-ins burn a subsidy (default: off).",
    "peginsubsidythreshold=<amount>": "Peg-ins below it burn the subsidy (default: 0).",
    "validatepegin": "Ask the parent's node about deposits (default: 1 with a parent).",
    "pubkeyprefix=<n>": "Version byte of P2PKH addresses (default: 235).",
    "scriptprefix=<n>": "Version byte of P2SH addresses (default: 75).",
    "blindedprefix=<n>": "Version byte of blinded addresses (default: 4).",
    "secretprefix=<n>": "Version byte of private keys (default: 239).",
    "extpubkeyprefix=<hex>": "Version bytes of extended public keys (default: 043587CF).",
    "extprvkeyprefix=<hex>": "Version bytes of extended private keys (default: 04358394).",
    "bech32_hrp=<text>": "Human-readable part of segwit addresses (default: ert).",
    "blech32_hrp=<text>": "Human-readable part of blinded segwit addresses (default: el).",
    "parentpubkeyprefix=<n>": "Version byte of the parent's P2PKH addresses (default: 111).",
    "parentscriptprefix=<n>": "Version byte of the parent's P2SH addresses (default: 196).",
    "parent_bech32_hrp=<text>": "The parent's segwit addresses (default: bcrt).",
    "parent_blech32_hrp=<text>": "The parent's blinded segwit addresses (default: bcrt).",
    "acceptdiscountct": "Count fees on discounted sizes (default: 1) and show them (default: 0).",
    "creatediscountct": "As -acceptdiscountct; nothing is created here (default: 0).",
    "acceptnonstdtxn": "Relay non-standard transactions too (default: 0).",
    "acceptunlimitedissuances": "Issue more than 21 million coins unblinded (default: 0).",
    "anyonecanspendaremine": "OP_TRUE outputs are a standard type (default: 1).",
    "multi_data_permitted": "Several data outputs are standard (default: -enforce_pak).",
    "minrelaytxfee=<amount>": "Least fee rate to relay, in coins per kvB (default: 0.000001).",
    "dustrelayfee=<amount>": "Fee rate that defines dust (default: 0.000001).",
    "incrementalrelayfee=<amount>": "What a replacement pays on top (default: 0.000001).",
    "datacarrier": "Data outputs are standard (default: 1).",
    "datacarriersize=<n>": "Most bytes of a standard data output (default: 83).",
    "permitbaremultisig": "Multisig outputs without script hash are standard (default: 1).",
    "bytespersigop=<n>": "Virtual bytes that a signature operation counts as (default: 20).",
}
_NODE_OPTIONS: Mapping[str, str] = {
    "?": "As -help.",
    "h": "As -help.",
    "help": "Print this text and exit.",
    "help-debug": "As -help.",
    "version": "Print the version and exit.",
    "datadir=<folder>": "Folder of data (default: ~/.elements); it must exist.",
    "conf=<file>": "Configuration file (default: elements.conf in the data folder).",
    "includeconf=<file>": "Another file to read; only in the configuration file.",
    "allowignoredconf": "Warn instead of failing when -conf hides the folder's own file.",
    "pid=<file>": "File for the process id (default: sidechaind.pid in the chain's folder).",
    "daemon": "Run in the background (default: 0).",
    "daemonwait": "As -daemon, and return when the node is ready (default: 0).",
    "server": "Answer JSON-RPC (default: 1).",
    "rpcuser=<name>": "User of JSON-RPC, with -rpcpassword.",
    "rpcpassword=<password>": "Password of JSON-RPC; without it a cookie file is used.",
    "rpcauth=<user:salt$hash>": "Salted password of one more user; may be repeated.",
    "rpcport=<n>": "Port of JSON-RPC (default: 7040); 0 takes a free one and prints it.",
    "rpcbind=<address[:port]>": "Address to listen on (default: 127.0.0.1).",
    "rpcallowip=<address>": "Who may connect besides this machine; may be repeated.",
    "rpccookiefile=<file>": "The cookie (default: .cookie in the chain's folder).",
    "rpccookieperms=<who>": "Who may read the cookie: owner, group or all (default: owner).",
    "rpcservertimeout=<n>": "Seconds a connection may stay silent (default: 30).",
    "rpcworkqueue=<n>": "Requests that may wait (default: 64).",
    "mainchainrpchost=<host>": "Host of the parent's node (default: 127.0.0.1).",
    "mainchainrpcport=<n>": "Port of the parent's node (default: 18332).",
    "mainchainrpcuser=<name>": "User at the parent's node.",
    "mainchainrpcpassword=<password>": "Password there; without it a cookie file is used.",
    "mainchainrpccookiefile=<file>": "The parent's cookie (default: ~/.bitcoin/regtest/.cookie).",
    "mainchainrpctimeout=<n>": "Seconds for one call of the parent (default: 900).",
    "assetdir=<hex:label>": "Label of an asset; may be repeated.",
    "maxmempool=<n>": "Most megabytes of waiting transactions (default: 300).",
    "persistmempool": "Write the mempool at the end and read it at the start (default: 1).",
    "mempoolexpiry=<n>": "Hours a transaction may wait (default: 336).",
    "limitancestorcount=<n>": "Most waiting ancestors, itself included (default: 25).",
    "limitancestorsize=<n>": "Their kilobytes, itself included (default: 101).",
    "limitdescendantcount=<n>": "Most waiting descendants, itself included (default: 25).",
    "limitdescendantsize=<n>": "Their kilobytes, itself included (default: 101).",
    "blockmaxweight=<n>": "Most weight of a template (default: 4000000).",
    "blockreservedweight=<n>": "Weight a template leaves to header and coinbase (default: 8000).",
    "blockmintxfee=<amount>": "Least fee rate in a template (default: 0.000001).",
    "blockversion=<n>": "Version of templates, for tests.",
    "txindex": "Find transactions of blocks by txid alone (default: 0).",
    "reindex": "Build the chain's state anew from its stored blocks (default: 0).",
    "reindex-chainstate": "As -reindex.",
    "checkblocks=<n>": "Newest blocks to re-check at start, 0 for all (default: 6).",
    "checklevel=<n>": "How thorough that is, 0 to 4 (default: 3).",
    "stopatheight=<n>": "Stop once the chain has this height, for tests (default: 0, never).",
    "maxtipage=<n>": "Seconds after which the tip counts as old (default: 86400).",
    "mocktime=<n>": "Time to take instead of the clock's, for tests (default: 0, none).",
    "blocknotify=<command>": "Run it for every new tip; %s is the block's hash.",
    "startupnotify=<command>": "Run it when the node is ready.",
    "shutdownnotify=<command>": "Run it before the node stops.",
    "debuglogfile=<file>": "The log (default: debug.log in the chain's folder); -no… for none.",
    "printtoconsole": "Log to the standard output too (default: 1 unless -daemon).",
    "shrinkdebugfile": "Cut the log down at start (default: 1).",
}
_OWN_OPTIONS: Mapping[str, str] = {
    "esplora=<port>": "Serve Esplora's routes on this port of the loopback; 0 takes a free one.",
    "second-validation": "Check every block a second time with all caches cold (default: 0).",
}

_NOTHING: Mapping[str, str] = {
    "there is no peer-to-peer network here": (
        "addnode asmap bantime bind blockreconstructionextratxn blocksonly capturemessages"
        " checkaddrman cjdnsreachable connect discover dns dnsseed externalip fixedseeds"
        " forcednsseed i2pacceptincoming i2psam listen listenonion logips maxconnections"
        " maxorphantx maxreceivebuffer maxsendbuffer maxuploadtarget natpmp networkactive onion"
        " onlynet pchmessagestart peerblockfilters peerbloomfilters peertimeout port proxy"
        " proxyrandomize seednode timeout torcontrol torpassword txreconciliation uacomment upnp"
        " v2transport whitebind whitelist whitelistforcerelay whitelistrelay"
    ),
    "there is no wallet here": (
        "addresstype avoidpartialspends blindedaddresses changetype consolidatefeerate ct_bits"
        " ct_exponent disablewallet discardfee fallback_fee_enabled fallbackfee keypool maxapsfee"
        " maxtxfee mintxfee paytxfee signer spendzeroconfchange txconfirmtarget wallet"
        " walletbroadcast walletdir walletnotify walletrbf dblogsize flushwallet privdb"
        " swapbdbendian unsafesqlitesync walletrejectlongchains walletcrosschain"
    ),
    "there are no ZeroMQ notifications here": (
        "zmqpubhashblock zmqpubhashtx zmqpubrawblock zmqpubrawtx zmqpubsequence"
        " zmqpubhashblockhwm zmqpubhashtxhwm zmqpubrawblockhwm zmqpubrawtxhwm zmqpubsequencehwm"
    ),
    "there is no window here": "choosedatadir lang min resetguisettings splash uiplatform",
    "this node sizes its caches and threads by itself": (
        "blocksxor dbbatchsize dbcache maxsigcachesize par rpcthreads"
    ),
    "this node keeps every block and checks all of them": (
        "assumevalid checkpoints con_defaultassumevalid con_nminimumchainwork fastprune"
        " minimumchainwork npruneafterheight trim_headers"
    ),
    "blocks here have no proof of work": (
        "con_bip16exception con_bip34hash con_fpowallowmindifficultyblocks con_fpownoretargeting"
        " con_npowtargetspacing con_npowtargettimespan con_powlimit fmineblocksondemand"
    ),
    "this node has no such index": "blockfilterindex coinstatsindex",
    "it is an aid for elementsd's own developers": (
        "acceptstalefeeestimates checkblockindex checkmempool dbcrashratio deprecatedrpc"
        " fdefaultconsistencychecks forcecompactdb persistmempoolv1 printpriority rpcdoccheck"
        " stopafterblockimport test"
    ),
    "the log has one form and one level": (
        "debug debugexclude loglevel loglevelalways logsourcelocations logthreadnames"
        " logtimemicros logtimestamps"
    ),
    "there are no alerts here": "alertnotify",
    "settings are not changed while the node runs": "settings",
    "there is no REST interface of elementsd here; see -esplora": "rest",
}
_REFUSED: Mapping[str, str] = {
    "blocksdir": "blocks lie in the chain's own folder",
    "loadblock": "blocks come through submitblock",
    "prune": "this node keeps every block",
    "rpcwhitelist": "every user of this node may call every method",
    "rpcwhitelistdefault": "every user of this node may call every method",
    "regtest": "only custom chains are supported: name one with -chain",
    "signet": "only custom chains are supported: name one with -chain",
    "signetchallenge": "only custom chains are supported: name one with -chain",
    "signetseednode": "only custom chains are supported: name one with -chain",
    "testnet": "only custom chains are supported: name one with -chain",
    "testnet4": "only custom chains are supported: name one with -chain",
}
_OWN_SECTION = frozenset(
    ("addnode", "bind", "connect", "port", "rpcbind", "rpcport", "wallet", "walletdir")
)
_NO_NEGATION = frozenset(["datadir", "signetchallenge", "signetseednode"])
_NEEDS_VALUE = frozenset(["proxy", "loglevel"])


def _described(texts: Mapping[str, str], role: Role) -> Iterator[Option]:
    for shown, text in texts.items():
        name, _, value = shown.partition("=")
        yield _option(name, role, text, value)


def _unheeded() -> Iterator[Option]:
    for reason, names in _NOTHING.items():
        for name in names.split():
            yield _option(name, Role.NOTHING, reason)
    for name, reason in _REFUSED.items():
        yield _option(name, Role.REFUSED, reason)


def _option(name: str, role: Role, text: str, value: str = "") -> Option:
    return Option(
        name=name,
        role=role,
        value=value,
        help=text,
        own_section=name in _OWN_SECTION,
        no_negation=name in _NO_NEGATION,
        needs_value=name in _NEEDS_VALUE,
    )


def _table() -> dict[str, Option]:
    table: dict[str, Option] = {}
    for option in (
        *_described(_CHAIN_OPTIONS, Role.CHAIN),
        *_described(_NODE_OPTIONS, Role.NODE),
        *_described(_OWN_OPTIONS, Role.NODE),
        *_unheeded(),
    ):
        if option.name in table:
            raise ValueError(f"option -{option.name} is in the table twice")
        table[option.name] = option
    return table


OPTIONS: Mapping[str, Option] = MappingProxyType(_table())
"""All options by name."""

OWN_NAMES = frozenset(shown.partition("=")[0] for shown in _OWN_OPTIONS)
"""Names that elementsd does not have."""


def help_text() -> str:
    """What `-help` prints: the options that act here, then the names that mean nothing here."""
    lines = ["Usage: sidechaind [options]", ""]
    for title, role in (("Options:", Role.NODE), ("Chain and policy:", Role.CHAIN)):
        lines += [title, ""]
        for option in sorted(OPTIONS.values(), key=lambda option: option.name):
            if option.role is role:
                value = f"={option.value}" if option.value else ""
                lines += [f"  -{option.name}{value}", f"       {option.help}", ""]
    unheeded = sorted(name for name, option in OPTIONS.items() if option.role is Role.NOTHING)
    lines += ["Accepted without effect:", "", "  " + " ".join(f"-{name}" for name in unheeded)]
    return "\n".join(lines)
