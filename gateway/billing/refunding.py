"""Refunds that a seller asks for. Stripe makes them; what they take from the wallet is posted when Stripe tells of them."""

from collections.abc import Sequence
from typing import Final

import msgspec

from gateway.billing import minor_units
from gateway.billing.acts import asset_of, managed_seller, missing, op_of, sale_act
from gateway.billing.connect import Connect
from gateway.billing.model import Purchase, PurchaseState
from gateway.billing.ports import Payments, PaymentsRefused, RefundFacts
from gateway.billing.store import Store
from gateway.core.clock import Clock, now_ms
from gateway.core.errors import Conflict, Forbidden, InvalidRequest
from gateway.core.limits import REASON_CHARS_MAX
from gateway.core.words import CostPolicy
from gateway.identity.model import Actor, App, Role
from gateway.identity.registry import Registry
from gateway.ledger.model import RefundRequest, WalletKey
from gateway.ledger.refunds import RefundEffect
from gateway.ledger.service import Ledger

_FAILED: Final = ("failed", "canceled")
_USED: Final = "This Idempotency-Key was used for another request."


class Paid(msgspec.Struct, frozen=True):
    """A payment that can be given back: of a purchase, or of a subscription's invoice."""

    wallet: WalletKey
    account_id: str
    payment_id: str
    amount_minor: int
    currency: str
    has_fee: bool
    purchase_id: str | None = None


class Refunded(msgspec.Struct, frozen=True):
    """A refund as Stripe has it, and what it does to the wallet, in `asset`; None where the books cannot tell."""

    paid: Paid
    facts: RefundFacts
    asset: str
    effect: RefundEffect | None


