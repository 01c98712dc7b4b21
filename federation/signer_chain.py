"""The headers a signer follows by itself: who may sign next, told by k signatures and nobody else.

It starts at the genesis block of its own federation file and takes consecutive headers. Each must
carry k signatures of the set that the headers before it put in force, the votes of an epoch are
counted here, and at a new epoch the file `pin` remembers where to go on. So whoever feeds it can
stop it, and cannot move it to another member set.

Source: consensus:R1, consensus:C80, consensus:C81, consensus:V3.
"""

from hashlib import sha256
from pathlib import Path
from typing import Final

from federation.canonical import NotCanonical, canonical_json, strict_loads
from federation.files import FileLayer, replace_file
from federation.members import MemberSet
from sidechain.errors import Invalid, InvalidBlock
from sidechain.params import ChainParams
from sidechain.primitives.block import BlockHeader, ParamEntry
from sidechain.primitives.encoding import Reader
from sidechain.primitives.genesis import genesis_block
from sidechain.script.block_signature import verify_block_signature
from sidechain.script.script import p2wsh, parse_multisig
from sidechain.validation.dynafed import check_dynafed_header, full_current

FORMAT: Final = 1
PIN_EVERY_HEIGHTS: Final = 200
"""A new epoch is pinned this long after the last one, or when it changes the parameters."""
SCRIPTS_MAX: Final = 16


class PinDamaged(Exception):
    """The pin file is not what this signer wrote, or is of another chain."""


class WrongHeader(Exception):
    """A header that does not follow. `conflicts`: k members signed it beside one that is known."""

    def __init__(self, reason: str, *, conflicts: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.conflicts = conflicts


class FollowedChain:
    """Verified headers since the last epoch start; meets `sidechain.validation.HeaderChain`.

    Args:
        witness_script: the founding members' k-of-n script.
        pin: where the last epoch start is remembered.
    """

    def __init__(
        self, params: ChainParams, witness_script: bytes, pin: Path, layer: FileLayer | None = None
    ) -> None:
        """Start at the genesis block, or at the pin if there is one.

        Raises:
            PinDamaged: the file is unsound. OSError: it cannot be read.
        """
        self._params = params
        self._pin = pin
        self._layer = layer or FileLayer()
        self._scripts = {p2wsh(witness_script): witness_script}
        self._headers: dict[int, BlockHeader] = {}
        if self._layer.exists(pin):
            self._load()
        else:
            self._tip = self._pinned = 0
            self._headers[0] = genesis_block(params).header
        self._pinned_entry = self._full_current()

    @property
    def tip_height(self) -> int:
        """Height of the last verified header."""
        return self._tip

    @property
    def tip_hash(self) -> bytes:
        """Its block hash."""
        return self._headers[self._tip].hash

    def header(self, height: int) -> BlockHeader:
        """A verified header; those before the epoch of the tip are forgotten."""
        return self._headers[height]

    def params_root(self) -> bytes:
        """D of the height after the tip."""
        return self._full_current().root()

    def member_set(self) -> MemberSet | None:
        """M of the height after the tip; None while its script was not shown (C83)."""
        script = self._scripts.get(self._full_current().signblockscript)
        parsed = parse_multisig(script) if script is not None else None
        if parsed is None:
            return None
        threshold, keys = parsed
        return MemberSet.of(keys, threshold)

    def learn_script(self, script: bytes) -> None:
        """Keep the k-of-n script of a member set to come; it counts where its hash is demanded."""
        if parse_multisig(script) is None:
            raise WrongHeader("not a k-of-n script")
        self._scripts[p2wsh(script)] = script
        while len(self._scripts) > SCRIPTS_MAX:
            in_force = self._full_current().signblockscript
            self._scripts.pop(next(key for key in self._scripts if key != in_force))

    def advance(self, data: bytes) -> None:
        """Take the next header, or one that is known already.

        Raises:
            WrongHeader: it does not follow; nothing has changed.
            OSError: the pin could not be written.
        """
        header = self._decode(data)
        if header.height <= self._tip:
            self._check_known(header)
            return
        if header.height != self._tip + 1 or header.prev_hash != self.tip_hash:
            raise WrongHeader(f"header {header.height} is not the child of {self._tip}")
        try:
            check_dynafed_header(header, self, self._params)
            verify_block_signature(header, self._params)
        except Invalid as fault:
            raise WrongHeader(f"header {header.height}: {fault}") from fault
        self._headers[header.height] = header
        self._tip = header.height
        if header.signblock_witness:
            self._scripts.setdefault(
                p2wsh(header.signblock_witness[-1]), header.signblock_witness[-1]
            )
        if header.height % self._params.dynamic_epoch_length == 0:
            self._begin_epoch(header)

    # -- inside

    def _full_current(self) -> ParamEntry:
        return full_current(self, self._tip, self._params)

    def _decode(self, data: bytes) -> BlockHeader:
        reader = Reader(data)
        try:
            header = BlockHeader.read(reader, self._params)
            reader.done()
        except Invalid as fault:
            raise WrongHeader(f"malformed header: {fault}") from fault
        return header

    def _check_known(self, header: BlockHeader) -> None:
        known = self._headers.get(header.height)
        if known is None or known.hash == header.hash:
            return  # of an epoch that is past; nothing rests on it any more
        parent = self._headers.get(header.height - 1)
        if parent is None or parent.hash != header.prev_hash:
            raise WrongHeader(f"header {header.height} is of another chain")
        if header.current.signblockscript != known.current.signblockscript:
            raise WrongHeader(f"header {header.height} names another set")
        try:
            verify_block_signature(header, self._params)
        except InvalidBlock as fault:
            raise WrongHeader(f"header {header.height}: {fault}") from fault
        raise WrongHeader(f"k members signed two blocks of height {header.height}", conflicts=True)

    def _begin_epoch(self, header: BlockHeader) -> None:
        """Forget the epoch before, and pin this one once in a while."""
        self._headers = {header.height: header}
        is_due = header.height - self._pinned >= PIN_EVERY_HEIGHTS
        if not is_due and header.current == self._pinned_entry:
            return
        plain = {
            "format": FORMAT,
            "genesis": self._params.genesis_hash.hex(),
            "height": header.height,
            "header": header.serialize().hex(),
            "scripts": [script.hex() for script in self._scripts.values()],
        }
        body = canonical_json(plain)
        replace_file(self._layer, self._pin, body + b"\n" + sha256(body).hexdigest().encode())
        self._pinned, self._pinned_entry = header.height, header.current

    def _load(self) -> None:
        body, _, tail = self._layer.read_private(self._pin).partition(b"\n")
        if tail != sha256(body).hexdigest().encode():
            raise PinDamaged(f"{self._pin} is damaged")
        try:
            plain = strict_loads(body.decode("ascii"))
            if plain["format"] != FORMAT or plain["genesis"] != self._params.genesis_hash.hex():
                raise PinDamaged(f"{self._pin} is of another chain or version")
            self._tip = self._pinned = int(plain["height"])
            scripts = [bytes.fromhex(script) for script in plain["scripts"]]
            self._headers = {self._tip: self._decode(bytes.fromhex(plain["header"]))}
        except (NotCanonical, ValueError, KeyError, TypeError, WrongHeader) as error:
            raise PinDamaged(f"{self._pin} is damaged: {error}") from error
        self._scripts |= {p2wsh(script): script for script in scripts}
