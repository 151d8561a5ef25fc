"""Handlers: the audit trail."""

from typing import Any

import msgspec

from gateway.api.endpoint import ApiContext, Call
from gateway.api.shapes import ActAnswer, AuditLogQuery, Listing
from gateway.api.wire import listing
from gateway.core.clock import rfc3339
from gateway.core.errors import InvalidRequest
from gateway.identity.model import Role
from gateway.identity.rules import page
from gateway.trail.service import Shown, Trail


async def acts(context: ApiContext, call: Call) -> Listing[ActAnswer]:
    """GET audit-log, newest first: the platform's whole chain for an operator, or what concerns one app of the actor's."""
    query: AuditLogQuery = call.query
    if query.enterprise_id is not None:
        await context.registry.app(call.actor, query.enterprise_id)
    elif call.actor.role != Role.OPERATOR:
        raise InvalidRequest("Name the app whose trail you mean.", param="enterprise_id")
    count = page(None, query.limit)
    rows, cursor = await Trail(context.databases).page(query.enterprise_id, count, query.cursor)
    return listing(rows, cursor, _shown)


def _shown(shown: Shown) -> ActAnswer:
    line = shown.line
    return ActAnswer(
        chain=shown.chain,
        seq=line.seq,
        at=rfc3339(line.at),
        role=line.role,
        actor=line.actor,
        act=line.act,
        user_id=line.user_id or None,
        enterprise_id=line.enterprise_id or None,
        subject=line.subject,
        reason=line.reason,
        before=_fields(line.before_json),
        after=_fields(line.after_json),
        transaction_id=line.txn_id or None,
        prev_hash=line.prev_hash,
        hash=line.hash,
    )


def _fields(text: str) -> dict[str, Any] | None:
    return msgspec.json.decode(text, type=dict[str, Any]) if text else None
