"""Which deployments serve a model, in the order to try; and which adapter talks to a provider."""

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from math import inf
from random import Random, SystemRandom
from typing import Final

import msgspec

from gateway.core.errors import NotFound
from gateway.core.ids import expanded_id
from gateway.providers.health import Health
from gateway.providers.model import Deployment, Dialect, Headers, ModelEntry, Reply, Route, Strategy, Upstream
from gateway.providers.native import as_spoken_to

DEMO: Final = "demo"
Sizes = Callable[[str, str], tuple[int | None, int | None, bool | None]]
_NAMES_CACHED_MAX: Final = 10_000
_MODEL_CHARS_MAX: Final = 256
_NEWEST: Final = 0.2  # share of the newest time in the average
_SLOWER_MAX: Final = 2.0  # than the average: as which a slow answer counts at most
_LEAST_S: Final = 0.001
_FIRST_TOKENS: Final = 50  # a whole answer is compared by about when it had so many
_LOOKS_AROUND: Final = 0.05
CostOf = Callable[[str], int | None]
Serves = Callable[[str, str], frozenset[str] | None]
_CHAT: Final = "/chat/completions"


class Routing:
    """The routes of one configuration. Exact names win over patterns, longer patterns over shorter."""

    def __init__(
        self,
        entries: Sequence[ModelEntry],
        random: Random | None = None,
        sizes: Sizes | None = None,
        cost_of: CostOf | None = None,
        serves: Serves | None = None,
    ) -> None:
        """Raises ValueError for a name given twice, an entry without deployments, an id given twice or a weight below 1.

        `sizes` tells (input, output) tokens at most of a provider's model, and whether it reasons unseen; it fills in what the
        configuration leaves open, above all for the models that a pattern stands for. `cost_of` is what a deployment takes,
        in any measure, None when nobody knows: for the strategy `cost`. `serves` tells the surfaces of a provider's model.
        """
        _check(entries)
        self._sizes = sizes
        self._serves = serves
        self._entries = tuple(entries)
        self._exact = {entry.name: entry for entry in entries if "*" not in entry.name}
        patterns = sorted((entry for entry in entries if "*" in entry.name), key=lambda entry: (-len(entry.name), entry.name))
        self._patterns = [(_compiled(entry.name), entry) for entry in patterns]
        self._random = (random or SystemRandom()).random
        self._cost_of = cost_of
        self._took_s: dict[str, float] = {}  # to the first byte, by deployment: a moving average
        self.health = Health()
        # Names that clients ask for are theirs to choose, so only a bounded number is remembered.
        self._found: dict[str, _Choice] = {}

    def route(self, model: str, by: str = "") -> Route:
        """Where to send a request for `model` of the creator `by`: its deployments in the order of its strategy, those that rest
        last.

        Raises NotFound `model_not_found`.
        """
        choice = self._found.get(model)
        if choice is None:
            choice = self._find(model)
        if choice.only is not None:
            return choice.only
        drawn = self._ordered(choice)
        if self.health.troubled:  # those that rest are asked last
            drawn = tuple(sorted(drawn, key=lambda deployment: not self.health.may_try(deployment.id, by)))
            self.health.chosen(drawn[0].id, by)
        return Route(model, drawn, choice.fallbacks, choice.retries, several=True)

    def serves(self, model: str) -> bool:
        """Whether there is a route for a model."""
        return model in self._exact or any(pattern.fullmatch(model) for pattern, _ in self._patterns)

    def become(self, other: "Routing") -> None:
        """Route as `other` does from now on. What is known of deployments that are the same in both stays."""
        known = {deployment.id: deployment for deployment in self.deployments()}
        for deployment in other.deployments():
            if known.get(deployment.id) != deployment:  # with another key, say, it may serve at once
                self.health.forget(deployment.id)
        self._entries, self._exact, self._patterns = other._entries, other._exact, other._patterns
        self._found = other._found

    def took(self, deployment_id: str, took_s: float, output_tokens: int = 0) -> None:
        """It took so long to the first byte of an answer, which had so much output then.

        Whole answers come when all of it was made, which says more about what was asked for; and one answer moves the average
        only so far.
        """
        took_s *= _FIRST_TOKENS / (_FIRST_TOKENS + output_tokens)
        before = self._took_s.get(deployment_id, took_s)
        if len(self._took_s) >= _NAMES_CACHED_MAX:
            self._took_s.clear()
        self._took_s[deployment_id] = before + (min(took_s, _SLOWER_MAX * max(before, _LEAST_S)) - before) * _NEWEST

    def _ordered(self, choice: "_Choice") -> tuple[Deployment, ...]:
        match choice.strategy:
            case Strategy.WEIGHT:
                return choice.draw(self._random)
            case Strategy.ORDER:
                return choice.deployments
            case Strategy.LATENCY:  # who was never asked comes first; now and then anybody may, as times change
                if self._random() < _LOOKS_AROUND:
                    return choice.draw(self._random)
                return tuple(sorted(choice.deployments, key=lambda deployment: self._took_s.get(deployment.id, 0.0)))
            case Strategy.COST:
                cost_of = self._cost_of or (lambda _: None)
                costs = {deployment.id: cost_of(deployment.id) for deployment in choice.deployments}
                known = {name: cost for name, cost in costs.items() if cost is not None}
                return tuple(sorted(choice.deployments, key=lambda deployment: known.get(deployment.id, inf)))

    def models(self) -> list[str]:
        """The names of the configuration that are not patterns, in its order: what `/v1/models` lists."""
        return [entry.name for entry in self._entries if "*" not in entry.name]

    def patterns(self) -> list[tuple[str, str]]:
        """(pattern, provider) of the entries whose first deployment is asked for whatever name the client gives."""
        found = [(entry.name, entry.deployments[0]) for entry in self._entries if "*" in entry.name]
        return [(name, deployment.provider) for name, deployment in found if deployment.model == "*"]

    def deployments(self) -> list[Deployment]:
        """Every deployment as configured, patterns included."""
        return [deployment for entry in self._entries for deployment in entry.deployments]

    def deployment(self, deployment_id: str) -> Deployment | None:
        """The deployment of an id, as configured; None where there is none (any more)."""
        for each in self.deployments():
            if deployment_id == each.id or (each.model == "*" and deployment_id.startswith(expanded_id(each.id, ""))):
                return each
        return None

    def _find(self, model: str) -> "_Choice":
        entry = self._exact.get(model)
        if entry is None and len(model) <= _MODEL_CHARS_MAX:
            entry = next((entry for pattern, entry in self._patterns if pattern.fullmatch(model)), None)
        if entry is None:
            shown = model if len(model) <= _MODEL_CHARS_MAX else model[:_MODEL_CHARS_MAX] + "..."
            raise NotFound(f"The model {shown!r} does not exist here.", code="model_not_found", param="model")
        if len(self._found) >= _NAMES_CACHED_MAX:
            self._found.clear()
        placed = tuple(self._placed(deployment, model) for deployment in entry.deployments)
        watched = bool(entry.fallbacks) or any(deployment.capacity is not None for deployment in placed)
        only = Route(model, placed, entry.fallbacks, entry.retries, watched)
        choice = self._found[model] = _Choice(only, entry.strategy)
        return choice

    def _placed(self, deployment: Deployment, model: str) -> Deployment:
        if deployment.model == "*":
            deployment = msgspec.structs.replace(deployment, model=model, id=expanded_id(deployment.id, model))
        if self._serves is not None and deployment.surfaces is None:
            surfaces = self._serves(deployment.provider, deployment.model)
            if surfaces is not None:
                most_input = deployment.input_tokens_max if _CHAT in surfaces else 0
                deployment = msgspec.structs.replace(deployment, surfaces=surfaces, input_tokens_max=most_input)
        if self._sizes is None or None not in (
            deployment.input_tokens_max, deployment.output_tokens_max, deployment.hidden_reasoning
        ):  # fmt: skip
            return deployment
        most_input, most_output, reasons = self._sizes(deployment.provider, deployment.model)
        return msgspec.structs.replace(
            deployment,
            input_tokens_max=most_input if deployment.input_tokens_max is None else deployment.input_tokens_max,
            output_tokens_max=most_output if deployment.output_tokens_max is None else deployment.output_tokens_max,
            hidden_reasoning=reasons if deployment.hidden_reasoning is None else deployment.hidden_reasoning,
        )


