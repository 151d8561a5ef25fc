"""Handlers: creators and apps."""

from msgspec import UNSET

from gateway.answers.redis_answers import NotForgotten
from gateway.api.endpoint import ApiContext, Call
from gateway.api.prices import add_markup, checked_markup_bp
from gateway.api.shapes import AppAnswer, AppPatch, CreatorAnswer, ForgottenAnswer, Listing
from gateway.api.wire import listing
from gateway.core.clock import rfc3339
from gateway.core.errors import Unavailable
from gateway.identity.model import App, Creator, CreatorChanges, NewApp
from gateway.pricing.configured import percent


async def create_creator(context: ApiContext, call: Call) -> CreatorAnswer:
    """POST creators."""
    return _creator(await context.registry.create_creator(call.actor, call.body.user_id, call.body.name))


async def list_creators(context: ApiContext, call: Call) -> Listing[CreatorAnswer]:
    """GET creators."""
    page = await context.registry.creators(call.actor, call.query.cursor, call.query.limit)
    return listing(page.rows, page.next_cursor, _creator)


async def get_creator(context: ApiContext, call: Call) -> CreatorAnswer:
    """GET creators/{user_id}."""
    return _creator(await context.registry.creator(call.actor, call.path["user_id"]))


async def update_creator(context: ApiContext, call: Call) -> CreatorAnswer:
    """PATCH creators/{user_id}."""
    changes = CreatorChanges(name=call.body.name, status=call.body.status)
    return _creator(await context.registry.update_creator(call.actor, call.path["user_id"], changes))


async def create_app(context: ApiContext, call: Call) -> AppAnswer:
    """POST apps; a markup becomes the first line of the app's price book."""
    body = call.body
    markup_bp = checked_markup_bp(body.markup_percent, body.asset)
    new = NewApp(
        enterprise_id=body.enterprise_id,
        user_id=body.user_id,
        name=body.name,
        asset=body.asset,
        enforcement=body.enforcement,
        cost_policy=body.cost_policy,
        hold_policy=body.hold_policy,
        disconnect_policy=body.disconnect_policy,
        end_user_sources=body.end_user_sources,
        default_end_user=body.default_end_user,
        end_user_limits=body.end_user_limits,
        cors_origins=body.cors_origins,
        trial=body.trial,
        answer_cache=body.answer_cache,
    )
    app = await context.registry.create_app(call.actor, new)
    if markup_bp is not None:
        await add_markup(context, call.actor, app.enterprise_id, markup_bp)
    return _app(app, markup_bp)


async def list_apps(context: ApiContext, call: Call) -> Listing[AppAnswer]:
    """GET apps."""
    page = await context.registry.apps(call.actor, call.query.cursor, call.query.limit)
    markups_bp = await context.catalog.markups_bp([app.enterprise_id for app in page.rows])
    return listing(page.rows, page.next_cursor, lambda app: _app(app, markups_bp.get(app.enterprise_id)))


async def get_app(context: ApiContext, call: Call) -> AppAnswer:
    """GET apps/{enterprise_id}."""
    return await _shown(context, await context.registry.app(call.actor, call.path["enterprise_id"]))


async def update_app(context: ApiContext, call: Call) -> AppAnswer:
    """PATCH apps/{enterprise_id}; a markup that is not in force becomes a line of the app's price book, from now on."""
    changes: AppPatch = call.body
    enterprise_id = call.path["enterprise_id"]
    markup_bp = None
    if changes.markup_percent is not UNSET:
        held = await context.registry.app(call.actor, enterprise_id)
        markup_bp = checked_markup_bp(changes.markup_percent, held.asset)
    app = await context.registry.update_app(call.actor, enterprise_id, changes)
    if markup_bp is not None and (await context.catalog.markups_bp([enterprise_id])).get(enterprise_id) != markup_bp:
        await add_markup(context, call.actor, enterprise_id, markup_bp)
    return await _shown(context, app)


async def forget_answers(context: ApiContext, call: Call) -> ForgottenAnswer:
    """DELETE apps/{enterprise_id}/answers; Unavailable where the store of answers does not answer."""
    enterprise_id = call.path["enterprise_id"]
    await context.registry.forget_answers(call.actor, enterprise_id)
    try:
        return ForgottenAnswer(enterprise_id, await context.answers.forget(enterprise_id))
    except NotForgotten as down:
        raise Unavailable("The store of kept answers does not answer. Try again shortly.", retry_after_s=1) from down


def _creator(creator: Creator) -> CreatorAnswer:
    return CreatorAnswer(creator.user_id, creator.name, creator.status, rfc3339(creator.created_at_ms))


async def _shown(context: ApiContext, app: App) -> AppAnswer:
    return _app(app, (await context.catalog.markups_bp([app.enterprise_id])).get(app.enterprise_id))


def _app(app: App, markup_bp: int | None) -> AppAnswer:
    return AppAnswer(
        enterprise_id=app.enterprise_id,
        user_id=app.user_id,
        name=app.name,
        asset=app.asset,
        enforcement=app.enforcement,
        cost_policy=app.cost_policy,
        hold_policy=app.hold_policy,
        disconnect_policy=app.disconnect_policy,
        end_user_sources=app.end_user_sources,
        default_end_user=app.default_end_user,
        end_user_limits=app.end_user_limits,
        cors_origins=app.cors_origins,
        status=app.status,
        created_at=rfc3339(app.created_at_ms),
        trial=app.trial,
        answer_cache=app.answer_cache,
        markup_percent=None if markup_bp is None else percent(markup_bp),
    )
