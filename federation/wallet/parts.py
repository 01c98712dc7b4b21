"""Puts the parts of the wallet process together over whatever answers for the outside."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from structlog.typing import FilteringBoundLogger

from federation.wallet.asset_methods import AssetMethods
from federation.wallet.asset_names import AssetNames
from federation.wallet.chain import ChainFollower, Keyring
from federation.wallet.deposit_addresses import DepositAddresses
from federation.wallet.deposit_watch import DepositWatch
from federation.wallet.deposits import DepositFollower
from federation.wallet.keyless import KeylessMethods
from federation.wallet.links import FundingSource, MemberLinks, ParentNode
from federation.wallet.methods import WalletMethods
from federation.wallet.peg_methods import PegMethods
from federation.wallet.peg_store import PegStore
from federation.wallet.pset_methods import PsetMethods
from federation.wallet.return_proofs import ReturnProofs
from federation.wallet.spending import Spending
from federation.wallet.views import PegViews
from federation.wallet.worker import PegWorker
from sidechain.api.registry import Registry
from sidechain.params import ChainParams
from sidechain.wallet.book import WalletBook


@dataclass(frozen=True, slots=True, kw_only=True)
class Outside:
    """What the process cannot do by itself: other processes, clocks, chance.

    `entropy` gives that many FRESH random bytes; `on_peg_work` is told of something new to fund.
    """

    members: MemberLinks
    parent: ParentNode
    funding: FundingSource
    log: FilteringBoundLogger
    unix_time_s: Callable[[], int]
    monotonic_ms: Callable[[], int]
    entropy: Callable[[int], bytes]
    on_peg_work: Callable[[], None]


class _Handlers(Protocol):
    def register(self, registry: Registry) -> None: ...


@dataclass(frozen=True, slots=True)
class Methods:
    """All JSON-RPC methods of the process."""

    parts: tuple[_Handlers, ...]

    def register(self, registry: Registry) -> None:
        """Offer all methods."""
        for part in self.parts:
            part.register(registry)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """One wallet process without its loops: each state has one owner among these."""

    store: PegStore
    chain: ChainFollower
    deposits: DepositFollower
    worker: PegWorker
    keyring: Keyring
    methods: Methods

    async def follow_chain(self) -> bool:
        """One turn of the loop over the sidechain; whether the tip was reached."""
        reached = await self.chain.step()
        self.keyring.forget_expired()
        await self.worker.resend()
        return reached

    async def follow_parent(self) -> bool:
        """One turn of the loop over Bitcoin; whether the tip was reached."""
        reached = await self.deposits.step()
        if reached:
            await self.worker.advance_pegins()
        return reached


def assemble(book: WalletBook, params: ChainParams, outside: Outside) -> Parts:
    """The parts over an open store."""
    store = PegStore(book)
    keyring = Keyring(outside.monotonic_ms)
    chain = ChainFollower(outside.members, store, params, outside.log, outside.unix_time_s)
    deposits = DepositFollower(outside.parent, store, outside.log)
    watch = DepositWatch(
        members=outside.members, parent=outside.parent, store=store, deposits=deposits
    )
    worker = PegWorker(
        members=outside.members,
        parent=outside.parent,
        funding=outside.funding,
        store=store,
        params=params,
        chain=chain,
        deposits=deposits,
        watch=watch,
        keyring=keyring,
        log=outside.log,
        unix_time_s=outside.unix_time_s,
        monotonic_ms=outside.monotonic_ms,
        entropy=outside.entropy,
    )
    views = PegViews(
        members=outside.members,
        store=store,
        chain=chain,
        deposits=deposits,
        watch=watch,
        worker=worker,
    )
    spending = Spending(
        book=book,
        params=params,
        chain=chain,
        worker=worker,
        keyring=keyring,
        entropy=outside.entropy,
        unix_time_s=outside.unix_time_s,
    )
    assets = AssetNames(book, params)
    wallets = WalletMethods(
        book=book,
        params=params,
        chain=chain,
        keyring=keyring,
        spending=spending,
        assets=assets,
        entropy=outside.entropy,
        on_peg_work=outside.on_peg_work,
    )
    pegs = _peg_methods(store, params, chain, worker, views, spending, outside)
    proofs = ReturnProofs(store=store, params=params, keyring=keyring, views=views)
    psets = PsetMethods(spending=spending, assets=assets, params=params)
    issuing = AssetMethods(spending=spending, assets=assets)
    methods = Methods((wallets, *pegs, proofs, issuing, psets))
    return Parts(
        store=store,
        chain=chain,
        deposits=deposits,
        worker=worker,
        keyring=keyring,
        methods=methods,
    )


def _peg_methods(
    store: PegStore,
    params: ChainParams,
    chain: ChainFollower,
    worker: PegWorker,
    views: PegViews,
    spending: Spending,
    outside: Outside,
) -> tuple[_Handlers, ...]:
    addresses = DepositAddresses(
        members=outside.members,
        store=store,
        params=params,
        chain=chain,
        worker=worker,
        entropy=outside.entropy,
    )
    keyless = KeylessMethods(
        members=outside.members,
        store=store,
        params=params,
        addresses=addresses,
        worker=worker,
        spending=spending,
    )
    pegs = PegMethods(
        store=store,
        params=params,
        addresses=addresses,
        worker=worker,
        views=views,
        spending=spending,
        on_peg_work=outside.on_peg_work,
    )
    return pegs, keyless
