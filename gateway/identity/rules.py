"""What identity accepts: each check returns its value or raises InvalidRequest naming the field. Pure."""

import re
from collections.abc import Sequence
from functools import lru_cache

from msgspec import UNSET

from gateway.core.errors import InvalidRequest
from gateway.core.ids import is_outside_id, may_be_chosen
from gateway.core.limits import (
    ANSWER_TTL_S_MAX,
    CORS_ORIGINS_MAX,
    KEY_NAME_CHARS_MAX,
    MODEL_CHARS_MAX,
    MODELS_PER_KEY_MAX,
    PAGE_ROWS_MAX,
    RATE_LIMIT_MAX,
    TRIAL_DAYS_MAX,
)
from gateway.core.money import AMOUNT_MICRO_MAX, is_asset
from gateway.identity.model import ACTIVE, END_USER_SOURCES, SUSPENDED, AnswerCache, LimitChanges, Limits, Trial

# 9999-12-31: what RFC 3339 can still write.
_TIME_MS_MAX = 253_402_300_799_999
_ORIGIN = re.compile(r"https?://(?:[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?")
OUTSIDE_ID_RULE = "1 to 128 characters of A-Z a-z 0-9 . _ : @ -, and neither . nor .."
_RATES = ("rpm", "tpm", "concurrency")
_SPENDS = ("spend_micro_per_day", "spend_micro_per_month", "spend_micro_total")


def outside_id(value: str, param: str) -> str:
    """An id that callers choose."""
    if not may_be_chosen(value):
        raise InvalidRequest(f"`{param}` must be {OUTSIDE_ID_RULE}", param=param)
    return value


def display_name(value: str, param: str = "name") -> str:
    """A name for people: 1 to KEY_NAME_CHARS_MAX printable characters."""
    text = value.strip()
    if not 1 <= len(text) <= KEY_NAME_CHARS_MAX or not text.isprintable():
        raise InvalidRequest(f"`{param}` must be 1 to {KEY_NAME_CHARS_MAX} printable characters", param=param)
    return text


def status(value: str) -> str:
    """`active` or `suspended`."""
    if value not in (ACTIVE, SUSPENDED):
        raise InvalidRequest("`status` must be active or suspended", param="status")
    return value


def asset(value: str) -> str:
    """An asset code."""
    if not is_asset(value):
        raise InvalidRequest("`asset` must be three capital letters, such as USD, or TOK", param="asset")
    return value


def limits(value: Limits, param: str = "limits") -> Limits:
    """Limits within 0 and RATE_LIMIT_MAX (rates) or AMOUNT_MICRO_MAX (spend); 0 refuses every request."""
    for names, maximum in ((_RATES, RATE_LIMIT_MAX), (_SPENDS, AMOUNT_MICRO_MAX)):
        for name in names:
            number(getattr(value, name), f"{param}.{name}", maximum)
    return value


def limit_changes(value: LimitChanges, param: str = "limits") -> dict[str, int | None]:
    """The limits that a change names, by name: within the bounds of `limits`, or None to take one away."""
    named = {name: at for name in (*_RATES, *_SPENDS) if (at := getattr(value, name)) is not UNSET}
    limits(Limits(**named), param)
    return named


def page(after: str | None, count: int) -> int:
    """The rows of a page, 1 to PAGE_ROWS_MAX, after a cursor that is the id of a row."""
    if not 1 <= count <= PAGE_ROWS_MAX:
        raise InvalidRequest(f"`limit` must be 1 to {PAGE_ROWS_MAX}", param="limit")
    if after is not None and not is_outside_id(after):
        raise InvalidRequest("`cursor` must be a next_cursor of this list", param="cursor")
    return count


def number(value: int | None, param: str, maximum: int, minimum: int = 0) -> int | None:
    """An optional integer within bounds."""
    if value is not None and not minimum <= value <= maximum:
        raise InvalidRequest(f"`{param}` must be {minimum} to {maximum}", param=param)
    return value


def models(value: Sequence[str], param: str = "models") -> tuple[str, ...]:
    """Model names or `*` patterns."""
    if len(value) > MODELS_PER_KEY_MAX:
        raise InvalidRequest(f"`{param}` may have at most {MODELS_PER_KEY_MAX} entries", param=param)
    for place, model in enumerate(value):
        if not 1 <= len(model) <= MODEL_CHARS_MAX or not model.isprintable() or " " in model:
            raise InvalidRequest(
                f"a model is 1 to {MODEL_CHARS_MAX} printable characters without spaces", param=f"{param}[{place}]"
            )
    return tuple(dict.fromkeys(value))


def end_user_sources(value: Sequence[str]) -> tuple[str, ...]:
    """Some of END_USER_SOURCES, brought into the order of precedence."""
    for place, source in enumerate(value):
        if source not in END_USER_SOURCES:
            known = ", ".join(END_USER_SOURCES)
            raise InvalidRequest(f"unknown end-user source; known are {known}", param=f"end_user_sources[{place}]")
    return tuple(source for source in END_USER_SOURCES if source in value)


def cors_origins(value: Sequence[str]) -> tuple[str, ...]:
    """Exact browser origins, such as https://app.example.com, or `*` for any."""
    if len(value) > CORS_ORIGINS_MAX:
        raise InvalidRequest(f"`cors_origins` may have at most {CORS_ORIGINS_MAX} entries", param="cors_origins")
    for place, origin in enumerate(value):
        if origin != "*" and (len(origin) > 300 or not _ORIGIN.fullmatch(origin)):
            raise InvalidRequest(
                "an origin is scheme, host and port in lower case, such as https://app.example.com, or *",
                param=f"cors_origins[{place}]",
            )
    return tuple(dict.fromkeys(value))


def trial(value: Trial | None) -> Trial | None:
    """An optional trial: 1 to AMOUNT_MICRO_MAX micro-units for 1 to TRIAL_DAYS_MAX days."""
    if value is not None:
        number(value.amount_micro, "trial.amount_micro", AMOUNT_MICRO_MAX, 1)
        number(value.days, "trial.days", TRIAL_DAYS_MAX, 1)
    return value


def answer_cache(value: AnswerCache | None) -> AnswerCache | None:
    """An optional way to keep answers: for 0 to ANSWER_TTL_S_MAX seconds, at 0 to 100 percent of the price."""
    if value is not None:
        number(value.ttl_s, "answer_cache.ttl_s", ANSWER_TTL_S_MAX, 0)
        number(value.price_percent, "answer_cache.price_percent", 100, 0)
    return value


def expiry(value_ms: int | None, now_ms: int, param: str = "expires_at") -> int | None:
    """An optional time that has not passed."""
    if value_ms is not None and not now_ms < value_ms <= _TIME_MS_MAX:
        raise InvalidRequest(f"`{param}` must lie in the future", param=param)
    return value_ms


def model_allowed(patterns: Sequence[str], model: str) -> bool:
    """True when a name (or a narrower `*` pattern) falls under one of the patterns; none at all allows everything."""
    return not patterns or model in patterns or any("*" in pattern and _glob(pattern).fullmatch(model) for pattern in patterns)


@lru_cache(maxsize=4096)
def _glob(pattern: str) -> re.Pattern[str]:
    return re.compile(".*".join(re.escape(part) for part in pattern.split("*")))
