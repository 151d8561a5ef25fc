"""What the configuration says of models and of the deployments that serve them: its shapes, and what may stand in them."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

import msgspec

from gateway.core import limits as bounds
from gateway.providers.azure import is_azure_itself
from gateway.providers.model import COUNT_TOKENS, MESSAGES, RESPONSES, UNTRANSLATED, Strategy
from gateway.providers.translation import RESERVED, TRANSLATED

_RETRIES_MAX: Final = 5
_PARAM: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")
_VERSION: Final = re.compile(r"\d{4}-\d{2}-\d{2}(-preview)?|preview|latest|v1")
_ToolCalls = Annotated[int, msgspec.Meta(ge=1, le=bounds.TOOL_CALLS_MAX)]
DIALECTS: Final = {"messages": (MESSAGES, COUNT_TOKENS), "responses": (RESPONSES,), **UNTRANSLATED}


class LimitsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How much a deployment is asked for at most, by all processes together; what is left out has no limit."""

    rpm: int | None = None
    tpm: int | None = None
    concurrency: int | None = None


class DeploymentConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One place that serves a model. `prices`: see `ModelConfig`; a deployment's own come first."""

    provider: str = "openai"
    model: str | None = None
    api_base: str = ""
    api_key: str = ""
    api_version: str = ""  # of Azure OpenAI over the byte path
    weight: int = 1
    headers: dict[str, str] = {}
    output_cap_field: str | None = None
    cached_tokens: str = "inside"  # whether the provider counts them inside or beside the prompt
    input_tokens_max: int | None = None
    output_tokens_max: int | None = None
    first_byte_timeout_s: float = bounds.FIRST_BYTE_TIMEOUT_S
    chunk_timeout_s: float = bounds.CHUNK_TIMEOUT_S
    hidden_reasoning: bool | None = None  # whether it makes tokens that are paid for and not shown; None: as listed
    prices: dict[str, Any] | None = None
    params: dict[str, str | int | float | bool] = {}  # what a translated provider needs besides, such as aws_region_name
    speaks: list[str] | None = None  # the surfaces of `DIALECTS` that it serves itself; default: as the provider is known to
    limits: LimitsConfig = LimitsConfig()
    own_keys: bool | None = None  # whether apps may bring a key for it; None: where it has an api_key
    tool_calls: _ToolCalls = bounds.TOOL_CALLS  # of tools that it runs itself, where a request does not say
    tool_call_tokens: Annotated[int, msgspec.Meta(ge=1)] | None = None  # each of their calls is held as; None: all it can read
    vector_stores: list[str] = []  # ids of those under its account that every app may search


class ModelConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A model that clients may ask for; `*` in the name matches anything.

    `prices` are what the provider takes, in USD per million units, as decimal strings by kind, and of long prompts and variants
    (such as service tiers) where they differ: `pricing.written` reads them; default: the price list. `charge` is what the
    platform takes from creators; default: the provider's price and the platform's markup. The rest is as
    `providers.model.ModelEntry` has it.
    """

    name: str
    deployments: list[DeploymentConfig]
    strategy: Strategy = Strategy.WEIGHT
    fallbacks: list[str] = []
    retries: int = 0
    prices: dict[str, Any] | None = None
    charge: dict[str, Any] | None = None


def read_model(written: Any, where: str) -> ModelConfig:
    """A model as it is written; ValueError with one sentence that begins with `where`."""
    try:
        model = msgspec.convert(written, ModelConfig)
    except msgspec.ValidationError as wrong:
        raise ValueError(f"{where}: {wrong}.") from wrong
    if not 0 <= model.retries <= _RETRIES_MAX:
        raise ValueError(f"{where}: retries must be a whole number from 0 to {_RETRIES_MAX}.")
    if not model.deployments:
        raise ValueError(f"{where} has no deployments.")
    for deployment in model.deployments:
        _check_deployment(where, deployment)
    return model


def _check_deployment(where: str, deployment: DeploymentConfig) -> None:
    translated = _is_translated(where, deployment)
    needs_base = deployment.provider != "demo" and not (translated and not deployment.api_base)
    if needs_base and urlsplit(deployment.api_base).scheme not in ("http", "https"):
        raise ValueError(f"{where}: api_base must be an http or https URL.")
    if deployment.params and not translated:
        raise ValueError(f"{where}: params are for translated providers only, and {deployment.provider} is none.")
    for name in deployment.params:
        if name in RESERVED or not _PARAM.fullmatch(name):
            raise ValueError(f"{where}: params may not set {name}.")
    if translated and deployment.cached_tokens != "inside":
        raise ValueError(f"{where}: cached_tokens is inside for {deployment.provider}: its usage is translated.")
    for name in deployment.speaks or ():
        if name not in DIALECTS:
            raise ValueError(f"{where}: speaks may name {', '.join(DIALECTS)}, not {name}.")
        if translated and name in UNTRANSLATED and not deployment.api_base:
            raise ValueError(f"{where}: a deployment of {deployment.provider} that speaks {name} needs an api_base.")
    if deployment.weight < 1:
        raise ValueError(f"{where}: weight must be at least 1.")
    for name in ("rpm", "tpm", "concurrency"):
        limit = getattr(deployment.limits, name)
        if limit is not None and not 1 <= limit <= bounds.RATE_LIMIT_MAX:
            raise ValueError(f"{where}: limits: {name} must be a whole number from 1 to {bounds.RATE_LIMIT_MAX}.")
    if deployment.cached_tokens not in ("inside", "beside"):
        raise ValueError(f"{where}: cached_tokens must be inside or beside.")
    if deployment.first_byte_timeout_s <= 0 or deployment.chunk_timeout_s <= 0:
        raise ValueError(f"{where}: time-outs must be above zero.")


def _is_translated(where: str, deployment: DeploymentConfig) -> bool:
    itself = is_azure_itself(deployment.provider, deployment.api_base, deployment.api_version, deployment.params)
    if deployment.api_version and not (itself and _VERSION.fullmatch(deployment.api_version)):
        raise ValueError(f"{where}: api_version is for azure with an api_base, and is like 2024-10-21 or preview.")
    return deployment.provider in TRANSLATED and not itself


_OPENAI_PATTERNS: Final = (
    "gpt-*", "chatgpt-*", "o1*", "o3*", "o4*", "text-embedding-*", "whisper-*", "tts-*", "omni-moderation-*", "dall-e-*",
)  # fmt: skip


def default_models(env: Mapping[str, str]) -> tuple[ModelConfig, ...]:
    """Without a file: OpenAI's models, when `OPENAI_API_KEY` is set. (The demo model comes with `demo`.)"""
    api_key = env.get("OPENAI_API_KEY", "")
    if not api_key:
        return ()
    api_base = env.get("OPENAI_BASE_URL", "") or "https://api.openai.com/v1"
    deployment = DeploymentConfig(provider="openai", model="*", api_base=api_base, api_key=api_key)
    return tuple(ModelConfig(name=pattern, deployments=[deployment]) for pattern in _OPENAI_PATTERNS)
