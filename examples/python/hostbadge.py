"""A client of hostbadge in one file: tokens that are renewed before they expire, proofs, and whoami.

    client = hostbadge.Client()
    headers = client.headers("https://api.example.com", "GET", "https://api.example.com/v1/items")

It needs Python 3.9 or later and no packages. The daemon identifies this process; there is no secret to configure.
"""

import hashlib
import http.client
import json
import os
import socket
import threading
import time

DEFAULT_SOCKET = "/run/hostbadge/agent.sock"
TIMEOUT = 30  # seconds, longer than the daemon's own
MAX_RESPONSE = 4 << 20  # bytes


class Refused(Exception):
    """The daemon refused: `code` is that of RFC 6749, and `retry_after` is in seconds or None."""

    def __init__(self, status, body, retry_after):
        super().__init__(f"{body.get('error')}: {body.get('error_description')}")
        self.status, self.code, self.retry_after = status, body.get("error"), retry_after


class _Connection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=TIMEOUT)
        self._path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Client:
    """Cheap to share between threads. `agent` is needed where this process matches several agents."""

    def __init__(self, path=None, agent=None):
        self._path = path or os.environ.get("HOSTBADGE_SOCKET", DEFAULT_SOCKET)
        self._agent = agent
        self._tokens = {}
        self._lock = threading.Lock()

    def whoami(self):
        """This process, as the daemon identifies it."""
        return self._call("GET", "/v1/whoami")

    def token(self, audience, scope=None, bind=None, certificate=None):
        """The token response for an audience (RFC 6749 section 5.1), from the cache for half of its lifetime. With `bind` of
        "mtls", `certificate` is the agent's own, in PEM."""
        key = (audience, scope, bind, certificate)
        with self._lock:
            now = time.monotonic()
            self._tokens = {name: kept for name, kept in self._tokens.items() if now < kept[1]}
            if key in self._tokens:
                return self._tokens[key][0]
            request = {"audience": audience, "scope": scope, "bind": bind, "certificate": certificate}
            token = self._post("/v1/token", **request)
            self._tokens[key] = (token, time.monotonic() + token["expires_in"] / 2)
            return token

    def prove(self, kind, method, url, body=None, token=None, nonce=None):
        """The headers of a proof for this one request; `body` is bytes."""
        digest = None if body is None else hashlib.sha256(body).hexdigest()
        request = {"kind": kind, "method": method, "url": url, "body_sha256": digest, "token": token, "nonce": nonce}
        return self._post("/v1/prove", **request)["headers"]

    def headers(self, audience, method, url, scope=None, nonce=None):
        """`Authorization` for a request, and the DPoP proof where the token is bound to a key."""
        token = self.token(audience, scope)
        headers = {"Authorization": f"{token['token_type']} {token['access_token']}"}
        if token["token_type"] == "DPoP":
            headers.update(self.prove("dpop", method, url, token=token["access_token"], nonce=nonce))
        return headers

    def introspect(self, token, **members):
        """Whether a token of this host is valid now (RFC 7662); this process has to be an agent."""
        members["token"] = token
        return self._call("POST", "/v1/introspect", members)

    def _post(self, path, **members):
        members["agent"] = self._agent
        return self._call("POST", path, {name: value for name, value in members.items() if value is not None})

    def _call(self, method, path, request=None):
        connection = _Connection(self._path)
        try:
            body = None if request is None else json.dumps(request)
            connection.request(method, path, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            answer = json.loads(response.read(MAX_RESPONSE))
        finally:
            connection.close()
        if response.status != 200:
            retry_after = response.getheader("Retry-After")
            raise Refused(response.status, answer, int(retry_after) if retry_after else None)
        return answer
