"""Bytes to values and back: bodies, queries, pages and errors of the management API."""

import re
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from gateway.api.shapes import CsvAnswer, Listing
from gateway.balance.model import BalanceUnavailable
from gateway.billing.ports import PaymentsDown, PaymentsRefused
from gateway.core.errors import (
    BodyTooLarge,
    Conflict,
    GatewayError,
    InvalidRequest,
    PaymentRequired,
    Unavailable,
    UnsupportedMedia,
)
from gateway.core.limits import IDEMPOTENCY_KEY_CHARS_MAX
from gateway.db.faults import SqlDown, SqlRefused

T = TypeVar("T")
U = TypeVar("U")

_PLACE = re.compile(r" - at `\$\.?(.*)`$")
_FIELD = re.compile(r"(?:unknown|missing required) field `(.*?)`")
_IDEMPOTENCY_KEY = re.compile(rf"[\x21-\x7e]{{1,{IDEMPOTENCY_KEY_CHARS_MAX}}}")


async def read_body(request: Request, kind: Any, bytes_max: int) -> Any:
    """The body as a `kind`; BodyTooLarge, UnsupportedMedia, or InvalidRequest with the path of what is wrong."""
    media = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if media != "application/json":
        raise UnsupportedMedia("Send JSON with `Content-Type: application/json`.", param="content-type")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > bytes_max:
            raise BodyTooLarge(f"The body is larger than {bytes_max} bytes.")
    try:
        return msgspec.json.decode(bytes(body), type=kind)
    except msgspec.ValidationError as wrong:
        raise _missing(bytes(body), kind) or _misfit(wrong, "body") from wrong
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as broken:
        raise InvalidRequest("The body is not valid JSON.", param="body") from broken


def read_query(request: Request, kind: Any) -> Any:
    """The query parameters as a `kind`; InvalidRequest names one that is unknown, doubled or malformed."""
    given: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name in given:
            raise InvalidRequest(f"`{name}` is there twice.", param=name)
        given[name] = value
    try:
        return msgspec.convert(given, kind, strict=False)
    except msgspec.ValidationError as wrong:
        raise _misfit(wrong, "query") from wrong


def read_once(request: Request, name: str) -> str:
    """A header, "" when it is not there; InvalidRequest when it is there twice: a proxy before us may read the other."""
    values = request.headers.getlist(name)
    if len(values) > 1:
        raise InvalidRequest(f"{name} is there twice.", param=name)
    return values[0] if values else ""


def read_idempotency_key(request: Request) -> str:
    """The Idempotency-Key header of a request that moves money."""
    key = read_once(request, "idempotency-key")
    if not _IDEMPOTENCY_KEY.fullmatch(key):
        raise InvalidRequest(
            f"Send an `Idempotency-Key` of 1 to {IDEMPOTENCY_KEY_CHARS_MAX} visible ASCII characters.", param="Idempotency-Key"
        )
    return key


def answered(value: Any, status: int, headers: dict[str, str]) -> Response:
    """A JSON answer, or a table as a file."""
    if isinstance(value, CsvAnswer):
        headers["content-disposition"] = f'attachment; filename="{value.filename}"'
        return StreamingResponse(value.text, status, headers, media_type="text/csv; charset=utf-8")
    return Response(msgspec.json.encode(value), status, headers, media_type="application/json")


def error_answer(error: GatewayError, headers: dict[str, str]) -> Response:
    """The one shape of every failure."""
    if error.retry_after_s is not None:
        headers["retry-after"] = str(max(1, -int(-error.retry_after_s // 1)))
    if error.should_retry is not None:
        headers["x-should-retry"] = "true" if error.should_retry else "false"
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    shown = {
        "message": error.message,
        "type": error.type,
        "param": error.param,
        "code": error.code,
        "request_id": headers["x-request-id"],
        **error.details,
    }
    return answered({"error": shown}, error.status, headers)


def as_gateway_error(fault: SqlDown | SqlRefused | BalanceUnavailable | PaymentsDown | PaymentsRefused) -> GatewayError:
    """What the failures of the stores, and of Stripe, mean to a caller."""
    if isinstance(fault, PaymentsDown):
        return Unavailable("Payments are not available just now.", code="payments_unavailable", retry_after_s=5)
    if isinstance(fault, PaymentsRefused):
        return _refused_payment(fault)
    if isinstance(fault, BalanceUnavailable):
        return Unavailable("Balances are not available just now.", code="balance_unavailable", retry_after_s=1)
    if isinstance(fault, SqlDown):
        return Unavailable("The database does not answer. Try again shortly.", retry_after_s=1)
    return InvalidRequest("The database takes one of the values for none that it can hold.")


def _refused_payment(refused: PaymentsRefused) -> GatewayError:
    details = {"stripe_code": refused.code} if refused.code else {}
    if refused.is_revoked:
        return Conflict("The account's owner has disconnected it.", code="account_deauthorized", details=details)
    if refused.is_card:
        return PaymentRequired(f"The payment was refused: {refused}", code="payment_refused", details=details)
    return InvalidRequest(f"Stripe refuses this: {refused}", code="payment_refused", details=details)


def listing(rows: Iterable[U], next_cursor: str | None, shown: Callable[[U], T]) -> Listing[T]:
    """One page."""
    return Listing(data=tuple(shown(row) for row in rows), has_more=next_cursor is not None, next_cursor=next_cursor)


def _missing(body: bytes, kind: Any) -> InvalidRequest | None:
    """All the fields that a body lacks, where it lacks some: told one by one they would take as many requests."""
    try:
        given = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):  # behind what was wrong first
        return None
    if type(given) is not dict or not (isinstance(kind, type) and issubclass(kind, msgspec.Struct)):
        return None
    lacking = [field.encode_name for field in msgspec.structs.fields(kind) if field.required and field.encode_name not in given]
    if not lacking:
        return None
    says = "field" if len(lacking) == 1 else "fields"
    return InvalidRequest(f"Object missing required {says} {', '.join([f'`{name}`' for name in lacking])}.", param=lacking[0])


def _misfit(wrong: msgspec.ValidationError, whole: str) -> InvalidRequest:
    """msgspec's message, with the place it names as the parameter: `limits.rpm`."""
    text = str(wrong)
    place = _PLACE.search(text)
    param = place[1] if place else ""
    field = _FIELD.search(text)
    if field:
        param = f"{param}.{field[1]}" if param else field[1]
    return InvalidRequest(f"{_PLACE.sub('', text)}.", param=param or whole)
