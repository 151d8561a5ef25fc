"""Why a request was refused or failed, in the words of `api.md`: balances, limits and upstream faults as errors."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from gateway.balance.model import (
    SPEND_KINDS,
    Charge,
    Limit,
    LimitKind,
    RefusedByLimit,
    RefusedByWallet,
    Unfunded,
    WalletMissing,
)
from gateway.core.errors import (
    GatewayError,
    InvalidRequest,
    PaymentRequired,
    RateLimited,
    Unavailable,
    UpstreamFailed,
    UpstreamTimeout,
)
from gateway.core.money import decimal_from_micro
from gateway.core.words import Level
from gateway.providers.model import Deployment, UpstreamFault, UpstreamSilent
from gateway.proxy import wire
from gateway.proxy.ports import Opener
from gateway.proxy.quote import Payer
from gateway.proxy.told_errors import AnsweredError

_CALLERS_TO_FIX = frozenset({400, 404, 409, 413, 415, 422})
_WAIT_MAX_S: Final = 60.0  # the official clients obey no longer one; what is still full by then is asked for again
_WORDS_MAX: Final = 2000
_WORD = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_SECRETS = re.compile(
    r"\b(?:sk|key|pk|rk|api)[-_][A-Za-z0-9_\-*.]{6,}|\bBearer\s+\S+|\b(?:\d{1,3}\.){3}\d{1,3}(?::\d+)?\b|\blocalhost(?::\d+)?\b"
)
SECRET_NAME: Final = re.compile(r"auth|key|secret|token|password|credential|cookie", re.IGNORECASE)  # of a header or parameter
_SECRET_CHARS_MIN: Final = 6  # of those values: shorter ones are words such as "on"
CONTEXT_TOO_LONG: Final = "context_length_exceeded"
NO_OWN_KEY: Final = "missing_provider_key"
# How servers say it that have no code for it: vLLM and OpenAI; Anthropic; Gemini; llama.cpp; Mistral and others.
_TOO_LONG = re.compile(
    r"maximum context length|maximum context limit|prompt is too long|exceeds? the maximum number of tokens allowed"
    r"|exceeds the available context size|longer than the model's context length|input is too long for requested model"
    r"|exceed context limit",
    re.IGNORECASE,
)
_SPENT: Final = ("insufficient_quota", "billing_hard_limit_reached", "billing_not_active")
# Anthropic's, on a 400; DeepSeek's; OpenRouter's, which says of one request that it requires more credits.
_IS_SPENT: Final = re.compile(r"Your credit balance is too low|Insufficient (?:balance|credits)", re.IGNORECASE)
_NAMES_A_MODEL = re.compile(rb"model|deployment", re.IGNORECASE)  # the latter is Azure's word
_OWNER = {"k": "key", "t": "token", "u": "end_user"}


def refusal(
    refused: RefusedByWallet | RefusedByLimit,
    paying: Sequence[Payer],
    asked: Sequence[Charge],
    counted: Sequence[Limit],
    level: Level,
    tokens: int = 0,
) -> GatewayError:
    """The error for what `reserve` answered; `tokens` is the most that the request could use."""
    if isinstance(refused, RefusedByLimit):
        limit = counted[refused.limit]
        required = asked[limit.charge].floor_micro if limit.kind in SPEND_KINDS else min(tokens, limit.maximum)
        return limit_error(refused, limit, level, required)
    return wallet_error(refused, paying[refused.charge], level, asked[refused.charge].floor_micro)


async def explained(
    error: GatewayError, refused: RefusedByWallet | RefusedByLimit, asked: Sequence[Charge], opener: Opener
) -> GatewayError:
    """402 `subscription_inactive` in place of an empty wallet that only a subscription filled, and none does any more."""
    if isinstance(refused, RefusedByLimit) or error.retry_after_s is not None:
        return error
    if not await opener.is_lapsed(asked[refused.charge].wallet):
        return error
    text = "The subscription that filled this balance is not paid for, or has ended."
    return PaymentRequired(text, code="subscription_inactive", details=error.details)


async def opened(
    opener: Opener, shard: int, missing: WalletMissing, paying: Sequence[Payer], asked: Sequence[Charge], level: Level
) -> bool:
    """Whether the wallets that the hot store does not know are there now. The refusal, where one of them is nobody's."""
    try:
        needed = tuple([charge.wallet for charge in asked if charge.floor_micro])
        return await opener.open_missing(shard, missing.wallets, needed)
    except Unfunded as nobody:
        place = [charge.wallet for charge in asked].index(nobody.wallet)
        raise refusal(RefusedByWallet(place, 0, 0), paying, asked, (), level) from nobody


