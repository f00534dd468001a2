"""Verifies an HTTP message signature with http-message-signatures: reads {"method", "url", "headers", "body",
"jwk"} as JSON on standard input. Prints the signature's parameters and covered components; exit 1 and the reason if it
is not valid."""

import base64
import hashlib
import json
import sys
from types import SimpleNamespace

from cryptography.hazmat.primitives.asymmetric import ec
from http_message_signatures import HTTPMessageVerifier, HTTPSignatureKeyResolver, algorithms

given = json.load(sys.stdin)


def number(text):
    return int.from_bytes(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), "big")


class Keys(HTTPSignatureKeyResolver):
    def resolve_public_key(self, key_id):
        jwk = given["jwk"]
        point = ec.EllipticCurvePublicNumbers(number(jwk["x"]), number(jwk["y"]), ec.SECP256R1())
        return point.public_key()


message = SimpleNamespace(method=given["method"], url=given["url"], headers=given["headers"])
verifier = HTTPMessageVerifier(signature_algorithm=algorithms.ECDSA_P256_SHA256, key_resolver=Keys())
try:
    (result,) = verifier.verify(message, max_age=None)
except Exception as fault:
    sys.exit(f"invalid: {type(fault).__name__}: {fault}")
if "body" in given:
    digest = base64.b64encode(hashlib.sha256(given["body"].encode()).digest()).decode()
    if given["headers"].get("Content-Digest") != f"sha-256=:{digest}:":
        sys.exit("invalid: the digest is of another body")
print(json.dumps({"covered": list(result.covered_components), "parameters": dict(result.parameters)}, default=str))
