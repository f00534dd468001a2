"""Verifies a token with PyJWT: verify.py JWKS-FILE TOKEN AUDIENCE. Prints the claims; exit 1 and the reason if invalid."""

import json
import sys

import jwt

file, token, audience = sys.argv[1:]
with open(file) as stream:
    keys = jwt.PyJWKSet.from_dict(json.load(stream))
try:
    header = jwt.get_unverified_header(token)
    claims = jwt.decode(
        token,
        keys[header["kid"]].key,
        algorithms=["ES256", "RS256"],
        audience=audience,
        options={"require": ["iss", "sub", "aud", "exp", "iat", "jti"]},
    )
except jwt.PyJWTError as fault:
    sys.exit(f"invalid: {type(fault).__name__}")
print(json.dumps(claims))
