"""What Stripe's SDK raises, in our words, of one sentence each, without our keys."""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import stripe

from gateway.billing.ports import PaymentsDown, PaymentsRefused

_KEY: Final = re.compile(r"\b[a-z]{2,5}_(?:test|live)_[A-Za-z0-9*_]+|\bwhsec_\w+")
_log = logging.getLogger(__name__)


@contextmanager
def named_faults(address: str, limit_s: float) -> Iterator[None]:
    """PaymentsDown and PaymentsRefused. What each was caused by is left behind: it has the key in its request's headers."""
    try:
        yield
    except TimeoutError:
        raise _noted(PaymentsDown(f"Stripe did not answer at {address} within {limit_s:.0f} seconds.")) from None
    except stripe.StripeError as error:
        raise _noted(_told(error, address)) from None


def without_keys(text: str) -> str:
    """A sentence of Stripe's, for other eyes."""
    return _KEY.sub("[key]", text)


def _noted(fault: PaymentsDown | PaymentsRefused) -> PaymentsDown | PaymentsRefused:
    """In the log as well; of a refusal not the sentence, which may name a buyer."""
    if isinstance(fault, PaymentsDown):
        _log.warning("%s", fault)
    else:
        _log.info("Stripe refuses: %s", fault.code or "for another reason")
    return fault


def _told(error: stripe.StripeError, address: str) -> PaymentsDown | PaymentsRefused:
    code = str((error.error.code if error.error is not None else None) or error.code or "")
    text = without_keys(error.user_message or type(error).__name__)
    if isinstance(error, stripe.AuthenticationError):
        return PaymentsDown(f"Stripe does not accept this gateway's key: {text}")
    if isinstance(error, stripe.PermissionError) and code == "account_invalid":
        return PaymentsRefused(text, code, is_revoked=True)
    if isinstance(error, stripe.PermissionError):  # of a restricted key, which the operator can give more
        return PaymentsDown(f"Stripe does not allow this to this gateway's key: {text}")
    if isinstance(error, stripe.IdempotencyError):
        return PaymentsRefused(text, "idempotency_error")
    if error.http_status is None:  # the SDK's own words are four lines, and do not name the address
        return PaymentsDown(f"Stripe cannot be reached at {address}.")
    if isinstance(error, stripe.RateLimitError) or error.http_status >= 500:
        return PaymentsDown(f"Stripe at {address} failed with status {error.http_status}: {text}")
    if error.http_status == 409:  # another request with this key, or on this object, is on its way
        return PaymentsDown(f"Stripe is still at it: {text}")
    return PaymentsRefused(text, code, is_card=isinstance(error, stripe.CardError))
