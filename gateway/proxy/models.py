"""What `/v1/models` says of a model: OpenAI's fields, and what it costs the caller, can do, and serves.

What does not depend on the caller is made once; prices are told as they are held and settled, by the model's first
deployment. Encoded prices are kept by their rates, so a list of hundreds costs a look-up for each.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Final

import msgspec

from gateway.core.units import KINDS
from gateway.pricing.rates import PRICED_KINDS, Rates, decimal_from_rate
from gateway.providers.azure import is_translated
from gateway.providers.model import OWN_DIALECTS, UNTRANSLATED, Deployment
from gateway.providers.routing import DEMO
from gateway.proxy import wire

RatesOf = Callable[[str, str], Rates | None]
_CREATED: Final = 1_767_225_600  # OpenAI's `created` of a model; ours have no birthday but the gateway's own year
_CHAT: Final = "/chat/completions"
_OF_DEMO: Final = OWN_DIALECTS | {_CHAT, "/completions", "/embeddings"}
_OF_MODE: Final = {"embedding": frozenset(("/embeddings",)), "completion": frozenset(("/completions",))}
_NOT_CHATTED: Final = frozenset(("/embeddings", "/completions"))
# Kinds of tokens that cost what the kind that they are part of does are not told again.
_INPUTS: Final = frozenset(("cached_input", "cache_write", "cache_write_1h", "audio_input", "image_input"))
_OUTPUTS: Final = frozenset(("reasoning", "audio_output", "image_output"))
assert set(KINDS) > _INPUTS | _OUTPUTS


class Listed(msgspec.Struct, frozen=True):
    """One model that clients may ask for. `surfaces` is None where nobody knows, None in the numbers too."""

    name: str
    provider: str
    deployment_id: str
    context_window: int | None
    max_output_tokens: int | None
    capabilities: tuple[str, ...]
    surfaces: tuple[str, ...] | None


def listed(name: str, deployment: Deployment, mode: str, capabilities: tuple[str, ...], reads: int | None) -> Listed:
    """A model by one of its deployments; `mode` is the price list's word for what it is made for, "" for none.

    `reads` is how many tokens it reads at most by that list, for a model that no chat is sent to.
    """
    surfaces = deployment.surfaces
    if deployment.provider == DEMO:
        surfaces = _OF_DEMO
    elif surfaces is not None:
        if mode in _OF_MODE:
            surfaces = _OF_MODE[mode]
        elif _CHAT in surfaces:
            surfaces -= _NOT_CHATTED
        if is_translated(deployment):
            surfaces |= {"/completions"} if _CHAT in surfaces else frozenset()  # as a chat
            nobody = {path for paths in UNTRANSLATED.values() for path in paths}
            surfaces -= nobody - deployment.speaks
    return Listed(
        name=name,
        provider=deployment.provider,
        deployment_id=deployment.id,
        context_window=deployment.input_tokens_max or reads,
        max_output_tokens=deployment.output_tokens_max,
        capabilities=capabilities,
        surfaces=None if surfaces is None else tuple(sorted(surfaces)),
    )


def told_to(models: Sequence[Listed], rates_of: RatesOf) -> list[dict[str, Any]]:
    """The models, with what `rates_of` a name and a deployment says, ready for JSON. Without a price, `pricing` is null."""
    found = []
    for model in models:
        rates = rates_of(model.name, model.deployment_id)
        found.append(
            {
                "id": model.name,
                "object": "model",
                "created": _CREATED,
                "owned_by": model.provider,
                "context_window": model.context_window,
                "max_output_tokens": model.max_output_tokens,
                "capabilities": model.capabilities,
                "surfaces": model.surfaces,
                "pricing": None if rates is None else _pricing(rates),
            }
        )
    return found


@lru_cache(maxsize=8192)
def _pricing(rates: Rates) -> msgspec.Raw:
    """Decimals of the asset, by kind: of a million tokens or characters, of one image, second, search, gigabyte or request."""
    told: dict[str, Any] = {"asset": rates.asset, **_kinds(rates)}
    if rates.long is not None:
        told["long"] = {"above": rates.long_above, **_kinds(rates.long)}
    if rates.variants:
        told["variants"] = {name: _kinds(each) for name, each in rates.variants}
    return msgspec.Raw(wire.encode_json(told))


def _kinds(rates: Rates) -> dict[str, str]:
    told = {}
    for kind in PRICED_KINDS:
        rate = getattr(rates, kind)
        same = rates.input if kind in _INPUTS else rates.output if kind in _OUTPUTS else 0
        if rate != same:
            told[kind] = decimal_from_rate(kind, rate)
    return told or {"input": "0"}
