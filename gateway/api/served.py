"""What is served here: the models of the configuration, and of the price list where a pattern stands for many."""

from collections.abc import Iterable

import msgspec

from gateway.core.errors import NotFound
from gateway.identity.rules import model_allowed
from gateway.pricing.catalog import Catalog
from gateway.pricing.shipped import shipped_names
from gateway.providers.model import Deployment
from gateway.providers.routing import Routing


class Served(msgspec.Struct, frozen=True):
    """A model, or a pattern whose every model costs the same, with the deployments that serve it, in their order."""

    model: str
    deployments: tuple[Deployment, ...]


def served(routing: Routing, catalog: Catalog, wanted: str = "*", more: Iterable[str] = ()) -> list[Served]:
    """Those that fall under the pattern `wanted`, and of `more` and `wanted` itself those that a pattern serves.

    A pattern that the configuration prices stands for itself; of another one, the models that the shipped list prices.
    """
    entries = _entries(routing)
    found = {name: deployments for name, deployments in entries.items() if "*" not in name}
    for pattern, deployments in entries.items():
        if "*" not in pattern:
            continue
        listed: list[str] = []
        if any(catalog.cost(deployment.id, 0) is None for deployment in deployments):
            for provider in dict.fromkeys(deployment.provider for deployment in deployments if deployment.model == "*"):
                listed += shipped_names(provider, pattern)
        if not listed:
            found[pattern] = deployments
        for name in listed:
            found.setdefault(name, placed(routing, name))
    for name in (*more, wanted):
        if "*" not in name and name not in found:
            found[name] = placed(routing, name)
    return [Served(name, by) for name, by in found.items() if by and (name == wanted or model_allowed([wanted], name))]


def placed(routing: Routing, model: str) -> tuple[Deployment, ...]:
    """The deployments that serve a model, by their ids; none when it is not served."""
    try:
        return tuple(sorted(routing.route(model).deployments, key=lambda deployment: deployment.id))
    except NotFound:
        return ()


def _entries(routing: Routing) -> dict[str, tuple[Deployment, ...]]:
    entries: dict[str, tuple[Deployment, ...]] = {}
    for deployment in routing.deployments():
        name = deployment.id.rsplit("/", 2)[0]  # what clients ask for stands in front of the deployment's id
        entries[name] = (*entries.get(name, ()), deployment)
    return entries
