"""What a server that speaks a surface's own dialect is asked with: its address, and its key as that dialect has it.

Anthropic's API takes the key as `x-api-key` and a date as `anthropic-version`. Other servers of `/messages` differ in where they
look for a key, so they get it in both places. What Azure OpenAI is asked with is in `azure`.
"""

from functools import lru_cache
from typing import Final

from msgspec.structs import replace

from gateway.providers.azure import AZURE, as_azure_takes_it, is_translated
from gateway.providers.model import COUNT_TOKENS, MESSAGES, Deployment

ANTHROPIC: Final = "anthropic"
_BASE: Final = "https://api.anthropic.com/v1"
_VERSION: Final = ("anthropic-version", "2023-06-01")  # a request's own header replaces it
_MESSAGES: Final = frozenset((MESSAGES, COUNT_TOKENS))


@lru_cache(maxsize=4096)
def as_spoken_to(deployment: Deployment, path: str) -> Deployment:
    """The deployment as the byte path asks it for `path`. UpstreamFault, as `as_azure_takes_it`."""
    if path not in _MESSAGES:
        if deployment.provider == AZURE and not is_translated(deployment):
            return as_azure_takes_it(deployment, path)
        return deployment
    own = {name.lower() for name, _ in deployment.headers}
    more = [] if _VERSION[0] in own else [_VERSION]
    if deployment.api_key and "x-api-key" not in own:
        more.append(("x-api-key", deployment.api_key))
    spoken = replace(deployment, headers=(*deployment.headers, *more))
    if deployment.provider != ANTHROPIC:
        return spoken
    base = (deployment.api_base.rstrip("/") or _BASE).removesuffix(MESSAGES)
    return replace(spoken, api_key="", api_base=base if base.endswith("/v1") else base + "/v1")
