"""Handlers, and what they take and give: an app's own provider keys."""

from gateway.api.endpoint import ApiContext, Call
from gateway.api.shapes import Answer, Body, Listing, Stamp
from gateway.api.wire import listing
from gateway.core.clock import rfc3339
from gateway.identity.model import ProviderKey


class ProviderKeyBody(Body, frozen=True):
    """An app's own key at a provider. It is shown nowhere again."""

    key: str


class ProviderKeyAnswer(Answer, frozen=True, omit_defaults=True):
    """That an app has a key of its own at a provider, and its last four characters. One not `readable` must be set again."""

    enterprise_id: str
    provider: str
    hint: str
    readable: bool
    created_at: Stamp
    warnings: tuple[str, ...] = ()


async def put(context: ApiContext, call: Call) -> ProviderKeyAnswer:
    """PUT apps/{enterprise_id}/provider-keys/{provider}."""
    provider = call.path["provider"]
    key = await context.identity.own_keys.put(call.actor, call.path["enterprise_id"], provider, call.body.key)
    known = any(deployment.provider == provider for deployment in context.routing.deployments())
    return _shown(key, () if known else (f"No deployment here is of the provider {provider}.",))


async def listed(context: ApiContext, call: Call) -> Listing[ProviderKeyAnswer]:
    """GET apps/{enterprise_id}/provider-keys."""
    return listing(await context.identity.own_keys.listed(call.actor, call.path["enterprise_id"]), None, _shown)


async def delete(context: ApiContext, call: Call) -> ProviderKeyAnswer:
    """DELETE apps/{enterprise_id}/provider-keys/{provider}: what is gone."""
    return _shown(await context.identity.own_keys.delete(call.actor, call.path["enterprise_id"], call.path["provider"]))


def _shown(key: ProviderKey, warnings: tuple[str, ...] = ()) -> ProviderKeyAnswer:
    return ProviderKeyAnswer(key.enterprise_id, key.provider, key.hint, key.readable, rfc3339(key.created_at_ms), warnings)
