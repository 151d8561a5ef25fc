"""Secrets that must be read again, as a creator's provider key: encrypted at rest, and bound to whose they are.

AES-256-GCM under a key that HKDF (RFC 5869) derives from the key pepper, so that a copy of the database is worth nothing without
the gateway's secrets. What is sealed names the key by which it was (`key_id`): another pepper has another one, and what
cannot be opened is told from what was tampered with.
"""

import base64
import os
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

_NONCE_BYTES: Final = 12  # NIST SP 800-38D, 8.2.2: random, for far fewer than 2**32 messages a key


class Seal:
    """Seals and opens short texts."""

    def __init__(self, pepper: bytes) -> None:
        self._cipher = AESGCM(_derived(pepper, b"mozaiks provider keys v1", 32))
        self.key_id = _derived(pepper, b"mozaiks provider keys v1: name of the key", 4).hex()

    def seal(self, text: str, about: str) -> str:
        """The text as nobody can read it; it opens with the same `about` only."""
        nonce = os.urandom(_NONCE_BYTES)
        return base64.b64encode(nonce + self._cipher.encrypt(nonce, text.encode(), about.encode())).decode()

    def open(self, sealed: str, about: str) -> str | None:
        """The text again; None where it was sealed by another key, about something else, or changed since."""
        try:
            raw = base64.b64decode(sealed, validate=True)
            return self._cipher.decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], about.encode()).decode()
        except (InvalidTag, ValueError):
            return None


def _derived(pepper: bytes, what_for: bytes, size: int) -> bytes:
    return HKDF(SHA256(), size, salt=None, info=what_for).derive(pepper)
