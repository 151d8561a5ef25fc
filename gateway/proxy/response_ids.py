"""Ids of responses as clients see them: ours, because one provider's key serves many apps.

Whoever knows the provider's own id could read, continue or delete the response through that key. So a client gets an
id that carries the provider's and the deployment that has it, with a MAC over both, the app, the level and the end user:
under another app, or for another end user, it does not verify, and looks like one that never was. Nothing is stored.
"""

import base64
import binascii
import hmac
from typing import Any, Final

import msgspec

from gateway.core.words import Level
from gateway.identity.model import Principal
from gateway.providers.model import Deployment
from gateway.proxy.refusals import without_secrets

_PREFIX: Final = "resp_"
_MAC_BYTES: Final = 16
_CHARS_MAX: Final = 2048
_encode: Final = msgspec.json.Encoder().encode


class Owner(msgspec.Struct, frozen=True):
    """Whose a response is: an app's, at one level, and there one end user's."""

    enterprise_id: str
    level: Level
    end_user: str

    @classmethod
    def of(cls, principal: Principal, end_user: str | None) -> "Owner":
        """Of what this caller makes for this end user."""
        return cls(principal.app.enterprise_id, principal.level, end_user or "")


class Stored(msgspec.Struct, frozen=True):
    """Where a response is: the deployment's id, and the id that it has there."""

    deployment_id: str
    response_id: str


class ResponseIds:
    """Makes such ids, and opens them."""

    def __init__(self, pepper: bytes) -> None:
        self._key = hmac.digest(pepper, b"response-id:v1", "sha256")

    def issued(self, owner: Owner, stored: Stored) -> str:
        """The id that the owner is told."""
        inside = f"{stored.deployment_id}\0{stored.response_id}".encode()
        return _PREFIX + base64.urlsafe_b64encode(self._mac(owner, inside) + inside).rstrip(b"=").decode()

    def opened(self, owner: Owner, text: str) -> Stored | None:
        """What an id stands for; None for one that was not issued to this owner."""
        if not text.startswith(_PREFIX) or len(text) > _CHARS_MAX:
            return None
        packed = text.removeprefix(_PREFIX)
        try:
            raw = base64.b64decode(packed + "=" * (-len(packed) % 4), altchars=b"-_", validate=True)
            mac, inside = raw[:_MAC_BYTES], raw[_MAC_BYTES:]
            if not hmac.compare_digest(mac, self._mac(owner, inside)):
                return None
            deployment_id, _, response_id = inside.decode().partition("\0")
        except (binascii.Error, ValueError):
            return None
        return Stored(deployment_id, response_id)

    def _mac(self, owner: Owner, inside: bytes) -> bytes:
        whose = _encode([owner.enterprise_id, owner.level, owner.end_user])  # JSON: no two owners have the same bytes
        return hmac.digest(self._key, whose + b"\0" + inside, "sha256")[:_MAC_BYTES]


class OwnNames:
    """Responses of one deployment as their owner sees them; see `responses_stream.Names`."""

    def __init__(self, ids: ResponseIds, owner: Owner, deployment: Deployment, given: tuple[str, str] | None = None) -> None:
        """`given` is a provider's id, and how the client itself wrote it in this request."""
        self._ids = ids
        self._owner = owner
        self._deployment = deployment
        self._given = given

    def renamed(self, response: dict[str, Any]) -> dict[str, Any]:
        """The same fields, raw or decoded, with ids of ours in the place of the provider's."""
        return {**response, **{name: self._own(response[name]) for name in _NAMES if response.get(name) is not None}}

    def cleaned(self, words: str) -> str:
        """As `refusals.without_secrets`."""
        return without_secrets(words, self._deployment)

    def _own(self, value: Any) -> Any:
        if type(value) is msgspec.Raw:
            try:
                value = msgspec.json.decode(value)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                return None  # no id that anybody could use
        if type(value) is not str:
            return value
        if self._given is not None and value == self._given[0]:
            return self._given[1]
        return self._ids.issued(self._owner, Stored(self._deployment.id, value))


_NAMES: Final = ("id", "previous_response_id")
