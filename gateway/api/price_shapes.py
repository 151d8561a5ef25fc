"""JSON about prices; the rules are those of `shapes`."""

from typing import Any

from msgspec import UNSET, Raw, UnsetType

from gateway.api.shapes import Answer, Body, Percent, Stamp, Time

# Decimals by kind; beside them `above` (tokens), `long` (prices of longer prompts), `variants` (prices by name).
Prices = dict[str, str | int | dict[str, Any]]


class PriceBookBody(Body, frozen=True):
    """New prices of an app from `effective_at` (default: now) on: decimals per million tokens or characters, per image,
    second, search, gigabyte of a container or request; or a markup, not both. `above` (a number of tokens) and `long` are
    prices of longer prompts, `variants` prices by the name of what is asked for, such as the service tiers flex and priority.

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


class OfferedList(Body, frozen=True):
    """`prices`: a list in litellm's format, an object of models; `model`: which of those served here, a name or a pattern."""

    prices: Raw
    model: str = "*"


class PriceListBody(Body, frozen=True):
    """`prices`: a list in litellm's format, an object of models, that holds from `effective_at` (default: now) on."""

    prices: Raw
    effective_at: Time | None = None


class PriceListAnswer(Answer, frozen=True, omit_defaults=True):
    """One price list: the shipped one, or one that took its place. `models` of it have prices; `digest` is its SHA-256."""

    id: str
    source: str
    models: int
    in_force: bool
    effective_at: Stamp | UnsetType = UNSET
    digest: str | UnsetType = UNSET
    created_at: Stamp | UnsetType = UNSET
    actor: str | UnsetType = UNSET


class PriceDifferencesQuery(Body, frozen=True):
    """Which models: a name, or a pattern with `*`."""

    model: str = "*"


class PriceDifference(Answer, frozen=True, omit_defaults=True):
    """A deployment whose prices differ: as the configuration has them (null: it says nothing), as the price list in force
    does, and as an offered one would; in USD, null where it has none. Where the configuration has prices, they are what counts.
    """

    model: str
    deployment: str
    source: str
    configured: Prices | None
    listed: Prices | None
    offered: Prices | UnsetType | None = UNSET
