"""Stripe's errors: {"error": {type, code, message, param, ...}} with a status. Shapes are of docs.stripe.com/api/errors."""

from typing import Any

from .spec import Obj


class StripeFault(Exception):
    """An answer that is an error; `kept` says whether an idempotency key keeps it (what failed before acting is not kept)."""

    def __init__(self, status: int, message: str, code: str = "", param: str = "", kept: bool = True, **more: Any) -> None:
        super().__init__(message)
        self.status = status
        self.kept = kept
        kind = more.pop("type", "card_error" if status == 402 else "api_error" if status >= 500 else "invalid_request_error")
        self.error: Obj = {"type": kind, "message": message}
        if code:
            self.error["code"] = code
            self.error["doc_url"] = f"https://stripe.com/docs/error-codes/{code.replace('_', '-')}"
        if param:
            self.error["param"] = param
        self.error |= more


def missing(kind: str, value: str, param: str = "id", status: int = 404) -> StripeFault:
    return StripeFault(status, f"No such {kind}: '{value}'", "resource_missing", param)


def bad(message: str, param: str = "", code: str = "") -> StripeFault:
    return StripeFault(400, message, code, param)
