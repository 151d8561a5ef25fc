"""Stripe, through its SDK, which only this file and `faults` import. What a method promises stands in `ports.Payments`.

Every request goes through `_ask`: there the account, the API version, the time-out and the idempotency key are set, and what
the SDK raises becomes PaymentsDown or PaymentsRefused. An `op_id` is the idempotency key; where an operation takes several
requests, each has it with a word of its own behind.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final

import msgspec
import stripe
from stripe import StripeClient

from gateway.billing.model import PLATFORM_ACCOUNT, Plan, PlanKind
from gateway.billing.ports import (
    AccountFacts,
    CheckoutFacts,
    DisputeFacts,
    InvoiceFacts,
    Metadata,
    PaymentFacts,
    PaymentsRefused,
    RefundFacts,
    SubscriptionFacts,
)
from gateway.billing.stripe import invoices, shapes, wishes
from gateway.billing.stripe import prices as stripe_prices
from gateway.billing.stripe.bills import StripeBills
from gateway.billing.stripe.faults import named_faults, without_keys
from gateway.billing.stripe.promotions import StripePromotions
from gateway.billing.stripe.saving import StripeSaving

API_VERSION: Final = "2026-10-28.endive"
_ATTEMPT_S: Final = 20.0  # of one request
_TOTAL_S: Final = 45.0  # with the SDK's repetitions
_RETRIES: Final = 2
_PAGE: Final = 100  # which is the most
_SIGNATURE_AGE_S: Final = 300
_PAYMENT: Final = ("latest_charge.balance_transaction",)
_INVOICE: Final = ("payments", "discounts")
_ACCOUNT: Final = ("configuration.merchant", "identity", "requirements")
_log = logging.getLogger(__name__)

stripe.enable_telemetry = False  # it would tell Stripe how long our requests took


class Stripe:
    """`ports.Payments`, by Stripe."""

    def __init__(
        self, secret_key: str, webhook_secrets: Mapping[str, str], api_base: str = "", *, retries: int = _RETRIES
    ) -> None:
        """`webhook_secrets` by endpoint, `platform` and `connect`; an empty `api_base` is Stripe's own."""
        self._is_live = not secret_key.startswith(("sk_test_", "rk_test_"))
        self._secrets = dict(webhook_secrets)
        self.page_rows = _PAGE
        self._base = api_base or "https://api.stripe.com"
        self._http: Any = stripe.HTTPXClient(timeout=_ATTEMPT_S)
        self._api: Any = StripeClient(
            secret_key,
            stripe_version=API_VERSION,
            base_addresses={"api": api_base} if api_base else {},
            max_network_retries=retries,
            http_client=self._http,
        )
        self.saving = StripeSaving(self._api, self._ask)
        self.promotions = StripePromotions(self._api, self._ask)
        self.bills = StripeBills(self._api, self._ask, self._walk, self.invoice)

    @property
    def is_live(self) -> bool:
        """Whether the key is not a test key."""
        return self._is_live

    async def close(self) -> None:
        """Close the connections."""
        await self._http.close_async()

    # ---- accounts ------------------------------------------------------------------------------

    async def create_account(self, op_id: str, user_id: str, name: str, email: str, country: str = "") -> AccountFacts:
        """POST /v2/core/accounts."""
        wish: dict[str, Any] = {
            "display_name": name,
            "contact_email": email,
            "dashboard": "full",
            "configuration": {"merchant": {"capabilities": {"card_payments": {"requested": True}}}},
            "defaults": {"responsibilities": {"fees_collector": "stripe", "losses_collector": "stripe"}},
            "metadata": {"mozaiks_creator": user_id},
            "include": list(_ACCOUNT),
        }
        if country:
            wish["identity"] = {"country": country.lower()}
        return shapes.account(await self._ask(self._api.v2.core.accounts.create_async, params=wish, op_id=op_id))

    async def account(self, account_id: str) -> AccountFacts:
        """GET /v2/core/accounts/{id}."""
        accounts = self._api.v2.core.accounts
        return shapes.account(await self._ask(accounts.retrieve_async, account_id, params={"include": list(_ACCOUNT)}))

    async def onboarding_link(self, account_id: str, return_url: str, refresh_url: str) -> str:
        """POST /v2/core/account_links."""
        about = {"configurations": ["merchant"], "return_url": return_url, "refresh_url": refresh_url}
        wish = {"account": account_id, "use_case": {"type": "account_onboarding", "account_onboarding": about}}
        link = await self._ask(self._api.v2.core.account_links.create_async, params=wish)
        return str(link["url"])

    # ---- selling -------------------------------------------------------------------------------

    async def create_price(self, op_id: str, account_id: str, plan: Plan) -> tuple[str, str]:
        """GET /v1/prices by the plan's id as lookup key, or POST /v1/products and /v1/prices."""
        prices = self._api.v1.prices
        named = {"lookup_keys": [plan.id], "limit": 1, "expand": ["data.product"]}
        known = await self._ask(prices.list_async, account_id=account_id, params=named)
        for price in known["data"]:
            if stripe_prices.fits(price, plan):
                return wishes.id_in(price["product"]), str(price["id"])
            _log.warning("price %s on %s has the name of plan %s, and is not its price", price["id"], account_id, plan.id)
        product = await self._ask(
            self._api.v1.products.create_async,
            account_id=account_id,
            params={"name": plan.name, "metadata": stripe_prices.tags(plan)},
            op_id=f"{op_id}:product",
        )
        wish = stripe_prices.wish(plan, product["id"])
        price = await self._ask(prices.create_async, account_id=account_id, params=wish, op_id=f"{op_id}:price")
        return str(product["id"]), str(price["id"])

    async def create_customer(self, op_id: str, account_id: str, metadata: Metadata, email: str) -> str:
        """POST /v1/customers."""
        wish: dict[str, Any] = {"metadata": shapes.written(metadata)} | ({"email": email} if email else {})
        made = await self._ask(self._api.v1.customers.create_async, account_id=account_id, params=wish, op_id=op_id)
        return str(made["id"])

    async def checkout(
        self,
        op_id: str,
        account_id: str,
        *,
        plan: Plan,
        price_id: str,
        customer_id: str,
        metadata: Metadata,
        fee_minor: int,
        fee_bp: int,
        success_url: str,
        cancel_url: str,
        save_method: bool = False,
        promotion_id: str | None = None,
    ) -> CheckoutFacts:
        """POST /v1/checkout/sessions."""
        tags = shapes.written(metadata)
        is_package = plan.kind == PlanKind.PACKAGE
        inner: dict[str, Any] = {"metadata": tags}
        if is_package and fee_minor:
            inner["application_fee_amount"] = fee_minor
        if is_package and save_method:
            inner["setup_future_usage"] = "off_session"
        if not is_package and fee_bp:
            inner["application_fee_percent"] = wishes.percent(fee_bp)
        if not is_package and plan.trial_days:
            inner["trial_period_days"] = plan.trial_days
        wish: dict[str, Any] = {
            "mode": "payment" if is_package else "subscription",
            "customer": customer_id,
            "line_items": [{"price": price_id, "quantity": 1}],
            "success_url": success_url,
            "cancel_url": cancel_url,
            "metadata": tags,
            "payment_intent_data" if is_package else "subscription_data": inner,
        }
        if promotion_id is not None:
            wish["discounts"] = [{"promotion_code": promotion_id}]
        sessions = self._api.v1.checkout.sessions
        return shapes.checkout(await self._ask(sessions.create_async, account_id=account_id, params=wish, op_id=op_id))

    async def expire_checkout(self, account_id: str, session_id: str) -> CheckoutFacts:
        """POST /v1/checkout/sessions/{id}/expire, which Stripe refuses of a session that is not open."""
        try:
            return shapes.checkout(
                await self._ask(self._api.v1.checkout.sessions.expire_async, session_id, account_id=account_id)
            )
        except PaymentsRefused:
            found = await self.checkout_session(account_id, session_id)
            if found.status == "open":
                raise
            return found

    async def portal_link(self, account_id: str, customer_id: str, return_url: str) -> str:
        """POST /v1/billing_portal/sessions."""
        wish = {"customer": customer_id, "return_url": return_url}
        configuration = await self._portal(account_id)
        if configuration:
            wish["configuration"] = configuration
        made = await self._ask(self._api.v1.billing_portal.sessions.create_async, account_id=account_id, params=wish)
        return str(made["url"])

    async def _portal(self, account_id: str) -> str:
        """What the portal offers: as the account's owner has set it ("": their default), or what we make where nothing is set.

        Stripe opens no portal without. Changes of plans are not in ours: they go through us, which have them by their plan.
        """
        configurations = self._api.v1.billing_portal.configurations
        known = await self._ask(configurations.list_async, account_id=account_id, params={"active": True, "limit": _PAGE})
        if any(each["is_default"] for each in known["data"]):
            return ""
        for each in known["data"]:
            if each["metadata"] == wishes.PORTAL["metadata"]:
                return str(each["id"])
        made = await self._ask(configurations.create_async, account_id=account_id, params=wishes.PORTAL, op_id="portal-1")
        return str(made["id"])

    async def charge_saved(
        self,
        op_id: str,
        account_id: str,
        *,
        customer_id: str,
        method_id: str,
        amount_minor: int,
        currency: str,
        fee_minor: int,
        metadata: Metadata,
    ) -> PaymentFacts:
        """POST /v1/payment_intents, confirmed off session."""
        wish: dict[str, Any] = {
            "amount": amount_minor,
            "currency": currency.lower(),
            "customer": customer_id,
            "payment_method": method_id,
            "off_session": True,
            "confirm": True,
            "metadata": shapes.written(metadata),
            "expand": list(_PAYMENT),
        }
        if fee_minor:
            wish["application_fee_amount"] = fee_minor
        create = self._api.v1.payment_intents.create_async
        raw = await self._ask(create, account_id=account_id, params=wish, op_id=op_id, refused=_refused_intent)
        return shapes.payment(raw)

    async def change_subscription(
        self,
        op_id: str,
        account_id: str,
        subscription_id: str,
        *,
        price_id: str | None = None,
        cancel_at_period_end: bool | None = None,
        metadata: Metadata | None = None,
        fee_bp: int | None = None,
        is_at_once: bool = True,
    ) -> SubscriptionFacts:
        """POST /v1/subscriptions/{id}."""
        subscriptions = self._api.v1.subscriptions
        wish: dict[str, Any] = {}
        if price_id is not None:
            now = await self._ask(subscriptions.retrieve_async, subscription_id, account_id=account_id)
            wish |= {"items": [{"id": invoices.item_of(now), "price": price_id}], **wishes.proration(is_at_once)}
        if cancel_at_period_end is not None:
            wish["cancel_at_period_end"] = cancel_at_period_end
        if metadata is not None:
            wish["metadata"] = shapes.written(metadata)
        if fee_bp is not None:
            wish["application_fee_percent"] = wishes.percent(fee_bp) if fee_bp else ""
        return invoices.subscription(
            await self._ask(subscriptions.update_async, subscription_id, account_id=account_id, params=wish, op_id=op_id)
        )

    async def cancel_subscription(self, op_id: str, account_id: str, subscription_id: str) -> SubscriptionFacts:
        """DELETE /v1/subscriptions/{id}; Stripe keeps no idempotency keys of this method, and calls an ended one missing."""
        subscriptions = self._api.v1.subscriptions
        try:
            return invoices.subscription(await self._ask(subscriptions.cancel_async, subscription_id, account_id=account_id))
        except PaymentsRefused as refused:
            if refused.code != "resource_missing":
                raise
            return await self.subscription(account_id, subscription_id)

    async def refund(
        self, op_id: str, account_id: str, payment_id: str, amount_minor: int, *, return_fee: bool, asked: str = ""
    ) -> RefundFacts:
        """POST /v1/refunds."""
        wish: dict[str, Any] = {"payment_intent": payment_id, "amount": amount_minor, "expand": ["balance_transaction"]}
        if return_fee:
            wish["refund_application_fee"] = True
        if asked:
            wish["metadata"] = shapes.asked_as(asked)
        return shapes.refund(await self._ask(self._api.v1.refunds.create_async, account_id=account_id, params=wish, op_id=op_id))

    async def return_fee(self, op_id: str, fee_id: str, amount_minor: int, refund_id: str) -> None:
        """POST /v1/application_fees/{id}/refunds, on the platform's account."""
        fees = self._api.v1.application_fees.refunds
        wish = {"amount": amount_minor, "metadata": shapes.of_refund(refund_id)}
        await self._ask(fees.create_async, fee_id, params=wish, op_id=op_id)

    async def fee_returned(self, fee_id: str, refund_id: str) -> tuple[int | None, int]:
        """GET /v1/application_fees/{id}/refunds."""
        of_it, in_all = None, 0
        async for raw in self._walk(self._api.v1.application_fees.refunds.list_async, fee_id, account_id=PLATFORM_ACCOUNT):
            amount, is_of_it = shapes.fee_refund(raw, refund_id)
            of_it, in_all = amount if is_of_it else of_it, in_all + amount
        return of_it, in_all

    # ---- looking -------------------------------------------------------------------------------

    async def checkout_session(self, account_id: str, session_id: str) -> CheckoutFacts:
        """GET /v1/checkout/sessions/{id}."""
        sessions = self._api.v1.checkout.sessions
        return shapes.checkout(await self._ask(sessions.retrieve_async, session_id, account_id=account_id))

    async def payment(self, account_id: str, payment_id: str) -> PaymentFacts:
        """GET /v1/payment_intents/{id}, and /v1/invoice_payments where it is not a purchase of ours."""
        intents = self._api.v1.payment_intents
        raw = await self._ask(intents.retrieve_async, payment_id, account_id=account_id, params={"expand": list(_PAYMENT)})
        return await self._with_invoice(account_id, raw)

    async def invoice(self, account_id: str, invoice_id: str) -> InvoiceFacts:
        """GET /v1/invoices/{id}, and its lines and payments where there are many."""
        invoices = self._api.v1.invoices
        raw = await self._ask(invoices.retrieve_async, invoice_id, account_id=account_id, params={"expand": list(_INVOICE)})
        return await self._whole(account_id, raw)

    async def subscription(self, account_id: str, subscription_id: str) -> SubscriptionFacts:
        """GET /v1/subscriptions/{id}."""
        subscriptions = self._api.v1.subscriptions
        return invoices.subscription(await self._ask(subscriptions.retrieve_async, subscription_id, account_id=account_id))

    async def refund_of(self, account_id: str, refund_id: str) -> RefundFacts:
        """GET /v1/refunds/{id}."""
        wish = {"expand": ["balance_transaction"]}
        return shapes.refund(await self._ask(self._api.v1.refunds.retrieve_async, refund_id, account_id=account_id, params=wish))

    async def refunds_of(self, account_id: str, payment_id: str) -> AsyncIterator[RefundFacts]:
        """GET /v1/refunds of a payment intent."""
        wish = {"payment_intent": payment_id, "expand": ["data.balance_transaction"]}
        async for raw in self._walk(self._api.v1.refunds.list_async, account_id=account_id, params=wish):
            yield shapes.refund(raw)

    async def dispute(self, account_id: str, dispute_id: str) -> DisputeFacts:
        """GET /v1/disputes/{id}."""
        return shapes.dispute(await self._ask(self._api.v1.disputes.retrieve_async, dispute_id, account_id=account_id))

    async def _with_invoice(self, account_id: str, raw: dict[str, Any]) -> PaymentFacts:
        """A payment does not say what it pays; those of purchases pay for no invoice."""
        facts = shapes.payment(raw)
        if facts.metadata is not None:
            return facts
        wish = {"payment": {"type": "payment_intent", "payment_intent": facts.payment_id}, "limit": 1}
        paid = await self._ask(self._api.v1.invoice_payments.list_async, account_id=account_id, params=wish)
        return shapes.payment(raw, next((invoices.invoice_of(each) for each in paid["data"]), None))

    async def _whole(self, account_id: str, raw: dict[str, Any]) -> InvoiceFacts:
        lines = payments = None
        if invoices.has_more_lines(raw):
            listed = self._walk(self._api.v1.invoices.line_items.list_async, raw["id"], account_id=account_id)
            lines = [line async for line in listed]
        if invoices.has_more_payments(raw):
            of = {"invoice": raw["id"]}
            listed = self._walk(self._api.v1.invoice_payments.list_async, account_id=account_id, params=of)
            payments = [payment async for payment in listed]
        return invoices.invoice(raw, lines, payments)

    # ---- walking -------------------------------------------------------------------------------

    async def payments_between(self, account_id: str, from_ms: int, until_ms: int) -> AsyncIterator[PaymentFacts]:
        """GET /v1/payment_intents."""
        wish = {"created": wishes.seconds(from_ms, until_ms), "expand": [f"data.{name}" for name in _PAYMENT]}
        async for raw in self._walk(self._api.v1.payment_intents.list_async, account_id=account_id, params=wish):
            yield shapes.payment(raw)

    async def invoices_between(self, account_id: str, from_ms: int, until_ms: int) -> AsyncIterator[InvoiceFacts]:
        """GET /v1/invoices."""
        wish = {"created": wishes.seconds(from_ms, until_ms), "expand": [f"data.{name}" for name in _INVOICE]}
        async for raw in self._walk(self._api.v1.invoices.list_async, account_id=account_id, params=wish):
            yield await self._whole(account_id, raw)

    async def invoices_of(
        self, account_id: str, *, subscription_id: str = "", customer_id: str = ""
    ) -> AsyncIterator[InvoiceFacts]:
        """GET /v1/invoices, of one subscription or customer."""
        of = {"subscription": subscription_id} if subscription_id else {"customer": customer_id}
        wish = {**of, "expand": [f"data.{name}" for name in _INVOICE]}
        async for raw in self._walk(self._api.v1.invoices.list_async, account_id=account_id, params=wish):
            yield await self._whole(account_id, raw)

    async def refunds_between(self, account_id: str, from_ms: int, until_ms: int) -> AsyncIterator[RefundFacts]:
        """GET /v1/refunds."""
        wish = {"created": wishes.seconds(from_ms, until_ms), "expand": ["data.balance_transaction"]}
        async for raw in self._walk(self._api.v1.refunds.list_async, account_id=account_id, params=wish):
            yield shapes.refund(raw)

    async def disputes_between(self, account_id: str, from_ms: int, until_ms: int) -> AsyncIterator[DisputeFacts]:
        """GET /v1/disputes."""
        wish = {"created": wishes.seconds(from_ms, until_ms)}
        async for raw in self._walk(self._api.v1.disputes.list_async, account_id=account_id, params=wish):
            yield shapes.dispute(raw)

    async def subscriptions_of(self, account_id: str) -> AsyncIterator[SubscriptionFacts]:
        """GET /v1/subscriptions."""
        async for raw in self._walk(self._api.v1.subscriptions.list_async, account_id=account_id, params={"status": "all"}):
            yield invoices.subscription(raw)

    async def _walk(
        self, call: "Call", *ids: str, account_id: str, params: Mapping[str, Any] | None = None
    ) -> AsyncIterator[dict[str, Any]]:
        after: dict[str, str] = {}
        while True:
            page = await self._ask(call, *ids, account_id=account_id, params={**(params or {}), "limit": self.page_rows, **after})
            for each in page["data"]:
                yield each
            if not page["has_more"]:
                return
            after = {"starting_after": page["data"][-1]["id"]}

    # ---- events --------------------------------------------------------------------------------

    def event(self, endpoint: str, body: bytes, signature: str) -> Mapping[str, object]:
        """The event, once its signature is proven by the SDK, against the clock of this machine."""
        secret = self._secrets.get(endpoint, "")
        if not secret:
            raise PaymentsRefused("This endpoint has no secret.", "bad_signature")
        try:
            stripe.WebhookSignature.verify_header(body, signature, secret, _SIGNATURE_AGE_S)
        except stripe.SignatureVerificationError as forged:
            raise PaymentsRefused(without_keys(str(forged.user_message)), "bad_signature") from None
        except (ValueError, IndexError) as broken:  # of the header's numbers, or of bytes that are no text
            raise PaymentsRefused("The signature cannot be read.", "bad_signature") from broken
        try:
            return msgspec.json.decode(body, type=dict[str, object])
        except (msgspec.DecodeError, RecursionError) as broken:
            raise PaymentsRefused("The event is not a JSON object.", "bad_payload") from broken

    # ---- the one way to Stripe -----------------------------------------------------------------

    async def _ask(
        self,
        call: "Call",
        *ids: str,
        account_id: str = "",
        params: Mapping[str, Any] | None = None,
        op_id: str = "",
        refused: "Refused | None" = None,
    ) -> dict[str, Any]:
        """Stripe's answer. `refused` may make an answer of a refusal."""
        options: dict[str, str] = {}
        if account_id:
            options["stripe_account"] = account_id
        if op_id:
            options["idempotency_key"] = op_id
        with named_faults(self._base, _TOTAL_S):
            try:
                async with asyncio.timeout(_TOTAL_S):
                    answer = await call(*ids, dict(params or {}), options)
            except stripe.CardError as error:
                found = refused(error) if refused else None
                if found is None:
                    raise
                return found
        raw: dict[str, Any] = answer.to_dict()
        return raw


Call = Callable[..., Awaitable[Any]]
Refused = Callable[[stripe.CardError], dict[str, Any] | None]


def _refused_intent(error: stripe.CardError) -> dict[str, Any] | None:
    """The payment intent behind a refused card."""
    about = error.json_body if isinstance(error.json_body, dict) else {}
    intent = about.get("error", {}).get("payment_intent")
    return intent if isinstance(intent, dict) else None


