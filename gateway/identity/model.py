"""Frozen values of identity. Parsed once at the edge, trusted inside."""

from typing import Final, Generic, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from gateway.core.words import CostPolicy, DisconnectPolicy, Enforcement, HoldPolicy, Level

ACTIVE: Final = "active"
SUSPENDED: Final = "suspended"

# Where a request may name its end user, in the order of precedence.
END_USER_SOURCES: Final = (
    "token",
    "x-platform-user-id",
    "x-litellm-end-user-id",
    "x-litellm-customer-id",
    "helicone-user-id",
    "x-portkey-metadata",
    "safety_identifier",
    "user",
    "metadata",
)

Row = TypeVar("Row")


class Limits(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Limits of a key, an end user or a token; None is no limit. Spend is in micro-units of the payer's asset."""

    rpm: int | None = None
    tpm: int | None = None
    concurrency: int | None = None
    spend_micro_per_day: int | None = None
    spend_micro_per_month: int | None = None
    spend_micro_total: int | None = None


class LimitChanges(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A change of limits: one that is named is set, None takes that one away, the others stay."""

    rpm: int | UnsetType | None = UNSET
    tpm: int | UnsetType | None = UNSET
    concurrency: int | UnsetType | None = UNSET
    spend_micro_per_day: int | UnsetType | None = UNSET
    spend_micro_per_month: int | UnsetType | None = UNSET
    spend_micro_total: int | UnsetType | None = UNSET


class Trial(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an app grants each of its end users on first sight, in its asset, and for how many days."""

    amount_micro: int
    days: int


class AnswerCache(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How an app keeps answers to give them again to the very same request.

    For `ttl_s` seconds; 0: only where a request asks for it. One that is given again costs `price_percent` of its price.
    `per_end_user`: an end user gets only answers to requests of their own.
    """

    ttl_s: int
    price_percent: int = 0
    per_end_user: bool = False


class Creator(msgspec.Struct, frozen=True):
    """The platform's customer. `status` is `active` or `suspended`."""

    user_id: str
    name: str
    status: str
    created_at_ms: int


class App(msgspec.Struct, frozen=True):
    """One app of one creator: the unit of keys, prices and data isolation."""

    enterprise_id: str
    user_id: str
    name: str
    asset: str
    enforcement: Enforcement
    cost_policy: CostPolicy
    hold_policy: HoldPolicy
    disconnect_policy: DisconnectPolicy
    end_user_sources: tuple[str, ...]
    default_end_user: str | None
    end_user_limits: Limits
    cors_origins: tuple[str, ...]
    status: str
    created_at_ms: int
    trial: Trial | None = None
    answer_cache: AnswerCache | None = None


class ApiKey(msgspec.Struct, frozen=True):
    """A key's record; the secret itself is not kept. `hint` is its last four characters."""

    id: str
    enterprise_id: str
    name: str
    level: Level
    hint: str
    models: tuple[str, ...]
    limits: Limits
    created_at_ms: int
    expires_at_ms: int | None
    revoked_at_ms: int | None


class Principal(msgspec.Struct, frozen=True):
    """A verified credential of the data plane.

    `models` are names or `*` patterns, empty = every model. With an end-user token
    `platform_user_id` and `token_id` are set and `token_limits` is the token's own.
    """

    key_id: str
    level: Level
    app: App
    shard: int
    models: tuple[str, ...]
    limits: Limits
    platform_user_id: str | None = None
    token_id: str | None = None
    token_limits: Limits = Limits()


class ProviderKey(msgspec.Struct, frozen=True):
    """An app's own key at a provider, without the key; `hint` is its last four characters.

    One that is not `readable` was sealed under another key pepper, and must be set again.
    """

    enterprise_id: str
    provider: str
    hint: str
    created_at_ms: int
    readable: bool


class ManagementKey(msgspec.Struct, frozen=True):
    """A creator's credential for the management plane; only a digest of the secret is kept."""

    id: str
    user_id: str
    name: str
    hint: str
    created_at_ms: int
    expires_at_ms: int | None
    revoked_at_ms: int | None


class EndUserToken(msgspec.Struct, frozen=True):
    """A minted end-user token, shown once: nothing of it is stored."""

    id: str
    token: str
    enterprise_id: str
    platform_user_id: str
    key_id: str
    expires_at_ms: int


class NewApp(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the making of an app asks for."""

    enterprise_id: str
    user_id: str
    name: str
    asset: str = "USD"
    enforcement: Enforcement = Enforcement.PREPAID
    cost_policy: CostPolicy = CostPolicy.PLATFORM_PAYS
    hold_policy: HoldPolicy = HoldPolicy.STRICT
    disconnect_policy: DisconnectPolicy = DisconnectPolicy.DRAIN
    end_user_sources: tuple[str, ...] = END_USER_SOURCES
    default_end_user: str | None = None
    end_user_limits: Limits = Limits()
    cors_origins: tuple[str, ...] = ()
    trial: Trial | None = None
    answer_cache: AnswerCache | None = None


class NewKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the making of an API key asks for. `models` empty = every model; `test` only changes the prefix."""

    name: str
    level: Level
    models: tuple[str, ...] = ()
    limits: Limits = Limits()
    expires_at_ms: int | None = None
    test: bool = False


class NewToken(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the minting of an end-user token asks for.

    `key_id` None = the caller's own key, or else the newest in force that allows the models and lasts as long.
    """

    platform_user_id: str
    expires_in_seconds: int = 3600
    models: tuple[str, ...] = ()
    spend_micro_max: int | None = None
    rpm: int | None = None
    key_id: str | None = None


class CreatorChanges(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A change of a creator; what is unset stays."""

    name: str | UnsetType = UNSET
    status: str | UnsetType = UNSET


class AppChanges(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A change of an app; what is unset stays. Asset, owner and enforcement never change: books depend on them.

    `end_user_limits` None takes every one of them away.
    """

    name: str | UnsetType = UNSET
    status: str | UnsetType = UNSET
    hold_policy: HoldPolicy | UnsetType = UNSET
    disconnect_policy: DisconnectPolicy | UnsetType = UNSET
    end_user_sources: tuple[str, ...] | UnsetType = UNSET
    default_end_user: str | UnsetType | None = UNSET
    end_user_limits: LimitChanges | UnsetType | None = UNSET
    cors_origins: tuple[str, ...] | UnsetType = UNSET
    trial: Trial | UnsetType | None = UNSET
    answer_cache: AnswerCache | UnsetType | None = UNSET


class KeyChanges(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A change of an API key; what is unset stays, `limits` None takes all away. The level, and so the payer, never changes."""

    name: str | UnsetType = UNSET
    models: tuple[str, ...] | UnsetType = UNSET
    limits: LimitChanges | UnsetType | None = UNSET
    expires_at_ms: int | UnsetType | None = UNSET


class Page(msgspec.Struct, Generic[Row], frozen=True):
    """Some rows of a list, and the cursor that goes on after them (None at the end)."""

    rows: tuple[Row, ...]
    next_cursor: str | None = None


class Role:
    """Roles of the management plane, for the route table."""

    PUBLIC = "public"
    OPERATOR = "operator"
    CREATOR = "creator"
    APP_SERVER = "app_server"
    END_USER = "end_user"


class Actor(msgspec.Struct, frozen=True):
    """Who acts on the management plane: `role`, a name for the trail, and what it is confined to.

    `user_id` is set for a creator, `enterprise_id` and `key_id` too for an app server, and
    `platform_user_id` besides for an end user.
    """

    role: str
    name: str
    user_id: str | None = None
    enterprise_id: str | None = None
    key_id: str | None = None
    platform_user_id: str | None = None
