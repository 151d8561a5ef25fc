"""Apps that bring their own provider keys: their requests are sent with those, and with no secret of the operator's."""

import re
from typing import Final

import msgspec

from gateway.core.words import CostPolicy, Level
from gateway.identity.model import Principal
from gateway.providers.model import Deployment
from gateway.providers.routing import DEMO
from gateway.proxy import refusals
from gateway.proxy.ports import Gate

# OpenAI's organization and project, Google's project that is billed.
_ACCOUNT: Final = re.compile(r"organi[sz]ation|^openai-project$|user-project", re.IGNORECASE)


def is_on_own_keys(principal: Principal) -> bool:
    """Whether what this principal asks for is sent with its app's own keys: what builds the app never is."""
    return principal.app.cost_policy is CostPolicy.OWN_KEYS and principal.level is Level.APP_USAGE


async def as_paid_by(gate: Gate, principal: Principal, deployment: Deployment) -> Deployment:
    """The deployment as this principal's app is served by it: on the operator's account, or with the app's own key.

    A key that an app brings is for a provider which checks it: a server of the operator's that needs none would take any, and
    serve the app at the operator's cost. What names the operator's account does not go along with it, either.

    What builds the app is paid for at the platform's prices, and is sent on the platform's account. Raises InvalidRequest where
    the app has no key for the provider or the deployment takes none, Unavailable where its keys cannot be read.
    """
    if not is_on_own_keys(principal) or deployment.provider == DEMO:
        return deployment
    takes_keys = bool(deployment.api_key) if deployment.own_keys is None else deployment.own_keys
    if not takes_keys:
        raise refusals.no_own_key(deployment, takes_keys=False)
    key = (await gate.provider_keys(principal)).get(deployment.provider)
    if key is None:
        raise refusals.no_own_key(deployment)
    return msgspec.structs.replace(
        deployment,
        api_key=key,
        headers=tuple([pair for pair in deployment.headers if not _is_operators(pair[0])]),
        params=tuple([pair for pair in deployment.params if not _is_operators(pair[0])]),
        capacity=None,  # of the operator's account
    )


def _is_operators(name: str) -> bool:
    """Whether a header or parameter of this name is a secret of the operator's, or names the operator's account."""
    return bool(refusals.SECRET_NAME.search(name) or _ACCOUNT.search(name))
