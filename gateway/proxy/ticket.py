"""One request on its way: what came in, and, once it is admitted, everything that its end needs."""

import msgspec

from gateway.balance.model import Admitted, Hold
from gateway.balance.places import Place
from gateway.core.units import Usage
from gateway.identity.model import Principal
from gateway.metering.event import EventFront
from gateway.providers.model import Deployment, Route
from gateway.proxy import quote
from gateway.proxy.again import Again
from gateway.proxy.made import Made
from gateway.proxy.ports import Answer
from gateway.proxy.surface import Request, Stream, Surface


class Call(msgspec.Struct):
    """One HTTP request, its headers parsed, and the way to answer it."""

    request_id: str
    surface: Surface | None  # None: a question about the caller itself
    headers: dict[bytes, bytes]
    raw: bytes
    answer: Answer
    started: float
    extra_headers: list[tuple[bytes, bytes]]
    model: str = ""  # once its body was read and the model is one that is served
    again: Again | None = None  # what it may have been answered before


class Tried(msgspec.Struct):
    """What was made of a request's route so far; one for all the ways in which attempts fail."""

    first: Deployment
    first_was_passed_over: bool
    ids: set[str]  # of deployments that were asked, or passed over
    nobody_else: bool = True  # no other could be asked
    retries: int = 0  # of the last one, that were begun
    waited_s: float = 0.0  # in pauses before them


class Ticket(msgspec.Struct):
    """One admitted request, until it is settled or released. `granted` is what its hold holds now, per wallet."""

    call: Call
    request: Request
    principal: Principal
    deployment: Deployment
    paying: tuple[quote.Payer, ...]
    hold: Hold
    admitted: Admitted
    granted: tuple[int, ...]
    input_bound: int  # tokens of the prompt, at most
    cap: int | None
    is_cut: bool  # the wallet covers less output than was asked for, or than the model could make
    rolls: bool  # the hold covers a slice of the output and grows with it
    front: EventFront
    at_ms: int  # when it was admitted, by whose prices
    route: Route
    output_held: int  # tokens over all choices that the hold is for
    sent_at: float = 0.0
    first_byte_at: float = 0.0
    attempts: int = 1
    asked: bool = False  # a provider has got it, for all that is known, and it came to nothing
    tried: Tried | None = None  # once an attempt has failed
    served_model: str = ""  # when another than was asked for is asked
    noted: tuple[str, ...] = ()  # flags of the event: attempts that failed
    retry_after_s: float = 0.0  # as the last provider that failed said
    ended: bool = False
    lease: float = 0.0  # of a stream: until when (as `call.started` counts) its hold cannot have been swept
    relay: Stream | None = None  # of a stream
    made: Made | None = None  # of a stream, once anybody counts it
    input_counted: int | None = None  # tokens of the prompt, once they were counted
    place: Place | None = None  # at a deployment with a capacity, while it is asked
    too_small: int = 0  # tokens of input that a deployment reads at most for which the prompt was too long
    used: Usage | None = None  # once it is settled
    wasted_micro: int = 0  # what attempts that came to nothing cost the platform, by our estimate