class Refunding:
    """Raises PaymentsDown and PaymentsRefused besides what each method says."""

    def __init__(
        self, store: Store, registry: Registry, payments: Payments, connect: Connect, ledger: Ledger, clock: Clock
    ) -> None:
        self._store = store
        self._registry = registry
        self._payments = payments
        self._connect = connect
        self._ledger = ledger
        self._clock = clock

    async def refund(
        self,
        actor: Actor,
        enterprise_id: str | None,
        key: str,
        *,
        purchase_id: str | None = None,
        payment_id: str | None = None,
        amount_micro: int | None = None,
        reason: str = "",
    ) -> Refunded:
        """Ask Stripe to give back a purchase or, by Stripe's id, any payment to this seller: all that is left of it or a part,
        with the platform's share of it. InvalidRequest, NotFound, Forbidden, Conflict.
        """
        seller = await managed_seller(self._registry, actor, enterprise_id)
        if actor.role != Role.OPERATOR and seller is not None and seller.cost_policy == CostPolicy.PLATFORM_PAYS:
            # Else its creator could give back what was spent already at providers whom the platform pays.
            raise Forbidden("The platform pays for the usage of this app: its operator refunds.", param="enterprise_id")
        if len(reason) > REASON_CHARS_MAX:
            raise InvalidRequest(f"`reason` may have at most {REASON_CHARS_MAX} characters", param="reason")
        if purchase_id is not None and payment_id is None:
            paid = await self._purchase(seller, purchase_id)
        elif payment_id is not None and purchase_id is None:
            paid = await self._payment(actor, seller, payment_id)
        else:
            raise InvalidRequest("Name either `purchase_id` or `payment_id`.", param="purchase_id")
        wanted_minor = None if amount_micro is None else _amount(paid, amount_micro)
        facts = await self._ask(paid, op_of("refund", actor.role, paid.payment_id, key), wanted_minor)
        after = {"payment_id": paid.payment_id, "amount_minor": facts.amount_minor, "currency": paid.currency}
        line = sale_act(actor, "refund.ask", facts.refund_id, seller, paid.wallet, reason=reason, after=after)
        await self._store.note(enterprise_id, line, now_ms(self._clock))
        return Refunded(paid, facts, asset_of(seller), await self._effect(paid, facts))

    async def _ask(self, paid: Paid, op_id: str, wanted_minor: int | None) -> RefundFacts:
        """So much of what is left of a payment, or all of that; what the operation was given before, when it is repeated.

        Stripe forgets within a day what was asked under a name, and what is left is less once it was given: so the refund itself
        says what asked for it. Nothing is asked that Stripe would refuse. InvalidRequest, Conflict.
        """
        asked, left_minor = f"{op_id}:{'rest' if wanted_minor is None else wanted_minor}", paid.amount_minor
        async for each in self._payments.refunds_of(paid.account_id, paid.payment_id):
            if each.asked == asked:
                return each
            if each.asked.startswith(f"{op_id}:"):
                raise Conflict(_USED, param="Idempotency-Key")
            left_minor -= 0 if each.status in _FAILED else each.amount_minor
        if left_minor <= 0:
            raise Conflict("All of this payment went back already: nothing is left to refund.")
        if wanted_minor is not None and wanted_minor > left_minor:
            raise InvalidRequest(f"{minor_units.shown(left_minor, paid.currency)} are left to refund.", param="amount_micro")
        amount_minor = left_minor if wanted_minor is None else wanted_minor
        try:
            return await self._payments.refund(
                op_id, paid.account_id, paid.payment_id, amount_minor, return_fee=paid.has_fee, asked=asked
            )
        except PaymentsRefused as refused:
            if refused.code == "idempotency_error":  # two at once
                raise Conflict(_USED, param="Idempotency-Key") from refused
            raise

    async def _effect(self, paid: Paid, facts: RefundFacts) -> RefundEffect | None:
        if facts.status in _FAILED:
            return None
        amount_micro = minor_units.micro_from_minor(facts.amount_minor, facts.currency)
        asked = RefundRequest(paid.wallet, paid.payment_id, facts.refund_id, amount_micro, "refund")
        return await self._ledger.refunds.effect(asked)

    async def refunded(self, purchases: Sequence[Purchase]) -> dict[str, int]:
        """What refunds gave back of purchases of one seller, by their payments: micro-units of the currency that was paid."""
        named = [each.payment_id for each in purchases if each.payment_id is not None]
        return await self._ledger.refunds.refunded(purchases[0].wallet.enterprise_id, named) if named else {}

    async def _purchase(self, seller: App | None, purchase_id: str) -> Paid:
        found = await self._store.purchase(seller.enterprise_id if seller else None, purchase_id)
        if found is None:
            raise missing(seller, "purchase")
        if found.state != PurchaseState.PAID or found.payment_id is None:
            raise Conflict(f"This purchase is {found.state}: there is nothing to refund.", param="purchase_id")
        has_fee = found.fee_minor > 0
        amount = found.amount_minor
        return Paid(found.wallet, found.account_id, found.payment_id, amount, found.currency, has_fee, found.id)

    async def _payment(self, actor: Actor, seller: App | None, payment_id: str) -> Paid:
        """A creator's account takes the payments of all its apps, and of whatever else it sells: the books tell whose one is.

        What is written on a payment its account's owner can change: by that a payment of an app whose usage the platform pays for
        would be given back as one of another app, with the platform's share. So it is believed for an operator alone.
        """
        account_id = await self._connect.existing_account(seller)
        try:
            found = await self._payments.payment(account_id, payment_id)
        except PaymentsRefused as refused:
            if refused.code == "resource_missing":
                raise missing(seller, "payment") from refused
            raise
        metadata = found.metadata
        if found.invoice_id is not None:
            metadata = (await self._payments.invoice(account_id, found.invoice_id)).metadata
        whose = await self._store.seller_of(account_id, found.payment_id)
        owner = None if whose is None else await self._ledger.payments.payer(whose or None, found.payment_id)
        if owner is not None:
            wallet = WalletKey(owner, whose or None)
        elif metadata is not None:
            wallet = WalletKey(metadata.owner, metadata.enterprise_id)
        else:
            raise missing(seller, "payment")
        if wallet.enterprise_id != (seller.enterprise_id if seller else None):
            raise missing(seller, "payment")
        if found.status != "succeeded":
            raise Conflict("This payment has not succeeded: there is nothing to refund.", param="payment_id")
        if owner is None and actor.role != Role.OPERATOR:
            raise Conflict("This payment is not in the books yet: name the purchase, or ask the operator.", param="payment_id")
        purchase_id = metadata.purchase_id or None if metadata is not None else None
        return Paid(wallet, account_id, found.payment_id, found.amount_minor, found.currency, found.fee_minor > 0, purchase_id)


def _amount(paid: Paid, amount_micro: int) -> int:
    try:
        amount_minor = minor_units.minor_from_micro(amount_micro, paid.currency)
    except ValueError as wrong:
        raise InvalidRequest(f"`amount_micro` is no amount of {paid.currency}: {wrong}", param="amount_micro") from wrong
    if amount_minor <= 0:
        raise InvalidRequest("A refund is above 0, and at most what is left to refund.", param="amount_micro")
    return amount_minor
