"""Tokens as a forger would make them, as tests/corpora/jwt.json describes them.

A case says what is unlike a genuine token: `header` and `claims` stand in place of its own, null leaves one out,
{"now": -1} is a second ago, and {kind}, {KIND}, {other}, {kid}, {other_kid} and {alg} are filled in. It is signed anew
with `algorithm` (the key's own unless given; "none" leaves the signature empty) and `key`: "own" unless given, "other"
for that of the other kind of token, "public" for what everybody knows of the own one, "guessed" or "empty".
`form` is how the parts are put together; {genuine} is the signature of the genuine token.
"""

import base64
import hmac
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from aiworkspace_server.auth.keys import Key

CASES: list[dict[str, Any]] = json.loads((Path(__file__).parents[1] / "corpora" / "jwt.json").read_text())
GUESSED = b"secret-secret-secret-secret-secret"


@dataclass(frozen=True)
class Kind:
    """A kind of token: how the server is asked to take one, and what a forger starts from."""

    name: str
    key: Key
    other_key: Key
    genuine: str
    present: Callable[[str], Any]

    @property
    def other(self) -> str:
        return "refresh" if self.name == "access" else "access"

    @property
    def public(self) -> bytes:
        if isinstance(self.key.verifying, bytes):
            return self.key.id.encode()
        return self.key.verifying.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    def forge(self, case: Mapping[str, Any]) -> str:
        header, payload, genuine = self.genuine.split(".")
        algorithm = case.get("algorithm", self.key.algorithm)
        new_header = self._change(header, {"alg": algorithm, **case.get("header", {})})
        new_payload = self._change(payload, case.get("claims", {}))
        signature = self.sign(f"{new_header}.{new_payload}", algorithm, case.get("key", "own"))
        form: str = case.get("form", "{header}.{payload}.{signature}")
        return form.format(header=new_header, payload=new_payload, signature=signature, genuine=genuine)

    def sign(self, text: str, algorithm: str = "", key: str = "own") -> str:
        algorithm = algorithm or self.key.algorithm
        if algorithm == "none":
            return ""
        secrets = {"other": self.other_key.signing, "public": self.public, "guessed": GUESSED, "empty": b""}
        chosen: Any = secrets.get(key, self.key.signing)
        if algorithm.startswith("HS"):
            secret = chosen if isinstance(chosen, bytes) else self.public
            return encode(hmac.digest(secret, text.encode(), f"sha{algorithm[2:]}"))
        return encode(jwt.get_algorithm_by_name(algorithm).sign(text.encode(), chosen))

    def _change(self, part: str, changes: Mapping[str, Any]) -> str:
        changed = {**json.loads(decode(part)), **{name: self._filled(value) for name, value in changes.items()}}
        return encode({name: value for name, value in changed.items() if value is not None})

    def _filled(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._filled(each) for each in value]
        if isinstance(value, dict) and value.keys() == {"now"}:
            return int(time.time()) + value["now"]
        if not isinstance(value, str):
            return value
        return value.format(
            kind=self.name,
            KIND=self.name.upper(),
            other=self.other,
            kid=self.key.id,
            other_kid=self.other_key.id,
            alg=self.key.algorithm,
        )


def encode(content: object) -> str:
    data = content if isinstance(content, bytes) else json.dumps(content, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def decode(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
