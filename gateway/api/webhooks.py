"""Where Stripe's webhooks arrive, and handlers for operators: which there were, why some failed, once more."""

import logging
from typing import Annotated

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.api.endpoint import ApiContext, Call
from gateway.api.shapes import Answer, Listing, PageQuery, Stamp
from gateway.api.wire import answered, error_answer, listing
from gateway.billing.model import InboxEvent, InboxState
from gateway.billing.ports import PaymentsRefused
from gateway.billing.webhooks.inbox import Inbox
from gateway.core.clock import rfc3339
from gateway.core.errors import BodyTooLarge, GatewayError, InvalidRequest, Unavailable
from gateway.core.ids import new_id
from gateway.core.limits import WEBHOOK_BYTES_MAX
from gateway.db.faults import SqlDown
from gateway.identity.rules import page
from gateway.trail.model import Act

_log = logging.getLogger(__name__)
_PATHS = {"/webhooks/stripe": "platform", "/webhooks/stripe/connect": "connect"}


class WebhooksQuery(PageQuery, frozen=True):
    """Which webhooks; `state` is waiting, done, ignored or failed."""

    state: Annotated[str, msgspec.Meta(description="waiting, done, ignored or failed")] | None = None


class WebhookAnswer(Answer, frozen=True):
    """A webhook: what it is about, what became of it and why. Nothing of what it says is kept."""

    id: str
    endpoint: str
    event_id: str
    type: str
    account_id: str | None
    object_id: str
    state: str
    reason: str
    attempts: int
    created_at: Stamp
    received_at: Stamp
    due_at: Stamp | None
    handled_at: Stamp | None


async def events(context: ApiContext, call: Call) -> Listing[WebhookAnswer]:
    """GET webhooks, newest first."""
    query: WebhooksQuery = call.query
    count = page(query.cursor, query.limit)
    found = await _inbox(context).events(query.state, query.cursor, count)
    return listing(found[:count], found[count - 1].id if len(found) > count else None, _shown)


async def replay(context: ApiContext, call: Call) -> WebhookAnswer:
    """POST webhooks/{webhook_id}/replay."""
    webhook_id = call.path["webhook_id"]
    act = Act("webhook.replay", call.actor.role, call.actor.name, webhook_id)
    return _shown(await _inbox(context).replay(webhook_id, act))


async def ignore(context: ApiContext, call: Call) -> WebhookAnswer:
    """POST webhooks/{webhook_id}/ignore."""
    webhook_id = call.path["webhook_id"]
    act = Act("webhook.ignore", call.actor.role, call.actor.name, webhook_id)
    return _shown(await _inbox(context).ignore(webhook_id, act))


def _inbox(context: ApiContext) -> Inbox:
    assert context.receiving is not None
    return context.receiving.inbox


def _shown(event: InboxEvent) -> WebhookAnswer:
    return WebhookAnswer(
        id=event.id,
        endpoint=event.endpoint,
        event_id=event.event_id,
        type=event.type,
        account_id=event.account_id or None,
        object_id=event.object_id,
        state=event.state,
        reason=event.reason,
        attempts=event.attempts,
        created_at=rfc3339(event.created_at_ms),
        received_at=rfc3339(event.received_at_ms),
        due_at=rfc3339(event.due_at_ms) if event.state == InboxState.WAITING else None,
        handled_at=None if event.handled_at_ms is None else rfc3339(event.handled_at_ms),
    )


def receivers(inbox: Inbox | None) -> list[Route]:
    """The two addresses for Stripe; each is there as soon as its secret is."""
    if inbox is None:
        return []
    return [Route(path, _Receiver(inbox, name).receive, methods=["POST"]) for path, name in _PATHS.items() if inbox.serves(name)]


class _Receiver:
    def __init__(self, inbox: Inbox, endpoint: str) -> None:
        self._inbox = inbox
        self._endpoint = endpoint

    async def receive(self, request: Request) -> Response:
        """200 once the webhook is kept, or was before. Raw bytes are what is signed."""
        headers = {"x-request-id": new_id("req")}
        try:
            return await self._kept(request, headers)
        except ClientDisconnect:
            return Response(status_code=400)
        except PaymentsRefused as refused:
            _log.warning("a webhook to %s was refused: %s", self._endpoint, refused)
            return error_answer(InvalidRequest(str(refused), code=refused.code or "bad_signature"), headers)
        except SqlDown as down:
            _log.warning("a webhook to %s cannot be kept: %s", self._endpoint, down)
            return error_answer(Unavailable("The database does not answer. Try again shortly.", retry_after_s=1), headers)
        except GatewayError as error:
            return error_answer(error, headers)

    async def _kept(self, request: Request, headers: dict[str, str]) -> Response:
        signatures = request.headers.getlist("stripe-signature")
        if len(signatures) != 1:
            raise InvalidRequest("Send one Stripe-Signature.", param="stripe-signature", code="bad_signature")
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > WEBHOOK_BYTES_MAX:
                raise BodyTooLarge(f"The body is larger than {WEBHOOK_BYTES_MAX} bytes.")
        await self._inbox.receive(self._endpoint, bytes(body), signatures[0])
        return answered({"received": True}, 200, headers)
