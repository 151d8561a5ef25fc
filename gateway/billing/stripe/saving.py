"""Saved payment methods at Stripe, asked for through `client`: what `ports.Saving` promises."""

from collections.abc import Awaitable, Callable
from typing import Any

from gateway.billing.ports import CheckoutFacts, Metadata
from gateway.billing.stripe import shapes

Ask = Callable[..., Awaitable[dict[str, Any]]]


class StripeSaving:
    """`ports.Saving`, by Stripe."""

    def __init__(self, api: Any, ask: Ask) -> None:
        """`ask` is the one way to Stripe, with the account and our words for what goes wrong."""
        self._api = api
        self._ask = ask

    async def page(
        self, account_id: str, *, customer_id: str, metadata: Metadata, success_url: str, cancel_url: str
    ) -> CheckoutFacts:
        """POST /v1/checkout/sessions, for setup: cards, which answer at once when they are charged."""
        tags = shapes.written(metadata)
        wish = {
            "mode": "setup",
            "customer": customer_id,
            "payment_method_types": ["card"],
            "success_url": success_url,
            "cancel_url": cancel_url,
            "metadata": tags,
            "setup_intent_data": {"metadata": tags},
        }
        return shapes.checkout(await self._ask(self._api.v1.checkout.sessions.create_async, account_id=account_id, params=wish))

    async def method(self, account_id: str, customer_id: str) -> str | None:
        """GET /v1/customers/{id} and /v1/customers/{id}/payment_methods."""
        customers = self._api.v1.customers
        customer = await self._ask(customers.retrieve_async, customer_id, account_id=account_id)
        chosen = shapes.chosen_method(customer)
        if chosen is None:
            wish = {"limit": 1}
            listed = await self._ask(customers.payment_methods.list_async, customer_id, account_id=account_id, params=wish)
            chosen = next((str(each["id"]) for each in listed["data"]), None)
        return chosen
