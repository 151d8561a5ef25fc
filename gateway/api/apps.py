"""Handlers: creators and apps."""

from gateway.api.endpoint import ApiContext, Call
from gateway.api.prices import markup_bp_of
from gateway.api.shapes import AppAnswer, CreatorAnswer, Listing
from gateway.api.wire import listing
from gateway.core.clock import now_ms, rfc3339
from gateway.core.errors import InvalidRequest
from gateway.core.money import USD
from gateway.identity.model import App, AppChanges, Creator, CreatorChanges, NewApp
from gateway.pricing.book import ANY_MODEL


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
    markup_bp = markup_bp_of(body.markup_percent)
    if markup_bp is not None and body.asset != USD:
        raise InvalidRequest(f"Providers' prices are in USD: an app in {body.asset} needs a price book.", param="markup_percent")
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
    )
    app = await context.registry.create_app(call.actor, new)
    if markup_bp is not None:
        await context.catalog.add_app_price(
            app.enterprise_id,
            ANY_MODEL,
            now_ms(context.clock),
            markup_bp=markup_bp,
            actor=call.actor.name,
            role=call.actor.role,
        )
    return _app(app)


async def list_apps(context: ApiContext, call: Call) -> Listing[AppAnswer]:
    """GET apps."""
    page = await context.registry.apps(call.actor, call.query.cursor, call.query.limit)
    return listing(page.rows, page.next_cursor, _app)


async def get_app(context: ApiContext, call: Call) -> AppAnswer:
    """GET apps/{enterprise_id}."""
    return _app(await context.registry.app(call.actor, call.path["enterprise_id"]))


async def update_app(context: ApiContext, call: Call) -> AppAnswer:
    """PATCH apps/{enterprise_id}; the body is the change itself."""
    changes: AppChanges = call.body
    return _app(await context.registry.update_app(call.actor, call.path["enterprise_id"], changes))


def _creator(creator: Creator) -> CreatorAnswer:
    return CreatorAnswer(creator.user_id, creator.name, creator.status, rfc3339(creator.created_at_ms))


def _app(app: App) -> AppAnswer:
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
    )
