"""Verifies a new token as a relying party whose clock is behind, with the default leeways of two libraries:
slow_clock.py JWKS-FILE TOKEN SECONDS. Prints "accepted by NAME" or "refused by NAME: why" for each."""

import json
import sys
import time
import warnings

warnings.simplefilter("ignore")
from authlib.jose import JsonWebKey, jwt as authlib_jwt
from joserfc import jwt
from joserfc.jwk import KeySet

file, token, seconds = sys.argv[1:]
with open(file) as stream:
    keys = json.load(stream)
now = int(time.time()) - int(seconds)


def joserfc():
    decoded = jwt.decode(token, KeySet.import_key_set(keys), algorithms=["ES256"])
    jwt.JWTClaimsRegistry(now=now).validate(decoded.claims)


def authlib():
    authlib_jwt.decode(token, JsonWebKey.import_key_set(keys)).validate(now=now)


for library in [joserfc, authlib]:
    try:
        library()
        print(f"accepted by {library.__name__}")
    except Exception as fault:
        print(f"refused by {library.__name__}: {fault}")
