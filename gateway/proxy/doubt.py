"""Which token counts to bill where the upstream's own may not tell the truth: streams that were cut, and absurd numbers."""

from collections.abc import Awaitable, Callable
from typing import Final

from msgspec.structs import replace

from gateway.core.units import Usage
from gateway.proxy.ticket import Ticket
from gateway.proxy.tool_calls import with_calls

MUCH_TOKENS: Final = 131_072  # few models make more in one answer; a count above it is looked at twice
Read = tuple[Usage, tuple[str, ...]]


async def as_counted(ticket: Ticket, told: object, count: Awaitable[Usage]) -> Read:
    """Our own count where the upstream told none that can be used; with what its surface adds that is no token."""
    usage, request = await count, ticket.request
    if request.completed is not None:
        return request.completed(told, request, ticket.deployment, usage)
    return usage, () if told is None else ("usage_unusable",)


async def believed(ticket: Ticket, read: Read, whole: bool, counted: Callable[[], Awaitable[Usage]]) -> tuple[Read, bool]:
    """What to bill, and whether it is the upstream's word.

    An early count of a stream that did not end says nothing of what came after it, so the larger of it and our own
    is taken. A whole answer's count is taken as it is, unless no model could have made or read so much.
    """
    usage, flags = read
    calls = ticket.request.calls
    # Of such a request our count would lack what is no token, which is not told apart; its surface has looked at the rest.
    if ticket.request.units and calls is None:
        if usage.input > 4 * ticket.input_bound:
            return (replace(usage, input=ticket.input_bound), (*flags, "usage_absurd")), True
        return read, True
    if whole:
        most = max(ticket.cap or 0, ticket.request.output_cap or 0, ticket.deployment.output_tokens_max or 0, MUCH_TOKENS)
        most_read = max(ticket.input_bound, ticket.deployment.input_tokens_max or 0, MUCH_TOKENS)
        if usage.output_total <= 4 * most * ticket.request.choices and usage.input_total <= 4 * most_read:
            return read, True
        own = await counted()
        return (own if calls is None else with_calls(own, usage), (*flags, "usage_absurd")), False
    own = await counted()
    if calls is not None:
        own = with_calls(own, usage)
    return (read, True) if usage.output_total >= own.output else ((own, flags), False)
