"""Invoices of ours at Stripe, asked for through `client`: what `ports.Bills` promises.

A draft of ours does not advance by itself until it is sent: Stripe would finalise one that a crash left without its line, and
call it paid. Stripe tries an open one again that advances by itself.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import msgspec

from gateway.billing.ports import Bill, InvoiceFacts, PaymentsRefused
from gateway.billing.stripe import shapes

Ask = Callable[..., Awaitable[dict[str, Any]]]
Walk = Callable[..., AsyncIterator[dict[str, Any]]]
Look = Callable[[str, str], Awaitable[InvoiceFacts]]
_WANTS_OWNER: Final = "invoice_payment_intent_requires_action"
_GONE: Final = "resource_missing"


class Standing(shapes.Object, frozen=True):
    """How far an invoice has come. `attempted`: whether money was asked for."""

    status: str | None = None
    attempted: bool = False


class StripeBills:
    """`ports.Bills`, by Stripe."""

    def __init__(self, api: Any, ask: Ask, walk: Walk, look: Look) -> None:
        """`ask` and `walk` are the one way to Stripe, with the account and our words for what goes wrong; `look`: at one."""
        self._api = api
        self._ask = ask
        self._walk = walk
        self._look = look

    async def draft(self, op_id: str, account_id: str, bill: Bill) -> InvoiceFacts:
        """POST /v1/invoices and /v1/invoiceitems."""
        api, tags = self._api.v1, _tags(bill)
        wish = _invoice(bill, tags)
        made = await self._ask(api.invoices.create_async, account_id=account_id, params=wish, op_id=f"{op_id}:invoice")
        line = {
            "customer": bill.customer_id,
            "invoice": made["id"],
            "amount": bill.amount_minor,
            "currency": bill.currency.lower(),
            "description": bill.text,
            "metadata": tags,
        }
        await self._ask(api.invoice_items.create_async, account_id=account_id, params=line, op_id=f"{op_id}:line")
        return await self._look(account_id, str(made["id"]))

    async def send(self, op_id: str, account_id: str, invoice_id: str) -> InvoiceFacts:
        """POST /v1/invoices/{id}/finalize and /v1/invoices/{id}/pay."""
        calls, found = self._api.v1.invoices, await self._standing(account_id, invoice_id)
        if found.status == "draft":
            try:
                wish = {"auto_advance": True}
                raw = await self._ask(
                    calls.finalize_invoice_async, invoice_id, account_id=account_id, params=wish, op_id=f"{op_id}:finalize"
                )
                found = shapes.as_shape(raw, Standing)
            except PaymentsRefused:
                found = await self._standing(account_id, invoice_id)
                if found.status == "draft":
                    raise
        if found.status == "open" and not found.attempted:
            try:
                wish = {"off_session": True}
                await self._ask(calls.pay_async, invoice_id, account_id=account_id, params=wish, op_id=f"{op_id}:pay")
            except PaymentsRefused as refused:
                found = await self._standing(account_id, invoice_id)
                if found.status == "open" and not (refused.is_card or refused.code == _WANTS_OWNER):
                    raise
        return await self._look(account_id, invoice_id)

    async def find(self, account_id: str, customer_id: str, bill_id: str, since_ms: int) -> InvoiceFacts | None:
        """GET /v1/invoices of the customer; one that is void only where there is no other."""
        wish = {"customer": customer_id, "created": {"gte": since_ms // 1000}}
        found: InvoiceFacts | None = None
        async for raw in self._walk(self._api.v1.invoices.list_async, account_id=account_id, params=wish):
            tags = shapes.read(raw.get("metadata"))
            if tags is None or tags.bill_id != bill_id:
                continue
            facts = await self._look(account_id, str(raw["id"]))
            if facts.lines and (found is None or found.status == "void"):
                found = facts
        return found

    async def void(self, account_id: str, invoice_id: str) -> InvoiceFacts:
        """POST /v1/invoices/{id}/void, or of a draft DELETE /v1/invoiceitems/{id} and /v1/invoices/{id}."""
        try:
            facts = await self._look(account_id, invoice_id)
        except PaymentsRefused as refused:
            if refused.code != _GONE:
                raise
            return InvoiceFacts(invoice_id, "void", "", None, (), 0, "", 0, ())
        if facts.status == "draft":
            await self._delete(account_id, invoice_id)
            return msgspec.structs.replace(facts, status="void")
        if facts.status in ("open", "uncollectible"):
            try:
                await self._ask(self._api.v1.invoices.void_invoice_async, invoice_id, account_id=account_id)
            except PaymentsRefused:
                facts = await self._look(account_id, invoice_id)
                if facts.status not in ("paid", "void"):
                    raise
                return facts
            return await self._look(account_id, invoice_id)
        return facts

    async def _delete(self, account_id: str, invoice_id: str) -> None:
        """The line first: one that outlived its draft would wait for the customer's next invoice."""
        items = self._api.v1.invoice_items
        listed = self._walk(items.list_async, account_id=account_id, params={"invoice": invoice_id})
        for item_id in [str(raw["id"]) async for raw in listed]:
            await self._ask(items.delete_async, item_id, account_id=account_id)
        await self._ask(self._api.v1.invoices.delete_async, invoice_id, account_id=account_id)

    async def _standing(self, account_id: str, invoice_id: str) -> Standing:
        raw = await self._ask(self._api.v1.invoices.retrieve_async, invoice_id, account_id=account_id)
        return shapes.as_shape(raw, Standing)


def _tags(bill: Bill) -> dict[str, str]:
    return shapes.written(msgspec.structs.replace(bill.metadata, bill_id=bill.bill_id))


def _invoice(bill: Bill, tags: dict[str, str]) -> dict[str, Any]:
    """Without the customer's discounts, which it would inherit, and without what else waits for its next invoice."""
    wish: dict[str, Any] = {
        "customer": bill.customer_id,
        "auto_advance": False,
        "collection_method": "charge_automatically",
        "pending_invoice_items_behavior": "exclude",
        "discounts": "",
        "currency": bill.currency.lower(),
        "description": bill.text,
        "metadata": tags,
    }
    if bill.fee_minor:
        wish["application_fee_amount"] = bill.fee_minor
    if bill.method_id is not None:
        wish["default_payment_method"] = bill.method_id
    return wish