class _Choice:
    """The deployments of one asked name, ready to draw from."""

    __slots__ = ("deployments", "fallbacks", "only", "retries", "strategy")

    def __init__(self, route: Route, strategy: Strategy) -> None:
        self.strategy = strategy
        self.deployments = route.deployments
        self.fallbacks = route.fallbacks
        self.retries = route.retries
        self.only = route if len(route.deployments) == 1 else None

    def draw(self, random: Callable[[], float]) -> tuple[Deployment, ...]:
        # Efraimidis and Spirakis: sorting by u ** (1 / weight) draws without replacement by weight.
        return tuple(sorted(self.deployments, key=lambda deployment: random() ** (1 / deployment.weight), reverse=True))


class AsItIs:
    """The `Dialect` of surfaces that nobody translates."""

    def send(self, chat: Upstream, deployment: Deployment, path: str, body: bytes, headers: Headers) -> Awaitable[Reply]:
        """As it came."""
        return chat.send(deployment, path, body, headers)


class Upstreams:
    """The adapters by provider. A provider without one of its own speaks the OpenAI dialect: `default`.

    Is itself an `Upstream`: it sends to the adapter of the deployment's provider, by way of one of `dialects` (by path) where
    that does not speak the surface's dialect. What a deployment does speak of those goes over the byte path, `default`.
    """

    def __init__(
        self, default: Upstream, by_provider: Mapping[str, Upstream], dialects: Mapping[str, Dialect] | None = None
    ) -> None:
        self._default = default
        self._by_provider = dict(by_provider)
        self._dialects = dict(dialects or {})

    @property
    def direct(self) -> Upstream:
        """The byte path."""
        return self._default

    def of(self, deployment: Deployment) -> Upstream:
        """The adapter that talks to this deployment."""
        return self._by_provider.get(deployment.provider, self._default)

    def send(self, deployment: Deployment, path: str, body: bytes, headers: Headers = ()) -> Awaitable[Reply]:
        """As `Upstream.send`."""
        if path in self._dialects:
            if path in deployment.speaks:
                return self._default.send(as_spoken_to(deployment, path), path, body, headers)
            return self._dialects[path].send(self.of(deployment), deployment, path, body, headers)
        return self._by_provider.get(deployment.provider, self._default).send(deployment, path, body, headers)

    async def close(self) -> None:
        """Close every adapter once."""
        for upstream in {id(each): each for each in (self._default, *self._by_provider.values())}.values():
            await upstream.close()


