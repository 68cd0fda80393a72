"""The keys that sign and check tokens, read from the settings. Each is bound to one algorithm."""

import json
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from pydantic import SecretStr

from ..settings import Settings, SettingsError

PrivateKey = Ed25519PrivateKey | EllipticCurvePrivateKey | RSAPrivateKey
PublicKey = Ed25519PublicKey | EllipticCurvePublicKey | RSAPublicKey
_LEAST_RSA_BITS = 2048


@dataclass(frozen=True, slots=True)
class Key:
    """A key of tokens. It decides which algorithm a token must have; the token's own claim about it is ignored."""

    id: str
    algorithm: str
    verifying: PublicKey | bytes = field(repr=False)
    signing: PrivateKey | bytes | None = field(default=None, repr=False)  # None: only checks
    jwk: Mapping[str, str] | None = None  # its public part, if it has one


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of each kind of token: the first signs, all of them check."""

    access: tuple[Key, ...]
    refresh: tuple[Key, ...]


def read_keys(settings: Settings) -> Keys:
    """Read the keys. Raises SettingsError for an unreadable file, a weak key and a duplicate."""
    path = settings.jwt_private_key_file
    main = _file_key(path, "JWT_PRIVATE_KEY_FILE", signs=True) if path else _secret_key("access", settings.jwt_secret)
    others = _only_check("access", settings.jwt_other_secrets)
    files = [
        _file_key(path, f"JWT_OTHER_KEY_FILES: number {number}")
        for number, path in enumerate(settings.jwt_other_key_files or (), 1)
    ]
    refresh = _secret_key("refresh", settings.jwt_refresh_secret)
    refresh_others = _only_check("refresh", settings.jwt_refresh_other_secrets)
    keys = Keys((main, *others, *files), (refresh, *refresh_others))
    if len({key.id for key in keys.access}) < len(keys.access):
        raise SettingsError(["JWT_OTHER_KEY_FILES: holds a key twice, or the one of JWT_PRIVATE_KEY_FILE"])
    return keys


def _secret_key(kind: str, secret: SecretStr, *, signs: bool = True) -> Key:
    data = secret.get_secret_value().encode()
    key_id = sha256(f"{kind}+jwt:".encode() + data).hexdigest()[:8]
    return Key(key_id, "HS256", data, data if signs else None)


def _only_check(kind: str, secrets: Iterable[SecretStr] | None) -> list[Key]:
    return [_secret_key(kind, secret, signs=False) for secret in secrets or ()]


def _file_key(path: Path, name: str, *, signs: bool = False) -> Key:
    """Read the key in a PEM file. Errors do not show its path: it may be a key that was put in the wrong place."""
    try:
        data = path.read_bytes()
        private = load_pem_private_key(data, None) if signs or b"PRIVATE KEY-----" in data else None
        public = private.public_key() if private else load_pem_public_key(data)
    except OSError as error:
        raise SettingsError([f"{name} cannot be read: {error.strerror}"]) from None
    except (ValueError, TypeError, UnsupportedAlgorithm):  # TypeError: it is encrypted
        raise SettingsError([f"{name} holds no unencrypted PEM key{' that can sign' if signs else ''}"]) from None
    found = _public_part(public)
    if found is None:
        raise SettingsError([f"{name} must hold a key for Ed25519, for P-256, or for RSA with 2048 bits or more"])
    verifying, algorithm, jwk = found
    signing = private if signs and isinstance(private, PrivateKey) else None
    return Key(jwk["kid"], algorithm, verifying, signing, jwk)


def _public_part(key: object) -> tuple[PublicKey, str, dict[str, str]] | None:
    """Return the public key, its algorithm and its JWK; None for a kind of key that is not supported."""
    if isinstance(key, Ed25519PublicKey):
        return key, "EdDSA", _jwk("EdDSA", OKPAlgorithm.to_jwk(key, as_dict=True))
    if isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1):
        return key, "ES256", _jwk("ES256", ECAlgorithm.to_jwk(key, as_dict=True))
    if isinstance(key, RSAPublicKey) and key.key_size >= _LEAST_RSA_BITS:
        return key, "RS256", _jwk("RS256", RSAAlgorithm.to_jwk(key, as_dict=True))
    return None


def _jwk(algorithm: str, numbers: Mapping[str, str]) -> dict[str, str]:
    """Return a JWK whose id is its thumbprint (RFC 7638)."""
    key = {name: numbers[name] for name in ("crv", "e", "kty", "n", "x", "y") if name in numbers}
    digest = sha256(json.dumps(key, separators=(",", ":"), sort_keys=True).encode()).digest()
    return {**key, "kid": urlsafe_b64encode(digest).rstrip(b"=").decode(), "alg": algorithm, "use": "sig"}