def without_secrets(text: str, deployment: Deployment) -> str:
    """A provider's words less the deployment's secrets and address, anything that looks like a key, and numeric addresses.

    Its secrets are its key, and the values of its headers and params with such names; of `Bearer x` also the x.
    """
    found = {deployment.api_key, deployment.api_base, urlsplit(deployment.api_base).netloc}
    for name, value in (*deployment.headers, *deployment.params):
        if type(value) is str and SECRET_NAME.search(name):
            found |= {each for each in (value, value.rpartition(" ")[2]) if len(each) >= _SECRET_CHARS_MIN}
    for secret in sorted(found - {""}, key=len, reverse=True):
        text = text.replace(secret, "[removed]")
    return _SECRETS.sub("[removed]", text)[:_WORDS_MAX]


def wallet_error(refused: RefusedByWallet, payer: Payer, level: Level, required_micro: int) -> PaymentRequired:
    """402: which wallet, how much it has and what was needed; the creator's figures are not for an end user."""
    details: dict[str, Any] = {"level": str(level), "limit_source": payer.role}
    if payer.role == "end_user" or level == Level.PLATFORM:
        details |= {
            "asset": payer.rates.asset,
            "balance": decimal_from_micro(refused.available_micro),
            "held": decimal_from_micro(refused.held_micro),
            "required": decimal_from_micro(required_micro),
        }
    only_held = refused.available_micro + refused.held_micro >= required_micro
    whose = "The balance of the app's creator" if payer.role == "creator" and level != Level.PLATFORM else "The balance"
    message = f"{whose} does not cover this request."
    if only_held:
        message = f"{whose} covers this request only when requests in flight have ended."
    return PaymentRequired(message, details=details, retry_after_s=2.0 if only_held else None)


def exhausted(payer: Payer, level: Level) -> PaymentRequired:
    """What ends a stream whose wallet covers no more."""
    details = {"level": str(level), "limit_source": payer.role, "asset": payer.rates.asset}
    return PaymentRequired("The balance, or a spend limit on it, is used up: the answer was cut here.", details=details)


def limit_error(refused: RefusedByLimit, limit: Limit, level: Level, required: int) -> GatewayError:
    """429 for a rate, 402 for a spend limit; with the wait, where it can be told. `required` is in tokens or micro-units."""
    owner = _OWNER[limit.subject[0]]
    details: dict[str, Any] = {"level": str(level), "limit_source": owner}
    wait_s = refused.retry_after_ms / 1000 if refused.retry_after_ms else None
    if limit.kind not in SPEND_KINDS and wait_s is not None:
        wait_s = min(wait_s, _WAIT_MAX_S)
    shown_owner = owner.replace("_", " ")
    match limit.kind:
        case LimitKind.CONCURRENCY:
            text = f"The {shown_owner} has {limit.maximum} requests in flight, which is its limit."
            return RateLimited(text, code="concurrency_limit_exceeded", retry_after_s=wait_s or 1.0, details=details)
        case LimitKind.REQUESTS_PER_MINUTE | LimitKind.TOKENS_PER_MINUTE:
            unit = "requests" if limit.kind == LimitKind.REQUESTS_PER_MINUTE else "tokens"
            text = f"The {shown_owner} may use {limit.maximum} {unit} a minute, and {refused.used} of them count now."
            if unit == "tokens":
                text += f" This request may use {required}: a lower max_tokens asks for less."
                details["required"] = required
            details |= {"limit": limit.maximum, "used": refused.used}
            return RateLimited(text, retry_after_s=wait_s or 1.0, details=details)
        case _:
            window = {LimitKind.SPEND_PER_DAY: " for today", LimitKind.SPEND_PER_MONTH: " for this month"}.get(limit.kind, "")
            text = f"The {shown_owner}'s spend limit{window} does not cover this request."
            details |= {
                "limit": decimal_from_micro(limit.maximum),
                "spent": decimal_from_micro(refused.used),
                "required": decimal_from_micro(required),
            }
            return PaymentRequired(text, code="spend_limit_reached", retry_after_s=wait_s, details=details)


def balance_unavailable() -> Unavailable:
    """503: balances cannot be read, so nothing may be spent. Clients are told not to hammer."""
    return Unavailable(
        "Balances cannot be checked right now, so nothing is served that they must pay for.",
        code="balance_unavailable",
        retry_after_s=5.0,
        should_retry=False,
    )


