"""Members' block signatures inside headers: who signed one, and a header with one signature in it.

A BLOCKSIG names a height that it does not sign; the header that hashes to the signed hash does. So
what is to convict somebody before strangers is a header with his signature in its witness.

Source: consensus:2.1, consensus:C56.
"""

from dataclasses import replace

from federation.consensus.votes import BlockSignature
from federation.members import MemberSet
from sidechain.crypto.keys import compact_to_der, der_to_compact, ecdsa_verify
from sidechain.errors import InvalidEncoding
from sidechain.params import ChainParams
from sidechain.primitives.block import BlockHeader
from sidechain.primitives.encoding import Reader
from sidechain.script.block_signature import (
    signblock_witness,
    signers_of,
    verify_block_signature,
)


def read_header(data: bytes, params: ChainParams) -> BlockHeader:
    """The header that fills `data`.

    Raises:
        InvalidEncoding: it is none, or more than one.
    """
    reader = Reader(data)
    header = BlockHeader.read(reader, params)
    reader.done()
    return header


def signatures_in(header: BlockHeader, members: MemberSet) -> tuple[BlockSignature, ...]:
    """Who signed a header, with the signatures in 64-byte form, members ascending.

    Signatures stand in the order of keys, so each key is tried once.
    """
    found = []
    items = list(header.signblock_witness[1:-1])
    for member in members.members:
        if not items:
            break
        der = items[0][:-1]
        if ecdsa_verify(member.block_key, der, header.hash):
            found.append(_block_signature(header, member.index, der))
            del items[0]
    return tuple(found)


def verified_signatures(
    header: BlockHeader, members: MemberSet, params: ChainParams
) -> tuple[BlockSignature, ...]:
    """`signatures_in` of a header that has enough of them.

    Raises:
        InvalidBlock: it does not satisfy the script that it names.
    """
    signers = signers_of(header)
    index_of = {member.block_key: member.index for member in members.members}
    if signers is None or any(key not in index_of for key, _ in signers):
        verify_block_signature(header, params)
        return signatures_in(header, members)
    return tuple(
        BlockSignature(
            height=header.height,
            block_hash=header.hash,
            member=index_of[key],
            signature=signature,
        )
        for key, signature in signers
    )


def header_signed_by(
    header: BlockHeader, signature: BlockSignature, members: MemberSet
) -> BlockHeader:
    """The header with one member's signature as its witness.

    Raises:
        InvalidEncoding: the signature has no DER form.
    """
    keys = [member.block_key for member in members.members]
    der = compact_to_der(signature.signature)
    witness = signblock_witness(1, keys, {keys[signature.member]: der})
    return replace(header, signblock_witness=witness)


def _block_signature(header: BlockHeader, member: int, der: bytes) -> BlockSignature:
    try:
        signature = der_to_compact(der)
    except InvalidEncoding:
        signature = bytes(64)
    return BlockSignature(
        height=header.height, block_hash=header.hash, member=member, signature=signature
    )
