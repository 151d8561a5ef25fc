"""Which tools of a provider's own a request names, and how often each may run. What follows for its price is `tool_calls`'s."""

from collections.abc import Callable
from typing import Final

import msgspec
from msgspec.structs import replace

from gateway.core.errors import InvalidRequest
from gateway.metering.usage import UNBOUNDED_PART_TOKENS
from gateway.providers.model import Deployment, Route

_FREE: Final = (("web_searches", 0),)  # of tools without a fee


class Tool(msgspec.Struct, frozen=True):
    """One of them: its type as the client wrote it, how errors name it, the kind of its fee ("" for none), its place in the
    list, its own bound (0: none).
    """

    type: str
    param: str
    kind: str
    place: int
    most: int = 0


class ToolCalls(msgspec.Struct):
    """What one request may make of them.

    `asked` is the client's own bound on all of them (0: none). `together`: one bound counts the calls of all tools, as OpenAI's
    does; else each tool has its own. `container_gb` is the memory of the container that they may start. `reads_most` bounds what
    a model reads in a turn with these tools, 0 where only the model itself does; `reads_least` is what it may read although its
    deployment says less. `unseen` bounds the tokens of what providers tell a model of the tools.
    `stores` are the ids of what is to be searched.
    `check_served` raises InvalidRequest where a deployment cannot be asked for them.

    `number` is how often they may run as it is held, all or each; `default` how often one may that nobody bounds; `window` the
    tokens that each call is held as; `first` bounds those of the prompt before any call, and `longest` those of every prompt.
    """

    tools: tuple[Tool, ...]
    asked: int = 0
    together: bool = False
    container_gb: int = 0
    reads_most: int = 0
    reads_least: int = 0
    number: int = 0
    default: int = 0
    window: int = UNBOUNDED_PART_TOKENS
    first: int = 0
    longest: int = UNBOUNDED_PART_TOKENS
    is_cut: bool = False  # because the wallet covers no more
    unseen: int = 0
    stores: tuple[str, ...] = ()
    check_served: Callable[["ToolCalls", Deployment], None] | None = None

    @property
    def is_bounded(self) -> bool:
        """Whether the client says how often they may run."""
        return bool(self.asked) or (not self.together and any(tool.most for tool in self.tools))

    @property
    def tokens(self) -> int:
        """That all the calls make the model read, at most."""
        return self.turns * self.window + self.unseen

    @property
    def turns(self) -> int:
        """How many calls there may be."""
        return self.number if self.together else sum(map(self.uses, self.tools))

    def uses(self, tool: Tool) -> int:
        """How often one of them may run, where each has a bound of its own."""
        return min(tool.most or self.default, self.number)

    def units(self) -> tuple[tuple[str, int], ...]:
        """The most of each kind, each as if all calls that are bounded together were of it."""
        found: dict[str, int] = {}
        for tool in self.tools:
            if tool.kind == "container_gb":
                found[tool.kind] = self.container_gb
            elif tool.kind:
                found[tool.kind] = self.number if self.together else found.get(tool.kind, 0) + self.uses(tool)
        return tuple(found.items()) or _FREE

    def placed(self, route: Route) -> Route:
        """The route through those alone that can be asked for such calls; InvalidRequest where there is none."""
        kept, error = [], None
        for deployment in route.deployments:
            try:
                if self.check_served is not None:
                    self.check_served(self, deployment)
            except InvalidRequest as refused:
                error = error or refused
            else:
                kept.append(deployment)
        if error is None:
            return route
        if not kept:
            raise error
        return replace(route, deployments=tuple(kept), several=len(kept) > 1 or kept[0].capacity is not None)
