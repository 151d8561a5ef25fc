"""What the surfaces of images, audio and ranking have in common.

None of them has a cap on its output that a request could set, so what one can cost at most is held as `Request.units`, by
kind; what an answer tells is read into the kinds that its price may have. A model may be sold by the image, second or
character or by the token, and both are counted where both are known: a price names the kinds that it is for. What nobody
told is estimated only where the provider's price needs it, and the event says so with the flag `estimated`.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Final

from msgspec.structs import replace

from gateway.core.errors import InvalidRequest
from gateway.core.units import Usage
from gateway.metering.usage import COUNT_MAX
from gateway.pricing.rates import Rates
from gateway.providers.azure import is_translated
from gateway.providers.model import Deployment, Reply
from gateway.providers.routing import DEMO
from gateway.proxy import wire
from gateway.proxy.surface import Measured, Request, Stream

_log = logging.getLogger(__name__)
_BELIEVED: Final = 4  # times what was held: no more than providers count otherwise than the gateway
_WORDS: Final = ("image_output", "audio_output")  # what text is part of that an answer tells beside what it was held for
CostOf = Callable[[str], Rates | None]
IsServed = Callable[[str], bool]
ESTIMATED: Final[tuple[str, ...]] = ("estimated",)
NO_FLAGS: Final[tuple[str, ...]] = ()


class MediaSurface(ABC):
    """See `Surface`."""

    path: str
    bytes_max: int
    error_body = staticmethod(wire.error_body)
    error_event = staticmethod(wire.error_event)

    def __init__(self, cost_of: CostOf, is_served: IsServed) -> None:
        """`cost_of` a deployment's id is what its provider takes, None when nobody knows; `is_served` tells of a model's name."""
        self._cost_of = cost_of
        self._is_served = is_served

    def model_or(self, default: str, body: dict[str, Any]) -> str:
        """The model that is asked for; where none is, what OpenAI takes then, if it is served here. InvalidRequest."""
        if body.get("model") is None and self._is_served(default):
            body["model"] = default
        return wire.read_model(body)

    @abstractmethod
    def parse(self, raw: bytes, content_type: bytes) -> Request:
        """See `Surface`."""

    def bound(self, request: Request, deployment: Deployment) -> int:
        """The bytes of its text; InvalidRequest where the deployment does not serve this surface."""
        check_serves(self.path, deployment)
        return self.text_bytes(request.body)

    @abstractmethod
    def text_bytes(self, body: dict[str, Any]) -> int:
        """No fewer than the tokens of what the model reads of a body."""

    def most(self, request: Request, deployment: Deployment) -> int:
        """None that a cap bounds: see `Request.units`."""
        return 0

    def prompt(self, body: dict[str, Any]) -> tuple[dict[str, Any], str]:
        """The text that the model reads."""
        return {"prompt": body.get("prompt") or ""}, "prompt"

    def outgoing(self, request: Request, deployment: Deployment, cap: int | None) -> bytes:
        """The body, with the deployment's model name."""
        return wire.encode_json({**request.body, "model": deployment.model})

    def streams(self, request: Request, reply: Reply) -> bool:
        """A stream that was asked for; some servers answer whole all the same."""
        return request.streamed and reply.content_type.startswith(b"text/event-stream")

    @abstractmethod
    def stream(self, request: Request, reply: Reply) -> Stream:
        """See `Surface`."""

    @abstractmethod
    def told(self, body: bytes) -> Any:
        """See `Surface`."""

    def text(self, body: bytes) -> str:
        """Nothing that the gateway would count."""
        return ""

    def measured(self, told: Any, request: Request, deployment: Deployment) -> Measured | None:
        """The usage in what was told, as far as it can be true; None where it lacks tokens that must be counted."""
        found = self.read(told, request, deployment)
        return None if found is None else credible(found, request)

    @abstractmethod
    def read(self, told: Any, request: Request, deployment: Deployment) -> Measured | None:
        """The usage in what was told; see `measured`."""

    def completed(self, told: Any, request: Request, deployment: Deployment, counted: Usage) -> Measured:
        """See `Request.completed`."""
        return credible(self.counted(told, request, deployment, counted), request)

    def counted(self, told: Any, request: Request, deployment: Deployment, counted: Usage) -> Measured:
        """The usage where `read` found none; see `Request.completed`. What was counted, unless there is more to it."""
        return counted, NO_FLAGS

    def returned(self, request: Request, body: bytes) -> bytes:
        """As the upstream wrote it."""
        return body

    def sold_by(self, deployment: Deployment, kind: str) -> bool:
        """Whether the provider bills this kind, or may: nobody knows its price."""
        cost = self._cost_of(deployment.id)
        return cost is None or bool(getattr(cost, kind))


def credible(found: Measured, request: Request) -> Measured:
    """What is told far above what the request could use is taken for what was held, with the flag `usage_absurd`."""
    usage, flags = found
    held = dict(request.units)
    if "output" not in held:
        held["output"] = sum(held.get(kind, 0) for kind in _WORDS)
    absurd = {kind: most for kind, most in held.items() if getattr(usage, kind) > _BELIEVED * most}
    if not absurd:
        return found
    told = ", ".join(f"{getattr(usage, kind)} {kind}" for kind in absurd)
    _log.warning("%s: an answer tells %s, which is not believed", request.model, told)
    return replace(usage, **absurd), (*flags, "usage_absurd")


def check_serves(path: str, deployment: Deployment) -> None:
    """InvalidRequest where a deployment is known not to serve a surface."""
    if (is_translated(deployment) and path not in deployment.speaks) or deployment.provider == DEMO:
        raise InvalidRequest(f"{path} is not served for models of {deployment.provider} here", param="model")
    check_listed(path, deployment)


def check_listed(path: str, deployment: Deployment) -> None:
    """InvalidRequest where the price list says that a model is for other surfaces."""
    if deployment.surfaces is not None and path not in deployment.surfaces:
        raise InvalidRequest(f"{deployment.model} does not serve {path}", param="model")


def count(value: Any) -> int:
    """A count that an upstream told, a started one counts; 0 for what is none."""
    if type(value) is float and 0 <= value <= COUNT_MAX:
        return int(-(-value // 1))
    return value if type(value) is int and 0 <= value <= COUNT_MAX else 0


def tokens_told(usage: Any) -> Usage | None:
    """The tokens of OpenAI's surfaces of images and audio: totals, with text, images and audio inside them; None without.

    Input that no detail explains is text; cached tokens, where one tells of them, are billed as input: their price
    differs by what is cached, which is not told.
    """
    if type(usage) is not dict or type(usage.get("input_tokens")) is not int:
        return None
    asked, made = count(usage["input_tokens"]), count(usage.get("output_tokens"))
    if not asked and not made:
        return None
    details = usage.get("input_tokens_details") or usage.get("input_token_details")
    details = details if type(details) is dict else {}
    image = min(asked, count(details.get("image_tokens")))
    audio = min(asked - image, count(details.get("audio_tokens")))
    return Usage(input=asked - image - audio, image_input=image, audio_input=audio, output=made)
