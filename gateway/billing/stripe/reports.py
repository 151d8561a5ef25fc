"""What Stripe reports of money, through the client that also moves it. What a method promises stands in `reports.Reports`."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from typing import Any, Final, TypeVar

from gateway.billing.model import PLATFORM_ACCOUNT
from gateway.billing.revenue.reports import FeeMovement, Invoice, Listed, Movement, Payout, Receipt
from gateway.billing.stripe import report_shapes as shapes
from gateway.billing.stripe.client import Call, Stripe

T = TypeVar("T")
# A part of a fee that goes back has the fee, and by that the account, one step further.
_FEES: Final = {"application_fee": "data.source", "application_fee_refund": "data.source.fee"}


class StripeReports(Stripe):
    """`reports.Reports`, by Stripe."""

    async def balance(self, account_id: str) -> Mapping[str, int]:
        """GET /v1/balance."""
        return shapes.balance(await self._ask(self._api.v1.balance.retrieve_async, account_id=account_id))

    async def movements(
        self, account_id: str, from_ms: int, until_ms: int | None, currency: str | None = None
    ) -> AsyncGenerator[Movement, None]:
        """GET /v1/balance_transactions."""
        wish: dict[str, Any] = {"created": _seconds(from_ms, until_ms), "expand": ["data.source"]}
        wish |= {"currency": currency.lower()} if currency is not None else {}
        async for raw in self._walk(self._api.v1.balance_transactions.list_async, account_id=account_id, params=wish):
            found = shapes.movement(raw)
            if found is not None:
                yield found

    async def movements_page(
        self, account_id: str, from_ms: int, until_ms: int, after: str | None, count: int
    ) -> Listed[Movement]:
        """GET /v1/balance_transactions, a page."""
        asked = {"created": _seconds(from_ms, until_ms), "expand": ["data.source"]}
        return await self._listed(self._api.v1.balance_transactions.list_async, account_id, asked, after, count, shapes.movement)

    async def fee_movements(self, from_ms: int, until_ms: int) -> AsyncIterator[FeeMovement]:
        """GET /v1/balance_transactions, on the platform's account."""
        for kind, expanded in _FEES.items():
            wish = {"created": _seconds(from_ms, until_ms), "type": kind, "expand": [expanded]}
            listed = self._api.v1.balance_transactions.list_async
            async for raw in self._walk(listed, account_id=PLATFORM_ACCOUNT, params=wish):
                yield shapes.fee_movement(raw)

    async def payouts(self, account_id: str, status: str | None, after: str | None, count: int) -> Listed[Payout]:
        """GET /v1/payouts."""
        asked = {"status": status}
        return await self._listed(self._api.v1.payouts.list_async, account_id, asked, after, count, shapes.payout)

    async def invoices(self, account_id: str, customer_id: str | None, after: str | None, count: int) -> Listed[Invoice]:
        """GET /v1/invoices."""
        asked = {"customer": customer_id}
        return await self._listed(self._api.v1.invoices.list_async, account_id, asked, after, count, _final)

    async def receipts(self, account_id: str, customer_id: str | None, after: str | None, count: int) -> Listed[Receipt]:
        """GET /v1/charges."""
        asked = {"customer": customer_id}
        return await self._listed(self._api.v1.charges.list_async, account_id, asked, after, count, shapes.receipt)

    async def _listed(
        self,
        call: Call,
        account_id: str,
        asked: Mapping[str, Any],
        after: str | None,
        count: int,
        shown: Callable[[dict[str, Any]], T | None],
    ) -> Listed[T]:
        """One page; what `shown` makes nothing of is left out of it."""
        wish: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
        wish["limit"] = min(count, self.page_rows)
        if after is not None:
            wish["starting_after"] = after
        page = await self._ask(call, account_id=account_id, params=wish)
        data = page["data"]
        rows = [row for row in map(shown, data) if row is not None]
        return Listed(tuple(rows), str(data[-1]["id"]) if data and page["has_more"] else None)


def _final(raw: dict[str, Any]) -> Invoice | None:
    found = shapes.invoice(raw)
    return None if found.status == "draft" else found


def _seconds(from_ms: int, until_ms: int | None) -> dict[str, int]:
    """Months begin with a whole second, as Stripe's times are."""
    return {"gte": -(-from_ms // 1000)} | ({} if until_ms is None else {"lt": -(-until_ms // 1000)})
