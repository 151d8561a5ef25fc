"""What a plan is at Stripe: the product and the price that we make for it, and whether what has its name there is that."""

from typing import Any

from gateway.billing.model import Plan, PlanKind


def tags(plan: Plan) -> dict[str, str]:
    """What stands on both."""
    return {"mozaiks_plan": plan.id} | ({"mozaiks_app": plan.enterprise_id} if plan.enterprise_id else {})


def wish(plan: Plan, product_id: str) -> dict[str, Any]:
    """The price. The plan's name becomes its own, should another have it."""
    made = {
        "product": product_id,
        "currency": plan.currency.lower(),
        "unit_amount": plan.price_minor,
        "lookup_key": plan.id,
        "transfer_lookup_key": True,
        "metadata": tags(plan),
    }
    return made | ({"recurring": _recurring(plan)} if plan.kind == PlanKind.SUBSCRIPTION else {})


def fits(price: dict[str, Any], plan: Plan) -> bool:
    """Whether a price at Stripe, with its product, is the one that we would make for a plan."""
    asked = _recurring(plan) | {"usage_type": "licensed"} if plan.kind == PlanKind.SUBSCRIPTION else None
    recurring, product = price.get("recurring"), price.get("product")
    found = {name: recurring.get(name) for name in asked} if asked and recurring else recurring
    return (
        (price.get("active"), price.get("unit_amount"), price.get("billing_scheme")) == (True, plan.price_minor, "per_unit")
        and str(price.get("currency")).upper() == plan.currency
        and found == asked
        and isinstance(product, dict)
        and (product.get("active"), (product.get("metadata") or {}).get("mozaiks_plan")) == (True, plan.id)
    )


def _recurring(plan: Plan) -> dict[str, Any]:
    return {"interval": plan.interval, "interval_count": plan.interval_count}
