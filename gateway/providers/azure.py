"""Azure OpenAI over the byte path: its addresses, and its key as it takes it.

A deployment of `provider: azure` is asked so where the configuration says enough to build the address: with an `api_version`
(a dated version of the API, one address a deployment of Azure's), or with an `api_base` that ends in `/openai/v1` (the
version without dates, which has OpenAI's own paths). Every other one is translated, as other providers are.

    dated   {api_base}/openai/deployments/{model}{path}?api-version={api_version}
            {api_base}/openai{path}?api-version=...     for what belongs to no deployment (responses, the list of models)
    v1      {api_base}{path}                            the body's `model` names the deployment

An `api_base` that names a deployment itself (`.../openai/deployments/{name}`) is taken as it is: then `model` may be the name
that prices, sizes and the tokenizer go by. The key goes as `api-key`, unless the configuration gives that header or
`authorization`.

Sources: learn.microsoft.com/azure/foundry/openai/api-version-lifecycle and .../openai/reference; which paths belong to a
deployment is what the official client has in `openai/lib/azure.py`. Usage and errors have OpenAI's shapes; a filtered prompt is a
400 with the code `content_filter`.
"""

import re
from collections.abc import Awaitable, Sized
from functools import lru_cache
from typing import Final

from msgspec.structs import replace

from gateway.providers.model import Deployment, Headers, Reply, Upstream, UpstreamFault
from gateway.providers.translation import TRANSLATED

AZURE: Final = "azure"
_V1: Final = "/openai/v1"
_DEPLOYMENTS: Final = "/openai/deployments/"
_OF_A_DEPLOYMENT: Final = frozenset(
    (
        "/chat/completions", "/completions", "/embeddings", "/audio/speech", "/audio/transcriptions", "/audio/translations",
        "/images/edits", "/images/generations",
    )
)  # fmt: skip
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")  # it may be the caller's choice, and becomes a part of the address


def is_azure_itself(provider: str, api_base: str, api_version: str, params: Sized) -> bool:
    """Whether the configuration of a deployment says all that the byte path needs."""
    return provider == AZURE and bool(api_base) and bool(api_version or (not params and is_v1(api_base)))


def is_v1(api_base: str) -> bool:
    """Whether it is the address of the version without dates."""
    return api_base.rstrip("/").endswith(_V1)


def is_translated(deployment: Deployment) -> bool:
    """Whether the dialect of its provider is translated."""
    given = deployment.provider, deployment.api_base, deployment.api_version, deployment.params
    return deployment.provider in TRANSLATED and not is_azure_itself(*given)


@lru_cache(maxsize=4096)
def as_azure_takes_it(deployment: Deployment, path: str) -> Deployment:
    """The deployment as the byte path asks it for `path`. UpstreamFault where its model's name can be no deployment's."""
    own = {name.lower() for name, _ in deployment.headers}
    headers = deployment.headers
    if deployment.api_key and not own & {"api-key", "authorization"}:
        headers = (*headers, ("api-key", deployment.api_key))
    query = f"?api-version={deployment.api_version}" if deployment.api_version else ""
    return replace(deployment, api_base=_base(deployment, path) + query, api_key="", headers=headers)


def _base(deployment: Deployment, path: str) -> str:
    base = deployment.api_base.rstrip("/")
    if is_v1(base):
        return base
    resource, named, _ = base.partition(_DEPLOYMENTS)
    if path not in _OF_A_DEPLOYMENT:
        return resource + "/openai"
    if named:
        return base
    if not _NAME.fullmatch(deployment.model):
        raise UpstreamFault("the model's name is none of a deployment", sent=False)
    return base + _DEPLOYMENTS + deployment.model


class AzureUpstream:
    """The `Upstream` of `provider: azure`: over the byte path where the configuration says so, else translated."""

    def __init__(self, direct: Upstream, translated: Upstream) -> None:
        self._direct = direct
        self._translated = translated

    def send(self, deployment: Deployment, path: str, body: bytes, headers: Headers = ()) -> Awaitable[Reply]:
        """As `Upstream.send`."""
        if is_translated(deployment):
            return self._translated.send(deployment, path, body, headers)
        return self._direct.send(as_azure_takes_it(deployment, path), path, body, headers)

    async def close(self) -> None:
        """Both belong to others."""
