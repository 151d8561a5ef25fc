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
        if any(catalog.provided(deployment.id).cost is None for deployment in deployments):
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


def unserved(routing: Routing, catalog: Catalog, models: Iterable[str]) -> tuple[str, ...]:
    """A sentence for each of the names and patterns that serves for nothing here now: a slip of the pen, or ahead of its time."""
    entries = _entries(routing)
    told = []
    for model in models:
        if model in entries or model == "*":
            continue
        if "*" in model:
            if not any(_overlap(model, name) for name in entries):
                told.append(f"No model that is served here falls under `{model}`.")
            continue
        by = placed(routing, model)
        if not by:
            told.append(f"`{model}` is not served here: is the name right?")
        elif all(catalog.provided(deployment.id).cost is None for deployment in by):
            told.append(f"`{model}` falls under a pattern that is served, but is in no price list: is the name right?")
    return tuple(told)


def _overlap(one: str, other: str) -> bool:
    """False where no name can fall under both patterns, as their beginnings and ends show."""
    if "*" not in other:
        return model_allowed([one], other)
    (head, *_, tail), (other_head, *_, other_tail) = one.split("*"), other.split("*")
    heads = head.startswith(other_head) or other_head.startswith(head)
    return heads and (tail.endswith(other_tail) or other_tail.endswith(tail))


def _entries(routing: Routing) -> dict[str, tuple[Deployment, ...]]:
    entries: dict[str, tuple[Deployment, ...]] = {}
    for deployment in routing.deployments():
        name = deployment.id.rsplit("/", 2)[0]  # what clients ask for stands in front of the deployment's id
        entries[name] = (*entries.get(name, ()), deployment)
    return entries
