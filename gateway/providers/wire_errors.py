"""What can go wrong with an exchange on the wire; said to callers by `direct`."""


class WireError(Exception):
    """An exchange cannot go on; its connection is gone."""


class Lost(WireError):
    """The connection ended before the answer did."""


class Silent(WireError):
    """Nothing came for too long. `unread`: the server has not even taken the request."""

    def __init__(self, *, unread: bool) -> None:
        super().__init__()
        self.unread = unread


class Invalid(WireError):
    """What came is no answer that is accepted here. The text says why, without the server's own words."""


class TooLarge(WireError):
    """The body is larger than the reader accepts."""
