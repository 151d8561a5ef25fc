"""What the configuration says of prices, and what they are where it says nothing."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from gateway.core.ids import expanded_id
from gateway.core.money import USD
from gateway.pricing.lists import FOR_EVER_MS, Lists
from gateway.pricing.rates import Rates, marked_up, rates_from
from gateway.pricing.written import read_prices


class PriceOverride(msgspec.Struct, frozen=True):
    """What the configuration says of one deployment's prices. Give one for every deployment.

    `prices` (what the provider takes) and `charge` (what the platform takes) are in USD, as `written` has them. `model` "*" is a
    deployment that is asked for many models. `region` is where it serves, if that costs more (`terms.uplift_bp`). One that is
    known not to make tokens, as of moderations, may leave out what they cost.
    """

    deployment_id: str
    provider: str
    model: str
    prices: Mapping[str, Any] | None = None
    charge: Mapping[str, Any] | None = None
    region: str = ""
    makes_tokens: bool = True


class Provided(msgspec.Struct, frozen=True):
    """The prices of one deployment that serves one model: what its provider takes, and what creators are charged; in USD.

    The sources say where each is from: `configuration`, `shipped list (litellm 1.2.3)`, `updated list (2026-01-31)`,
    `provider's price`, `markup 10 %`, or `none`. They hold from `since_ms` until `until_ms`.
    """

    cost: Rates | None
    cost_source: str
    charge: Rates | None
    charge_source: str
    unpriced: str = ""  # why a list that has the model has no price for it
    since_ms: int = 0
    until_ms: int = FOR_EVER_MS


NOT_CONFIGURED: Final = Provided(None, "none", None, "none")


class Configured:
    """The prices of one configuration, which holds from `since_ms` until another one takes its place at `until_ms`."""

    def __init__(self, lists: Lists, deployments: Iterable[PriceOverride], markup_bp: int, since_ms: int = 0) -> None:
        """Raises ValueError, naming the deployment, for a price that is not a decimal or of an unknown kind."""
        self._lists = lists
        self._markup_bp = markup_bp
        self._given = {given.deployment_id: given for given in deployments}
        self._prices = {given.deployment_id: read_override(given) for given in self._given.values()}
        self.since_ms = since_ms
        self.until_ms = FOR_EVER_MS

    @property
    def deployment_ids(self) -> Iterable[str]:
        """Those that it names."""
        return self._given

    def provide(self, deployment_id: str, at_ms: int) -> Provided:
        """The prices of a deployment at a time within the configuration's."""
        given, model = self.given(deployment_id)
        if given is None:
            return NOT_CONFIGURED
        cost, charge = self._prices[given.deployment_id]
        source = charge_source = "configuration"
        unpriced, since_ms, until_ms = "", self.since_ms, self.until_ms
        if cost is None:
            listed = self._lists.look_up(given.provider, model, given.region, at_ms)
            since_ms, until_ms = max(since_ms, listed.since_ms), min(until_ms, listed.until_ms)
            if listed.found is not None:
                cost, unpriced = listed.found.rates, listed.found.unpriced
            source = "none" if cost is None else listed.source
        if charge is None:
            charge_source = f"markup {percent(self._markup_bp)} %" if self._markup_bp else "provider's price"
            charge = marked_up(cost, self._markup_bp) if cost is not None else None
        return Provided(cost, source, charge, "none" if charge is None else charge_source, unpriced, since_ms, until_ms)

    def given(self, deployment_id: str) -> tuple[PriceOverride | None, str]:
        """What is said of a deployment and the model it serves; a `*` deployment's id tells the model."""
        given = self._given.get(deployment_id)
        if given is not None:
            return given, given.model
        for given in self._given.values():
            stem = expanded_id(given.deployment_id, "")
            if given.model == "*" and deployment_id.startswith(stem):
                return given, deployment_id.removeprefix(stem)
        return None, ""

    def cost(self, given: PriceOverride) -> Rates | None:
        """What the provider takes, if the configuration says it."""
        return self._prices[given.deployment_id][0]


def percent(basis_points: int) -> str:
    """The shortest exact percentage: 1250 -> "12.5"."""
    whole, rest = divmod(basis_points, 100)
    return f"{whole}.{rest:02d}".rstrip("0") if rest else str(whole)


def read_override(given: PriceOverride) -> tuple[Rates | None, Rates | None]:
    """What the provider takes and what creators are charged, as far as it says so. ValueError, naming the deployment."""
    found: list[Rates | None] = []
    for name, prices in (("prices", given.prices), ("charge", given.charge)):
        try:
            found.append(rates_from(USD, read_prices(prices, makes_tokens=given.makes_tokens)) if prices is not None else None)
        except ValueError as wrong:
            raise ValueError(f"{name} of {given.deployment_id}: {wrong}") from wrong
    return found[0], found[1]