def fault_error(fault: UpstreamFault, deployment: Deployment, attempts: int) -> UpstreamFailed:
    """502 or 504: which deployment and how many attempts."""
    details = {"deployment": deployment.id, "attempts": attempts}
    kind = UpstreamTimeout if isinstance(fault, UpstreamSilent) else UpstreamFailed
    reason = without_secrets(fault.reason, deployment) if isinstance(fault, AnsweredError) else fault.reason
    return kind(f"The provider failed: {reason}.", details=details)


def answer_error(status: int, headers: Mapping[str, str], body: bytes, deployment: Deployment, attempts: int) -> GatewayError:
    """A provider's error answer.

    What the caller can mend comes back with the provider's own words; a provider that refuses the
    gateway's own key or quota is the operator's trouble, and is a 502 without them.
    """
    details: dict[str, Any] = {"deployment": deployment.id, "attempts": attempts, "upstream_status": status}
    said = error_object(body)
    message = said.get("message")
    if type(message) is str:
        message = without_secrets(message, deployment)
    status = 402 if is_spent(said) else status
    if status in _CALLERS_TO_FIX:
        code, param = said.get("code"), said.get("param")
        if status in (400, 413) and type(message) is str and _TOO_LONG.search(said["message"][:_WORDS_MAX]):
            code = CONTEXT_TOO_LONG
        error: GatewayError = InvalidRequest(
            message if type(message) is str else f"The provider refused the request with status {status}.",
            code=code if type(code) is str and _WORD.fullmatch(code) else None,
            param=without_secrets(param, deployment) if type(param) is str else None,
            details=details,
        )
        error.status = status
        return error
    if status == 429:
        text = "The provider is limiting requests to this model."
        return RateLimited(text, retry_after_s=retry_after_s(headers) or 1.0, details={**details, "limit_source": "provider"})
    if status in (408, 504):
        return UpstreamTimeout(f"The provider timed out with status {status}.", details=details)
    return UpstreamFailed(f"The provider failed with status {status}.", retry_after_s=retry_after_s(headers), details=details)


def status_meant(status: int, body: bytes, *, is_chat: bool) -> int:
    """The status that a provider's error answer would have if all said the same alike.

    402: its account with the provider is empty. 404: it has no such model, or does not even chat; 405: it has no such endpoint.
    """
    if is_spent(error_object(body)):
        return 402
    return status if status != 404 or is_chat or _NAMES_A_MODEL.search(body[:_WORDS_MAX]) else 405


def is_spent(said: Mapping[str, Any]) -> bool:
    """Whether the account is empty: OpenAI has codes for it, on statuses of other meanings; others have a sentence."""
    message = said.get("message")
    return said.get("code") in _SPENT or (type(message) is str and bool(_IS_SPENT.match(message)))


def full(deployment: Deployment, wait_s: float) -> RateLimited:
    """429: the deployment is asked for as much as the operator lets it be."""
    details = {"deployment": deployment.id, "limit_source": "provider"}
    return RateLimited("This model takes no more requests at the moment.", retry_after_s=wait_s or 1.0, details=details)


def no_own_key(deployment: Deployment, *, takes_keys: bool = True) -> InvalidRequest:
    """400: the app's usage runs on keys that it brings, and it brought none for this provider; or this deployment takes none."""
    if not takes_keys:
        text = "This app runs on provider keys of its own, and this model is served with none that it could bring."
        return InvalidRequest(text, code=NO_OWN_KEY, details={"provider": deployment.provider})
    text = f"This app runs on provider keys of its own, and has none for {deployment.provider}: its owner can set one."
    return InvalidRequest(text, code=NO_OWN_KEY, details={"provider": deployment.provider})


def own_key_refused(deployment: Deployment, status: int) -> InvalidRequest:
    """400: the provider does not take the key that the app brought."""
    text = f"The provider {deployment.provider} refused this app's own key with status {status}: its owner can set another one."
    details = {"provider": deployment.provider, "deployment": deployment.id, "upstream_status": status}
    return InvalidRequest(text, code="provider_key_refused", details=details)


def too_long(deployment: Deployment, tokens: int) -> InvalidRequest:
    """400: the prompt is longer than what the model reads."""
    text = f"The prompt has about {tokens} tokens, and the model reads at most {deployment.input_tokens_max}."
    return InvalidRequest(text, code=CONTEXT_TOO_LONG, param="messages")


def error_object(body: bytes) -> dict[str, Any]:
    """`error` of an answer, empty where there is none."""
    try:
        answer = wire.decode_json(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    error = answer.get("error") if type(answer) is dict else None
    return error if type(error) is dict else {}


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """How long a provider asks to wait, in seconds; None where it does not say."""
    text = headers.get("retry-after", "")
    return min(float(text), 3600.0) if text.isdigit() else None
