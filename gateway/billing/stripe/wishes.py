"""Parts of what Stripe is asked, in its words. It does not know the SDK."""

from collections.abc import Mapping
from typing import Any, Final

PORTAL: Final[Mapping[str, Any]] = {
    "features": {
        "invoice_history": {"enabled": True},
        "payment_method_update": {"enabled": True},
        "subscription_cancel": {"enabled": True, "mode": "at_period_end"},
    },
    "metadata": {"mozaiks_portal": "1"},
}


def proration(is_at_once: bool) -> dict[str, str]:
    """How another price of a subscription is charged: the rest of this period at once, or nothing before the next one."""
    if is_at_once:
        return {"proration_behavior": "always_invoice", "payment_behavior": "error_if_incomplete"}
    return {"proration_behavior": "none"}


def percent(fee_bp: int) -> str:
    """Basis points as a percentage."""
    return f"{fee_bp // 100}.{fee_bp % 100:02d}"


def seconds(from_ms: int, until_ms: int) -> dict[str, int]:
    """Stripe's times are whole seconds: one within is one whose second begins within."""
    return {"gte": -(-from_ms // 1000), "lt": -(-until_ms // 1000)}


def id_in(reference: Any) -> str:
    """The id of what is there whole, or as its id."""
    return str(reference["id"] if isinstance(reference, Mapping) else reference)
