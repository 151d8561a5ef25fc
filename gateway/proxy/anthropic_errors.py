"""Failures as Anthropic's clients read them: their types by status, with this gateway's code and details inside."""

from typing import Final

from gateway.core.errors import GatewayError
from gateway.proxy import wire

_TYPES: Final = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def error_body(error: GatewayError, request_id: str) -> bytes:
    """Anthropic's error object; `code`, `param` and the details are where OpenAI's has them, inside `error`."""
    kind = _TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "api_error")
    if error.details.get("upstream_status") in (503, 529):
        kind = "overloaded_error"
    said = {**error.details, "type": kind, "message": error.message, "code": error.code, "param": error.param}
    return wire.encode_json({"type": "error", "error": said, "request_id": request_id})


def error_event(error: GatewayError, request_id: str) -> bytes:
    """The event that ends a stream in trouble."""
    return b"event: error\ndata: " + error_body(error, request_id) + b"\n\n"
