"""Verifies an HTTP message signature with http-message-signatures: reads {"method", "url", "headers", "body",
"jwk"} as JSON on standard input. Prints the signature's parameters and covered components; exit 1 and the reason if it
is not valid.

The library's verifier demands the parameter keyid, which WIMSE's profile forbids: the key is that of the Workload
Identity Token. So its parser, its signature base and its algorithm are called here."""

import base64
import hashlib
import json
import sys
from types import SimpleNamespace

from cryptography.hazmat.primitives.asymmetric import ec
from http_message_signatures import HTTPMessageVerifier, algorithms

given = json.load(sys.stdin)


def number(text):
    return int.from_bytes(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), "big")


message = SimpleNamespace(method=given["method"], url=given["url"], headers=given["headers"])
jwk = given["jwk"]
key = ec.EllipticCurvePublicNumbers(number(jwk["x"]), number(jwk["y"]), ec.SECP256R1()).public_key()
verifier = HTTPMessageVerifier(signature_algorithm=algorithms.ECDSA_P256_SHA256, key_resolver=None)
try:
    ((label, node),) = verifier._parse_signature_dictionary(message.headers["Signature-Input"]).items()
    signature = verifier._parse_signature_dictionary(message.headers["Signature"])[label].value
    base, _, covered = verifier._build_signature_base(
        message, covered_component_ids=list(node), signature_params=node.params
    )
    algorithms.ECDSA_P256_SHA256(public_key=key).verify(signature, base.encode())
except Exception as fault:
    sys.exit(f"invalid: {type(fault).__name__}: {fault}")
digest = base64.b64encode(hashlib.sha256(given["body"].encode()).digest()).decode()
if message.headers.get("Content-Digest") != f"sha-256=:{digest}:":
    sys.exit("invalid: the digest is of another body")
print(json.dumps({"covered": list(covered), "parameters": dict(node.params)}))
