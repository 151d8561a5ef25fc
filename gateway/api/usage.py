"""Handlers: usage, one request at a time or added up."""

import msgspec

from gateway.api.endpoint import ApiContext, Call
from gateway.api.queries import rolled_up
from gateway.api.shapes import EventsQuery, Listing, UsageEventAnswer, UsageQuery, UsageTotalAnswer, ms_of
from gateway.api.wire import listing
from gateway.core.clock import rfc3339
from gateway.core.errors import Forbidden, InvalidRequest
from gateway.core.money import decimal_from_micro
from gateway.core.words import Level
from gateway.identity.model import Actor, Role
from gateway.ledger import queries
from gateway.ledger.model import UsageFilter, UsageRow, UsageTotal

_BILLING_TARGETS = {Level.PLATFORM.value: "mozaiks_user", Level.APP_USAGE.value: "app_user"}
_ROLLED_UP = ("level", "model", "workflow_type")  # filters that the roll-up of all apps still knows


async def events(context: ApiContext, call: Call) -> Listing[UsageEventAnswer]:
    """GET apps/{enterprise_id}/usage-events, newest first; an end user sees its own, an app server its end users'."""
    app = await context.registry.app(call.actor, call.path["enterprise_id"])
    wanted = _confined(call.actor, _filter(call.query))
    found = await queries.usage_rows(
        context.databases, app.enterprise_id, wanted, limit=call.query.limit, cursor=call.query.cursor
    )
    whole = call.actor.role != Role.END_USER
    return listing(found.rows, found.next_cursor, lambda row: usage_event(app.enterprise_id, row, whole=whole))


async def totals(context: ApiContext, call: Call) -> Listing[UsageTotalAnswer]:
    """GET usage."""
    query: UsageQuery = call.query
    if query.enterprise_id is None:
        found = await _all_apps(context, call.actor, query)
    else:
        app = await context.registry.app(call.actor, query.enterprise_id)
        found = await queries.usage_totals(context.databases, app.enterprise_id, _groups(query, "model"), _filter(query))
    return listing(found, None, _total)


def usage_event(enterprise_id: str, row: UsageRow, *, whole: bool = True) -> UsageEventAnswer:
    """A usage row under the names of the usage protocol; not `whole` leaves out costs, keys and providers."""
    event = UsageEventAnswer(
        level=row.level,
        user_id=row.user_id,
        enterprise_id=enterprise_id,
        platform_user_id=row.platform_user_id or None,
        workflow_type=row.workflow_type,
        tokens_used=row.units.total,
        cost=decimal_from_micro(row.amount_micro),
        billing_target=_BILLING_TARGETS[row.level],
        request_id=row.request_id,
        at=rfc3339(row.at),
        asset=row.asset,
        amount_micro=row.amount_micro,
        model=row.model,
        endpoint=row.endpoint,
        session_id=row.session_id,
        agent_name=row.agent_name,
        tags=row.tags,
        input_tokens=row.input_tokens,
        output_tokens=row.output_tokens,
        units=msgspec.to_builtins(row.units),
        usage_source=row.usage_source,
        status=row.status,
        streamed=row.streamed,
        latency_ms=row.latency_ms,
        ttft_ms=row.ttft_ms,
        http_status=row.http_status,
        flags=row.flags,
    )
    if not whole:
        return event
    return msgspec.structs.replace(
        event,
        key_id=row.key_id,
        provider=row.provider,
        deployment=row.deployment,
        attempts=row.attempts,
        creator_amount_micro=row.creator_micro,
        provider_cost_micro=row.provider_cost_micro,
    )


async def _all_apps(context: ApiContext, actor: Actor, query: UsageQuery) -> list[UsageTotal]:
    if actor.role != Role.OPERATOR:
        raise InvalidRequest("Name the app whose usage you mean.", param="enterprise_id")
    wanted = _filter(query)
    given = {name: value for name, value in msgspec.structs.asdict(wanted).items() if value is not None}
    from_ms, to_ms = given.pop("from_ms", None), given.pop("to_ms", None)
    foreign = [name for name in given if name not in _ROLLED_UP]
    if foreign:
        raise InvalidRequest(f"`{foreign[0]}` is known within an app only: name it.", param=foreign[0])
    return await rolled_up(context.databases.platform, _groups(query, "enterprise_id"), given, from_ms, to_ms)


def _groups(query: UsageQuery, default: str) -> list[str]:
    """What to group by: absent is the default, empty is one sum."""
    asked = default if query.group_by is None else query.group_by
    return list(dict.fromkeys(name.strip() for name in asked.split(",") if name.strip()))


def _filter(query: EventsQuery | UsageQuery) -> UsageFilter:
    return UsageFilter(
        platform_user_id=query.platform_user_id,
        level=None if query.level is None else query.level.value,
        key_id=query.key_id,
        model=query.model,
        workflow_type=query.workflow_type,
        session_id=query.session_id,
        agent_name=query.agent_name,
        from_ms=None if query.from_ is None else ms_of(query.from_),
        to_ms=None if query.to is None else ms_of(query.to),
    )


def _confined(actor: Actor, wanted: UsageFilter) -> UsageFilter:
    """What an actor may ask for: end users' usage is level app_usage, and an end user's is its own."""
    if actor.role not in (Role.APP_SERVER, Role.END_USER):
        return wanted
    if wanted.level == Level.PLATFORM:
        raise Forbidden("This credential sees the usage of end users only.", param="level")
    if actor.role == Role.END_USER and wanted.platform_user_id not in (None, actor.platform_user_id):
        raise Forbidden("An end user sees its own usage only.", param="platform_user_id")
    owner = actor.platform_user_id if actor.role == Role.END_USER else wanted.platform_user_id
    assert owner is not None or actor.role != Role.END_USER
    return msgspec.structs.replace(wanted, level=Level.APP_USAGE.value, platform_user_id=owner)


def _total(total: UsageTotal) -> UsageTotalAnswer:
    return UsageTotalAnswer(
        group={name: rfc3339(value) if isinstance(value, int) else value for name, value in total.group},
        asset=total.asset,
        requests=total.requests,
        input_tokens=total.input_tokens,
        output_tokens=total.output_tokens,
        tokens_used=total.input_tokens + total.output_tokens,
        amount_micro=total.amount_micro,
        creator_amount_micro=total.creator_micro,
        provider_cost_micro=total.provider_cost_micro,
    )
