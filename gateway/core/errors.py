"""The error tree. Each error knows its status, code, parameter and whether a retry can help.

    GatewayError
    +- InvalidRequest            400  the caller must change the request
    |  +- MissingEndUser         400
    |  +- BodyTooLarge           413
    |  +- UnsupportedMedia       415
    +- Unauthenticated           401  invalid, expired or revoked key
    +- PaymentRequired           402  a wallet, a spend limit or a missing price stands in the way
    +- Forbidden                 403
    +- NotFound                  404
    +- Conflict                  409
    +- RateLimited               429  only ever a rate, never money: clients retry 429 by themselves
    +- UpstreamFailed            502, or the provider's own 4xx
    |  +- UpstreamTimeout        504
    +- Unavailable               503

Rendered once per dialect, at the edge (`proxy/wire.py`, `api/`). Messages are for the caller: they
name no provider key, no internal address and no other caller.
"""

from collections.abc import Mapping
from typing import Any


class GatewayError(Exception):
    """Base of every failure that a caller is told about."""

    status = 500
    type = "server_error"
    code = "internal_error"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after_s: float | None = None,
        should_retry: bool | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        """`details` are extra fields of the error object; `should_retry` becomes `x-should-retry`."""
        super().__init__(message)
        self.message = message
        self.code = code or type(self).code
        self.param = param
        self.retry_after_s = retry_after_s
        self.should_retry = should_retry
        self.details = dict(details or {})


class InvalidRequest(GatewayError):
    """400: malformed or out of range; `param` names the field."""

    status = 400
    type = "invalid_request_error"
    code = "invalid_request"


class MissingEndUser(InvalidRequest):
    """400: an app_usage key without an end user that the app accepts."""

    code = "missing_end_user"


class BodyTooLarge(InvalidRequest):
    """413: the limit is named in the message."""

    status = 413
    code = "body_too_large"


class UnsupportedMedia(InvalidRequest):
    """415: not JSON."""

    status = 415
    code = "unsupported_media_type"


class Unauthenticated(GatewayError):
    """401: `invalid_api_key`, `expired_api_key`, `revoked_api_key`."""

    status = 401
    type = "authentication_error"
    code = "invalid_api_key"


class PaymentRequired(GatewayError):
    """402: money stands in the way. Never retried by clients on their own."""

    status = 402
    type = "insufficient_funds"
    code = "insufficient_balance"


class Forbidden(GatewayError):
    """403: known caller, not allowed."""

    status = 403
    type = "permission_error"
    code = "forbidden"


class NotFound(GatewayError):
    """404."""

    status = 404
    type = "invalid_request_error"
    code = "not_found"


class Conflict(GatewayError):
    """409: the id is taken, or an Idempotency-Key came back with another body."""

    status = 409
    type = "invalid_request_error"
    code = "conflict"


class RateLimited(GatewayError):
    """429: `rate_limit_exceeded`, `concurrency_limit_exceeded`; always with a Retry-After."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"


class UpstreamFailed(GatewayError):
    """The provider failed. `status` is 502, or the provider's own status where the caller can act on it."""

    status = 502
    type = "upstream_error"
    code = "upstream_error"


class UpstreamTimeout(UpstreamFailed):
    """504: the provider was silent for too long."""

    status = 504
    code = "upstream_timeout"


class Unavailable(GatewayError):
    """503: `balance_unavailable`, `overloaded`, `draining`."""

    status = 503
    type = "server_error"
    code = "overloaded"
