"""Genesis block and pegged asset from a chain's parameters."""

from sidechain.daemon.chain_options import params_from_options
from sidechain.primitives.block import Block
from sidechain.primitives.genesis import (
    chain_commitment,
    chain_params,
    genesis_block,
    initial_token,
)
from tests.vectors import chain_json, display, recorded_params

_EXAMPLE_OPTIONS = [
    "-chain=fedtest",
    "-signblockscript=52210279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f8179821"
    "02c6047f9441ed7d6d3045406e95c07cd85c778e4b8cef3ca7abac09b95c709ee52102f9308a019258c3104934"
    "4f85f89d5229b531c845836f99b08601f113bce036f953ae",
    "-con_max_block_sig_size=300",
    "-fedpegscript=522103774ae7f858a9411e5ef4246b70c65aac5649980be5c17891bbec17895da008cb2103d0"
    "1115d548e7561b15c38f004d734633687cf4419620095bc5b0f47070afe85a2103f28773c2d975288bc7d1d205"
    "c3748651b075fbc6610e58cddeeddf8f19405aa853ae",
]


def test_recorded_chain_has_its_genesis_hash_and_asset() -> None:
    recorded, params = chain_json("params.json"), recorded_params()
    assert display(params.genesis_hash) == recorded["genesis_hash"]
    assert display(params.pegged_asset) == recorded["pegged_asset"]
    assert display(params.parent_genesis_hash) == recorded["parent_genesis_hash"]
    assert genesis_block(params).serialize().hex() == chain_json("blocks.json")[0]["hex"]


def test_recorded_options_fill_the_parameters_they_name() -> None:
    recorded, params = chain_json("params.json"), recorded_params()
    assert params.name == recorded["chain"]
    assert params.signblockscript.hex() == recorded["signblockscript"]
    assert params.fedpegscript.hex() == recorded["fedpegscript"]
    assert params.max_block_sig_size == recorded["con_max_block_sig_size"]
    assert params.pegin_confirmation_depth == recorded["peginconfirmationdepth"]
    assert params.dynamic_epoch_length == recorded["dynamic_epoch_length"]
    assert params.total_valid_epochs == recorded["total_valid_epochs"]
    assert [entry.hex() for entry in params.pak] == recorded["first_extension_space"]
    shown = recorded["address_prefixes"]
    prefixes, parent = params.prefixes, params.parent_prefixes
    assert prefixes.pubkey == shown["pubkey"]
    assert prefixes.script == shown["script"]
    assert prefixes.blinded == shown["blinded"]
    assert prefixes.secret == shown["secret"]
    assert prefixes.bech32_hrp == shown["bech32_hrp"]
    assert prefixes.blech32_hrp == shown["blech32_hrp"]
    assert parent.pubkey == shown["parent_pubkey"]
    assert parent.script == shown["parent_script"]
    assert parent.bech32_hrp == shown["parent_bech32_hrp"]


def test_other_chains_have_their_genesis_block_and_asset() -> None:
    for entry in chain_json("genesis.json"):
        params = params_from_options([f"-chain={entry['chain']}", *entry["options"]])
        assert display(params.genesis_hash) == entry["genesis_hash"], entry["note"]
        assert display(params.pegged_asset) == entry["pegged_asset"], entry["note"]
        block = genesis_block(params)
        assert block.serialize().hex() == entry["genesis_hex"]
        assert Block.decode(block.serialize(), params) == block


def test_worked_example_has_its_published_values() -> None:
    params = params_from_options(_EXAMPLE_OPTIONS)
    assert chain_commitment(params).hex() == (
        "13a38c21d02fe33c78feca194074ea25fa1c2bdc3fa6a7522587e960f5c02d4f"
    )
    assert display(params.pegged_asset) == (
        "5fb1c18a8b76f01e6dfcde769fb6e16c021e102b62504fe9b44cedd59a5c7381"
    )
    assert display(initial_token(params)) == (
        "9653d0c486a113f6af68cad9b156a564a99530277145031f90051c3e1047e286"
    )
    assert display(genesis_block(params).header.merkle_root) == (
        "70218285d9e12dcb74e5d5f326e9a656cf59a9065951d0ab6eaa918e5bd0ad7b"
    )
    assert display(params.genesis_hash) == (
        "b61b62726326f0452f4f469b824a7129cda71fc3a1fccb70e16d2a067152a12e"
    )
    assert len(genesis_block(params).serialize()) == 314
    free = params_from_options([*_EXAMPLE_OPTIONS, "-initialfreecoins=2100000000000000"])
    assert display(free.genesis_hash) == (
        "cba66595c62e76ea672d91ca89eacbaf968d19d0c17df309e719fa639f878f26"
    )
    assert free.pegged_asset == params.pegged_asset


def test_elementsregtest_has_its_published_values() -> None:
    params = chain_params(name="elementsregtest")
    assert display(params.pegged_asset) == (
        "b2e15d0d7a0c94e4e2ce0fe6e8691b9e451377f6e46e8045a86f7c4b5d4f0f23"
    )
    assert display(params.genesis_hash) == (
        "cd179c84c35f51825f20a3b91a18d45f0c53b5ceb744a5b6ef8f0babe809396f"
    )
    free = chain_params(name="elementsregtest", initial_free_coins_sats=2_100_000_000_000_000)
    assert display(free.genesis_hash) == (
        "209577bda6bf4b5804bd46f8621580dd6d4e8bfa2d190e1c50e932492baca07d"
    )
