"""Invoices and receipts as Stripe has them, for those who paid and those who were paid: reads only.

Stripe has them by account, which takes the payments of all apps of a creator, and others; whose each is, an app's own list of
its customers says. So of one buyer the list is Stripe's, and of a whole app it is what of the account's is of the app.
"""

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from gateway.billing.acts import Named, owner_seen, seller_of
from gateway.billing.connect import Connect
from gateway.billing.ports import PaymentsRefused
from gateway.billing.revenue.reports import Invoice, Listed, Receipt, Reports
from gateway.billing.revenue.store import RevenueStore
from gateway.billing.store import Store
from gateway.core.errors import InvalidRequest
from gateway.identity import rules
from gateway.identity.model import Actor, Page
from gateway.identity.registry import Registry
from gateway.ledger.model import WalletKey

T = TypeVar("T")
Paper = TypeVar("Paper", Invoice, Receipt)
_LOOKS_MAX: Final = 5  # pages of Stripe's for one of ours
_PAGE: Final = 100  # rows of one of Stripe's


class Papers:
    """Raises PaymentsDown and PaymentsRefused besides what each method says."""

    def __init__(self, store: Store, rows: RevenueStore, registry: Registry, payments: Reports, connect: Connect) -> None:
        self._store = store
        self._rows = rows
        self._registry = registry
        self._payments = payments
        self._connect = connect

    async def invoices(
        self, actor: Actor, enterprise_id: str | None, buyer: Named, after: str | None, count: int
    ) -> Page[tuple[WalletKey, Invoice]]:
        """Newest first: an end user's or a creator's own, or a seller's of one buyer or all. A page may have fewer rows than
        there are, or none, and go on all the same. InvalidRequest, NotFound, Forbidden.
        """
        return await self._papers(actor, enterprise_id, buyer, after, count, self._payments.invoices)

    async def receipts(
        self, actor: Actor, enterprise_id: str | None, buyer: Named, after: str | None, count: int
    ) -> Page[tuple[WalletKey, Receipt]]:
        """Likewise: of every payment that succeeded, be it of a purchase or of an invoice."""
        return await self._papers(actor, enterprise_id, buyer, after, count, self._payments.receipts)

    async def _papers(
        self,
        actor: Actor,
        enterprise_id: str | None,
        buyer: Named,
        after: str | None,
        count: int,
        look: Callable[[str, str | None, str | None, int], Awaitable[Listed[Paper]]],
    ) -> Page[tuple[WalletKey, Paper]]:
        seller = await seller_of(self._registry, actor, enterprise_id)
        owner = await owner_seen(self._registry, actor, seller, buyer)
        count = rules.page(after, count)
        account_id = await self._connect.existing_account(seller)
        book = seller.enterprise_id if seller else None
        customer_id = None
        if owner is not None:
            customer_id = await self._store.customer(WalletKey(owner, book), account_id)
            if customer_id is None:  # who has bought nothing yet
                return Page((), None)
        found: list[tuple[WalletKey, Paper]] = []
        for _ in range(_LOOKS_MAX):
            page = await listed(look(account_id, customer_id, after, _PAGE), after)
            whose = {customer_id: owner} if customer_id and owner else await self._owners(book, account_id, page.rows)
            after = page.last_id
            for row in page.rows:
                name = whose.get(row.customer_id or "")
                if name is not None and len(found) == count:  # there is more: go on after the last that was taken
                    return Page(tuple(found), found[-1][1].id)
                if name is not None:
                    found.append((WalletKey(name, book), row))
            if after is None:
                break
        return Page(tuple(found), after)

    async def _owners(self, book: str | None, account_id: str, rows: tuple[Paper, ...]) -> dict[str, str]:
        named = [row.customer_id for row in rows if row.customer_id]
        return await self._rows.owners(book, account_id, named) if named else {}


async def listed(asked: Awaitable[Listed[T]], after: str | None) -> Listed[T]:
    """One page of Stripe's; InvalidRequest for a cursor that it does not know."""
    try:
        return await asked
    except PaymentsRefused as refused:
        if after is not None and refused.code == "resource_missing":
            raise InvalidRequest("`cursor` must be a next_cursor of this list", param="cursor") from refused
        raise
