"""The table of options: complete, and each with a use or a reason."""

import pytest

from sidechain.daemon.chain_options import params_from_options
from sidechain.daemon.options import OPTIONS, OWN_NAMES, Role, help_text

_RECORDED_NAMES = """
? acceptdiscountct acceptnonstdtxn acceptstalefeeestimates acceptunlimitedissuances addnode
addresstype alertnotify allowignoredconf anyonecanspendaremine asmap assetdir assumevalid
avoidpartialspends bantime bech32_hrp bind blech32_hrp blindedaddresses blindedprefix
blockfilterindex blockmaxweight blockmintxfee blocknotify blockreconstructionextratxn
blockreservedweight blocksdir blocksonly blocksxor blockversion bytespersigop capturemessages
chain changetype checkaddrman checkblockindex checkblocks checklevel checkmempool checkpoints
choosedatadir cjdnsreachable coinstatsindex con_bip16exception con_bip34hash con_bip34height
con_bip65height con_bip66height con_blockheightinheader con_blocksubsidy
con_connect_genesis_outputs con_csv_deploy_start con_defaultassumevalid con_dyna_deploy_signal
con_elementsmode con_fpowallowmindifficultyblocks con_fpownoretargeting con_genesis_style
con_has_parent_chain con_mandatorycoinbase con_max_block_sig_size con_nminerconfirmationwindow
con_nminimumchainwork con_npowtargetspacing con_npowtargettimespan
con_nrulechangeactivationthreshold con_nsubsidyhalvinginterval con_parent_chain_signblockscript
con_parent_pegged_asset con_parentpowlimit con_powlimit con_signed_blocks con_start_p2wsh_script
conf connect consolidatefeerate creatediscountct ct_bits ct_exponent daemon daemonwait datacarrier
datacarriersize datadir dbbatchsize dbcache dbcrashratio dblogsize debug debugexclude debuglogfile
defaultpeggedassetname deprecatedrpc disablewallet discardfee discover dns dnsseed dustrelayfee
dynamic_epoch_length enforce_pak evbparams externalip extprvkeyprefix extpubkeyprefix
fallback_fee_enabled fallbackfee fastprune fdefaultconsistencychecks fedpegscript feeasset
fixedseeds flushwallet fmineblocksondemand forcecompactdb forcednsseed h help help-debug
i2pacceptincoming i2psam includeconf incrementalrelayfee initialfreecoins initialreissuancetokens
keypool lang limitancestorcount limitancestorsize limitdescendantcount limitdescendantsize listen
listenonion loadblock logips loglevel loglevelalways logsourcelocations logthreadnames
logtimemicros logtimestamps mainchainrpccookiefile mainchainrpchost mainchainrpcpassword
mainchainrpcport mainchainrpctimeout mainchainrpcuser maxapsfee maxconnections maxmempool
maxorphantx maxreceivebuffer maxsendbuffer maxsigcachesize maxtipage maxtxfee maxuploadtarget
mempoolexpiry min minimumchainwork minrelaytxfee mintxfee mocktime multi_data_permitted natpmp
networkactive npruneafterheight onion onlynet pak par parent_bech32_hrp parent_blech32_hrp
parentgenesisblockhash parentpubkeyprefix parentscriptprefix paytxfee pchmessagestart
peerblockfilters peerbloomfilters peertimeout peginconfirmationdepth peginminamount peginminheight
peginsubsidyheight peginsubsidythreshold permitbaremultisig persistmempool persistmempoolv1 pid
port printpriority printtoconsole privdb proxy proxyrandomize prune pubkeyprefix regtest reindex
reindex-chainstate resetguisettings rest rpcallowip rpcauth rpcbind rpccookiefile rpccookieperms
rpcdoccheck rpcpassword rpcport rpcservertimeout rpcthreads rpcuser rpcwhitelist
rpcwhitelistdefault rpcworkqueue scriptprefix secretprefix seednode server settings
shrinkdebugfile shutdownnotify signblockscript signer signet signetchallenge signetseednode
spendzeroconfchange splash startupnotify stopafterblockimport stopatheight subsidyasset
swapbdbendian test testactivationheight testnet testnet4 timeout torcontrol torpassword
total_valid_epochs trim_headers txconfirmtarget txindex txreconciliation uacomment uiplatform
unsafesqlitesync upnp v2transport validatepegin vbparams version wallet walletbroadcast
walletcrosschain walletdir walletnotify walletrbf walletrejectlongchains whitebind whitelist
whitelistforcerelay whitelistrelay zmqpubhashblock zmqpubhashblockhwm zmqpubhashtx
zmqpubhashtxhwm zmqpubrawblock zmqpubrawblockhwm zmqpubrawtx zmqpubrawtxhwm zmqpubsequence
zmqpubsequencehwm
"""
"""Every name that elementsd 28.99 answers to, debugging and hidden ones too (recorded)."""

