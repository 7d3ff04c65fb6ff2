"""A sum of which nobody sees a part: every two sites share a mask that one adds and the other subtracts.

Knows nothing of what is summed. Numbers become fixed-point integers modulo 2^32, masks are ChaCha20 streams under keys
that each pair of sites derives (ECDH on P-384, HKDF) for one context: run, round, attempt, participants. The public
keys are pinned at every site beforehand: were they brought by the server, it could put its own in between. Rule:
Bonawitz et al. 2017 without secret shares: where a site drops out the sum is lost and the others begin a new attempt.
The server is taken to follow the protocol; it learns nothing but sums.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from medseg.errors import SiteError
from medseg.federation.messages import Arrays

FEWEST_SITES = 3
"""Of a sum of two, each of the two knows the other's part."""
_BITS = 20
"""Places behind the point: a sum of n numbers is exact to n / 2^21."""
_USED = "secure_sum_contexts.txt"


@dataclass(frozen=True)
class Context:
    """What a set of masks is for; used once."""

    run: str
    round: int
    attempt: int
    participants: tuple[str, ...]

    def to_bytes(self) -> bytes:
        """As it enters the derivation of keys."""
        names = sorted(self.participants)
        return json.dumps(["medseg-secure-sum-1", self.run, self.round, self.attempt, names]).encode()

    @property
    def slot(self) -> str:
        """What may be answered once, whoever takes part."""
        return json.dumps([self.run, self.round, self.attempt])


class MaskingSite:
    """One site's side: its private key, the pinned public keys of the others, and the contexts that it has used."""

    def __init__(self, name: str, private_key: bytes, public_keys: Mapping[str, bytes], folder: Path) -> None:
        """Keys are PEM; ``folder`` is the site's own. Raises SiteError for keys that are none on P-384."""
        self.name, self._folder = name, folder
        self._private = _read_private(private_key)
        self._peers = {peer: _read_public(pem) for peer, pem in public_keys.items() if peer != name}

    def mask(self, arrays: Arrays, context: Context) -> dict[str, np.ndarray]:
        """The arrays as uint32, which look random alone and add up to the participants' sum.

        Raises SiteError: ``secure-sum-too-few`` below three participants, ``secure-sum-unknown-site`` where a key is
        not pinned, ``secure-sum-replayed`` for an attempt that was answered before, ``not-finite`` or
        ``secure-sum-too-large`` for numbers that do not fit.
        """
        self.require_open(context)
        others = [peer for peer in sorted(context.participants) if peer != self.name]
        masked = {name: to_fixed_point(arrays[name], len(context.participants)) for name in sorted(arrays)}
        self._use_once(context)
        for peer in others:
            stream = Cipher(ChaCha20(self._key(peer, context), bytes(16)), mode=None).encryptor()
            for name, numbers in masked.items():
                mask = np.frombuffer(stream.update(bytes(4 * numbers.size)), "<u4").reshape(numbers.shape)
                combine = np.add if self.name < peer else np.subtract  # as functions they wrap around in silence
                masked[name] = np.asarray(combine(numbers, mask))
        return masked

    def require_open(self, context: Context) -> None:
        """Raise SiteError, as ``mask`` would, for a context in which nothing will be masked."""
        names = context.participants
        if self.name not in names or len(set(names)) != len(names) or not set(names) <= {self.name, *self._peers}:
            raise SiteError("secure-sum-unknown-site")
        if len(names) < FEWEST_SITES:
            raise SiteError("secure-sum-too-few")
        path = self._folder / _USED
        if path.is_file() and context.slot in path.read_text(encoding="utf-8").splitlines():
            raise SiteError("secure-sum-replayed")

    def _key(self, peer: str, context: Context) -> bytes:
        """The key of this pair for this context, the same on both sides."""
        shared = self._private.exchange(ec.ECDH(), self._peers[peer])
        pair = json.dumps(sorted((self.name, peer))).encode()
        return HKDF(hashes.SHA256(), 32, salt=None, info=context.to_bytes() + pair).derive(shared)

    def _use_once(self, context: Context) -> None:
        """Noted on the disk first: two vectors under the same masks would give away their difference."""
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / _USED
        with path.open("a+", encoding="utf-8") as stream:
            stream.seek(0)
            if context.slot in stream.read().splitlines():
                raise SiteError("secure-sum-replayed")
            stream.write(context.slot + "\n")
            stream.flush()
            os.fsync(stream.fileno())


def new_keys() -> tuple[bytes, bytes]:
    """A fresh pair for one site: private and public, both PEM."""
    key = ec.generate_private_key(ec.SECP384R1())
    form = serialization.PrivateFormat.PKCS8
    private = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    return private, key.public_key().public_bytes(serialization.Encoding.PEM, spki)


def unmasked_sum(masked: Mapping[str, Arrays], participants: Sequence[str]) -> dict[str, np.ndarray]:
    """The participants' sum, float64. Raises SiteError where one of them is missing: the others' masks stay."""
    if set(masked) != set(participants):
        raise SiteError("secure-sum-incomplete")
    first, *rest = (masked[name] for name in sorted(masked))
    for arrays in (first, *rest):
        shapes = {name: array.shape for name, array in arrays.items()}
        if shapes != {name: array.shape for name, array in first.items()}:
            raise SiteError("bad-update-names")
        if any(array.dtype != np.uint32 for array in arrays.values()):
            raise SiteError("bad-update-type")
    summed = dict(first)
    for arrays in rest:
        summed = {name: np.add(total, arrays[name]) for name, total in summed.items()}
    return {name: np.asarray(np.asarray(total).astype(np.int32) / 2.0**_BITS) for name, total in summed.items()}


def to_fixed_point(array: np.ndarray, sites: int) -> NDArray[np.uint32]:
    """Rounded to 2^-20, modulo 2^32. Raises SiteError where a sum of so many such numbers could wrap around."""
    if not np.isfinite(array).all():
        raise SiteError("not-finite")
    scaled = np.rint(array.astype(np.float64) * 2**_BITS)
    if np.abs(scaled).max(initial=0.0) >= 2**31 / sites:
        raise SiteError("secure-sum-too-large")
    return scaled.astype(np.int64).astype(np.uint32)


def is_public_key(pem: bytes) -> bool:
    """Whether this is a public key that a site could have."""
    try:
        _read_public(pem)
    except SiteError:
        return False
    return True


def _read_private(pem: bytes) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError):
        raise SiteError("secure-sum-bad-key") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp384r1":
        raise SiteError("secure-sum-bad-key")
    return key


def _read_public(pem: bytes) -> ec.EllipticCurvePublicKey:
    try:
        key = serialization.load_pem_public_key(pem)
    except ValueError:
        raise SiteError("secure-sum-bad-key") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp384r1":
        raise SiteError("secure-sum-bad-key")
    return key
