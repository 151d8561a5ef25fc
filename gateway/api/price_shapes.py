"""JSON about prices; the rules are those of `shapes`."""

from typing import Any

from msgspec import UNSET, UnsetType

from gateway.api.shapes import Answer, Body, Percent, Stamp, Time

# Decimals by kind; beside them `above` (tokens), `long` (prices of longer prompts), `variants` (prices by name).
Prices = dict[str, str | int | dict[str, Any]]


class PriceBookBody(Body, frozen=True):
    """New prices of an app from `effective_at` (default: now) on: decimals per million tokens or characters, per image,
    second, search or request; or a markup, not both. `above` (a number of tokens) and `long` are prices of longer prompts,
    `variants` prices by the name of what is asked for, such as the service tiers flex and priority.

    `model` `*` is every model without prices of its own.
    """

    model: str = "*"
    prices: Prices | None = None
    markup_percent: Percent | None = None
    effective_at: Time | None = None


class PriceBookAnswer(Answer, frozen=True, omit_defaults=True):
    """Prices of an app for a model, from a time on. Either `prices` or `markup_percent` is set.

    `warnings`, in the answer that set them, where the model is not served here.
    """

    id: str
    enterprise_id: str
    model: str
    asset: str
    effective_at: Stamp
    prices: Prices | None
    markup_percent: str | None
    created_at: Stamp
    actor: str
    warnings: tuple[str, ...] = ()


class PricesQuery(Body, frozen=True):
    """Which models: a name, or a pattern with `*`; and for which app's end users."""

    model: str = "*"
    enterprise_id: str | None = None


class PriceAnswer(Answer, frozen=True, omit_defaults=True):
    """The prices of a model at one of its deployments, by kind (as `PriceBookBody` has them), in force now.

    `prices` is what the provider takes and `charge` what the platform takes from a creator, in USD; `app_prices` is what
    the asked app takes from its end users, in `app_asset`, since `app_since` where the app set that. The sources say where
    each comes from; where there is no price, requests are refused.
    """

    model: str
    deployment: str
    source: str
    prices: Prices
    charge_source: str
    charge: Prices | None
    app_asset: str | UnsetType = UNSET
    app_source: str | UnsetType = UNSET
    app_since: Stamp | UnsetType | None = UNSET
    app_prices: Prices | UnsetType | None = UNSET
