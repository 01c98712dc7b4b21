"""Many final blocks at once, signed with the keys of all members of a local federation.

For measurements and tests alone: whoever holds k block keys can write any history, which is what
a local federation is for. The blocks are the ones an idle federation makes: no transaction but the
coinbase, which repeats the commitment of the block before (N9).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from federation.consensus.records import Counter, decode_record, encode_record, restore
from federation.secret_key import SecretKey
from federation.wal import Journal
from sidechain.chain import Chain
from sidechain.primitives.block import Block
from sidechain.script.block_signature import signblock_witness

BLOCKS_PER_SYNC = 500


def sign_heights(
    chain: Chain,
    *,
    secrets: Sequence[SecretKey],
    k: int,
    count: int,
    coinbase_scripts: Sequence[bytes],
    on_progress: Callable[[int], None] = lambda done: None,
) -> None:
    """Make and connect blocks on the tip; all of them are on disk when this returns.

    Args:
        secrets: block keys in the order of the signblockscript.
        k: signatures in each block, of the first members.
        coinbase_scripts: zero-value outputs of every coinbase.
    """
    for done, block in enumerate(_blocks(chain, secrets, k, count, coinbase_scripts), 1):
        chain.connect(block, sync=done % BLOCKS_PER_SYNC == 0)
        if done % BLOCKS_PER_SYNC == 0:
            on_progress(done)
    chain.flush()


def _blocks(
    chain: Chain,
    secrets: Sequence[SecretKey],
    k: int,
    count: int,
    coinbase_scripts: Sequence[bytes],
) -> Iterator[Block]:
    keys = [secret.public_key for secret in secrets]
    for _ in range(count):
        block = chain.build_template(
            time_s=chain.median_time_s + 1, coinbase_scripts=coinbase_scripts, transactions=()
        )
        signatures = {secret.public_key: secret.sign_ecdsa(block.hash) for secret in secrets[:k]}
        yield block.with_signblock_witness(signblock_witness(k, keys, signatures))


def remember_signing(
    folder: Path, *, genesis: bytes, vote_key: bytes, height: int, block_hash: bytes
) -> None:
    """Write into a stopped member's journal that its key signed the blocks up to this one.

    Otherwise its next start would find own signatures that the journal does not know, and take the
    journal for one that was rolled back (C75).

    Args:
        folder: of the journal.
        vote_key: the member's x-only block key.
    """
    journal = Journal.open(folder, genesis=genesis, key=vote_key)
    try:
        image = restore(tuple(decode_record(r.kind, r.body) for r in journal.records))
        counted = () if image.signatures is None else (Counter(image.signatures[1]),)
        base = replace(image.base(height), block_signature=(height, block_hash), records=counted)
        journal.rotate(encode_record(base)[1])
    finally:
        journal.close()
