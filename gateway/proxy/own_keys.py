"""Apps that bring their own provider keys: their requests are sent with those, and with no secret of the operator's."""

import msgspec

from gateway.core.words import CostPolicy, Level
from gateway.identity.model import Principal
from gateway.providers.model import Deployment
from gateway.providers.routing import DEMO
from gateway.proxy import refusals
from gateway.proxy.ports import Gate


async def as_paid_by(gate: Gate, principal: Principal, deployment: Deployment) -> Deployment:
    """The deployment as this principal's app is served by it: on the operator's account, or with the app's own key.

    What builds the app is paid for at the platform's prices, and is sent on the platform's account. Raises InvalidRequest where
    the app has no key for the provider, Unavailable where its keys cannot be read.
    """
    own = principal.app.cost_policy is CostPolicy.OWN_KEYS and principal.level is Level.APP_USAGE
    if not own or deployment.provider == DEMO:
        return deployment
    key = (await gate.provider_keys(principal)).get(deployment.provider)
    if key is None:
        raise refusals.no_own_key(deployment)
    return msgspec.structs.replace(
        deployment,
        api_key=key,
        headers=tuple([pair for pair in deployment.headers if not refusals.SECRET_NAME.search(pair[0])]),
        params=tuple([pair for pair in deployment.params if not refusals.SECRET_NAME.search(pair[0])]),
        capacity=None,  # of the operator's account
    )
