"""API keys and stored secrets.

A key has 160 random bits, so a keyed hash (HMAC-SHA256 under the deployment's secret) is enough to store it; secrets that
must be read again, such as a judge's key, are sealed with AES-256-GCM under a key derived from the same secret.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
PREFIX_LENGTH = 11


def new_api_key() -> str:
    """A fresh key, `gk_` and 27 characters."""
    return "gk_" + "".join(secrets.choice(_ALPHABET) for _ in range(27))


class Vault:
    """What the deployment's secret is used for."""

    def __init__(self, secret: str) -> None:
        material = secret.encode()
        self._pepper = _derive(material, b"grape api keys")
        self._sealing = AESGCM(_derive(material, b"grape stored secrets"))

    def hash_key(self, key: str) -> str:
        """What is stored of an API key."""
        return hmac.new(self._pepper, key.encode(), hashlib.sha256).hexdigest()

    def seal(self, secret: str, owner: str) -> bytes:
        """Encrypt for the row `owner`; the ciphertext opens for no other row."""
        nonce = os.urandom(12)
        return nonce + self._sealing.encrypt(nonce, secret.encode(), owner.encode())

    def open(self, sealed: bytes, owner: str) -> str:
        """The secret again; `ValueError` if the deployment's secret has changed."""
        try:
            return self._sealing.decrypt(sealed[:12], sealed[12:], owner.encode()).decode()
        except InvalidTag:
            raise ValueError(f"the secret of {owner} was sealed under another GRAPE_SECRET_KEY; set it anew") from None


def _derive(material: bytes, purpose: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=purpose).derive(material)
