"""Reading a reply piece by piece, as a test wants it."""

from collections.abc import AsyncIterator

from gateway.providers.model import Reply


async def chunks(reply: Reply) -> AsyncIterator[bytes]:
    """Each piece of the body as it arrived; the reply is asked for the next when the last was looked at."""
    pieces: list[bytes] = []

    def take(piece: bytes) -> bool:
        pieces.append(piece)
        return False

    is_whole = False
    while not is_whole:
        is_whole = await reply.relay(take)
        while pieces:
            yield pieces.pop(0)
