"""Tools that the provider runs itself, such as searches of the web: what they may cost at most, and how often they may run.

Each has a fee of its own, a kind of `core.units.TOOL_KINDS`, and makes the model read on: whatever a call brings in, and all that
was there before, once more. Nobody knows beforehand how much that is, so each call is held as all that the model can read, or as
the operator has it.
How often they may run is sent upstream: as the client bounds it, else as the deployment's `tool_calls` says, and less where the
wallet does not cover that.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from msgspec.structs import replace

from gateway.balance.model import SPEND_KINDS, Limit, RefusedByLimit, RefusedByWallet
from gateway.core.errors import InvalidRequest
from gateway.core.units import TOOL_KINDS, Usage
from gateway.core.words import HoldPolicy
from gateway.metering.usage import UNBOUNDED_PART_TOKENS
from gateway.pricing.rates import Rates, short_of
from gateway.providers.model import Deployment
from gateway.proxy.surface import Measured, Request

_HEADER: Final = b"x-mozaiks-tool-calls"
_BELIEVED: Final = 4  # times what was held, as everywhere


def placed(request: Request, deployment: Deployment) -> None:
    """Bound the calls of a request at the deployment that is to be asked, unless they are already. InvalidRequest."""
    calls = request.calls
    assert calls is not None
    if calls.check_served is not None:
        calls.check_served(calls, deployment)
    sizes = [size for size in (deployment.input_tokens_max, calls.reads_most) if size]
    longest = max(min(sizes, default=UNBOUNDED_PART_TOKENS), calls.reads_least)
    calls.window = min(longest, deployment.tool_call_tokens or longest)
    if not calls.number:
        calls.default = deployment.tool_calls
        own = max([tool.most or calls.default for tool in calls.tools])
        calls.number = calls.asked or (calls.default if calls.together else own)
    if request.body:  # which is not kept for further attempts
        calls.first = request.surface.bound(request, replace(deployment, input_tokens_max=None)) - calls.tokens
    calls.longest = max(calls.window, min(calls.first, deployment.input_tokens_max or calls.first))
    # Its prompts are many and told as one sum, which alone makes none of them a long one.
    request.variant = short_of(calls.longest)
    request.units = calls.units()


def check_priced(request: Request, rates: Rates) -> None:
    """InvalidRequest for a tool that has no price among these: it must not be had for that of its tokens."""
    assert request.calls is not None
    for tool in request.calls.tools:
        if tool.kind and not getattr(rates, tool.kind):
            told = f"a tool of the type {tool.type!r} has no price here: all prices of {request.model}"
            raise InvalidRequest(f"{told}, the app's own too, must name {tool.kind}", param=tool.param)


def fewer(
    request: Request,
    refused: RefusedByWallet | RefusedByLimit,
    counted: Sequence[Limit],
    rates: Sequence[Rates],
    bound: int,
    least: int,
    policy: HoldPolicy,
) -> tuple[int, int] | None:
    """After a refusal: as many calls as what is left covers beside `bound` tokens read, theirs among them, and `least` made.

    Where one call is too many, the output may be the least that there is. The new bound and least; None: nothing can be less.
    """
    calls, may = request.calls, policy == HoldPolicy.CLAMP
    assert calls is not None
    if isinstance(refused, RefusedByWallet):
        left, rate = refused.available_micro, rates[refused.charge]
    else:
        limit = counted[refused.limit]
        left, rate = limit.maximum - refused.used, rates[0]
        if limit.kind not in SPEND_KINDS:
            return None
    prompt = bound - calls.tokens
    if calls.number > 1 and (may or not calls.is_bounded):
        calls.number -= 1
        while calls.number > 1:
            if rate.ceiling(prompt + calls.tokens, least) + rate.units_price(calls.units()) <= left:
                break
            calls.number -= 1
        request.units, calls.is_cut = calls.units(), True
        return prompt + calls.tokens, least
    if least > request.choices and (may or request.output_cap is None):
        return bound, request.choices
    return None


def tell_cut(request: Request, headers: list[tuple[bytes, bytes]]) -> None:
    """Say in the answer's headers how often its tools may run, where the wallet covers less than was asked for."""
    calls = request.calls
    if calls is not None and calls.is_cut:
        headers[:] = [each for each in headers if each[0] != _HEADER] + [(_HEADER, b"%d" % calls.number)]


def with_calls(counted: Usage, of: Mapping[str, int] | Usage) -> Usage:
    """A count of tokens, with the calls that were seen."""
    if isinstance(of, Usage):
        of = {kind: getattr(of, kind) for kind in TOOL_KINDS}
    return replace(counted, **of)


def credible(found: Measured, request: Request) -> Measured:
    """Calls told far above what was held are taken for what was held, with the flag `usage_absurd`."""
    usage, flags = found
    held = {**dict.fromkeys(TOOL_KINDS, 0), **dict(request.units)}
    absurd = {kind: most for kind, most in held.items() if getattr(usage, kind) > _BELIEVED * most}
    return (replace(usage, **absurd), (*flags, "usage_absurd")) if absurd else found