def _compiled(pattern: str) -> re.Pattern[str]:
    # Runs of `*` would backtrack exponentially; one says the same.
    return re.compile(".*".join(re.escape(part) for part in re.split(r"\*+", pattern)), re.DOTALL)


def _check(entries: Sequence[ModelEntry]) -> None:
    names: set[str] = set()
    ids: set[str] = set()
    for entry in entries:
        if not entry.name or entry.name in names:
            raise ValueError(f"model {entry.name!r} is named twice or has no name")
        names.add(entry.name)
        if not entry.deployments:
            raise ValueError(f"model {entry.name!r} has no deployment")
        for deployment in entry.deployments:
            if deployment.id in ids:
                raise ValueError(f"deployment {deployment.id!r} is named twice")
            ids.add(deployment.id)
            if deployment.weight < 1:
                raise ValueError(f"deployment {deployment.id!r}: weight must be at least 1")
            if deployment.model == "*" and "*" not in entry.name:
                raise ValueError(f"deployment {deployment.id!r}: model '*' needs a model name with '*'")
        for fallback in entry.fallbacks:
            if fallback == entry.name or not any(_compiled(each.name).fullmatch(fallback) for each in entries):
                raise ValueError(f"model {entry.name!r}: its fallback {fallback!r} is not another model of the configuration")