KNOWN_TO_ELEMENTS = frozenset(_RECORDED_NAMES.split())


def test_table_when_compared_with_elementsd_then_the_same_names_and_our_own() -> None:
    assert set(OPTIONS) == OWN_NAMES | KNOWN_TO_ELEMENTS
    assert not OWN_NAMES & KNOWN_TO_ELEMENTS


def test_table_when_read_then_every_option_says_what_it_does_or_why_not() -> None:
    assert all(option.help for option in OPTIONS.values())
    shown = help_text()
    for option in OPTIONS.values():
        if option.role in (Role.CHAIN, Role.NODE):
            assert f"  -{option.name}" in shown and option.help in shown
        if option.role is Role.NOTHING:
            assert f"-{option.name}" in shown


VALUES_OF_CHAIN_OPTIONS = {
    "chain": "other",
    "con_parent_chain_signblockscript": "51",
    "con_parent_pegged_asset": "11" * 32,
    "defaultpeggedassetname": "coin",
    "evbparams": "testdummy:-1:::",
    "vbparams": "dynafed:10:20",
    "extpubkeyprefix": "00000001",
    "extprvkeyprefix": "00000002",
    "feeasset": "12" * 32,
    "subsidyasset": "13" * 32,
    "fedpegscript": "5151",
    "signblockscript": "5151",
    "pak": "02" * 66,
    "parentgenesisblockhash": "14" * 32,
    "con_parentpowlimit": "ff",
    "con_mandatorycoinbase": "6a",
    "testactivationheight": "segwit@7",
    "peginsubsidythreshold": "3",
    "bech32_hrp": "aa",
    "blech32_hrp": "bb",
    "parent_bech32_hrp": "cc",
    "parent_blech32_hrp": "dd",
    "total_valid_epochs": "9",
    "con_csv_deploy_start": "2",
    "con_blockheightinheader": "0",
    "con_connect_genesis_outputs": "0",
    "con_dyna_deploy_signal": "0",
    "acceptdiscountct": "0",
    "anyonecanspendaremine": "0",
    "permitbaremultisig": "0",
    "datacarrier": "0",
    "validatepegin": "0",
}
ONLY_WITH_OTHERS = frozenset(
    (
        "con_genesis_style",
        "con_signed_blocks",
        "con_elementsmode",
        "con_has_parent_chain",
        "creatediscountct",
        "peginminamount",
    )
)
"""One value is supported, or another option must be set with it: test_chain_options has them."""


@pytest.mark.parametrize(
    "name",
    [
        name
        for name, option in OPTIONS.items()
        if option.role is Role.CHAIN and name not in ONLY_WITH_OTHERS
    ],
)
def test_chain_option_when_set_then_the_parameters_change(name: str) -> None:
    value = VALUES_OF_CHAIN_OPTIONS.get(name, "1")
    options = ["-chain=plain"] if name != "chain" else []
    assert params_from_options([*options, f"-{name}={value}"]) != params_from_options(
        ["-chain=plain"]
    )
