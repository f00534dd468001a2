"""Protects an ASGI application: each HTTP request needs a token of this host, and the proof to which it is bound.

    app = Protected(app, audience="https://api.example.com", origin="https://api.example.com")

The service itself is an agent, so that it may introspect (POST /v1/introspect). `origin` is the service's own, by its
configuration: a header such as Host could name another one. The claims are in `scope["hostbadge"]`.
"""

import asyncio

import hostbadge


class Protected:
    def __init__(self, app, audience, origin, client=None):
        self.app, self.audience, self.origin = app, audience, origin
        self.client = client or hostbadge.Client()

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            claims = await asyncio.to_thread(self.introspect, scope)
        except (OSError, ValueError, hostbadge.Refused):
            await respond(send, 503, b"")
            return
        if not claims.get("active"):
            await respond(send, 401, b'DPoP algs="ES256"')
            return
        scope["hostbadge"] = claims
        await self.app(scope, receive, send)

    def introspect(self, scope):
        """The claims of the request's token, or {"active": False}."""
        fields = [(name, value.decode("latin-1")) for name, value in scope["headers"]]
        given = [value for name, value in fields if name == b"authorization"]
        proofs = [value for name, value in fields if name == b"dpop"]
        if len(given) != 1 or len(proofs) > 1:
            return {"active": False}
        kind, _, token = given[0].partition(" ")
        request = {"token": token, "audience": self.audience}
        if proofs:
            url = self.origin + (scope.get("raw_path") or scope["path"].encode()).decode("latin-1")
            request.update(proof=proofs[0], method=scope["method"], url=url)
        claims = self.client.introspect(**request)
        # A bound token without its proof is a stolen one.
        is_bound = "cnf" in claims
        if kind.lower() != claims.get("token_type", "").lower() or is_bound != bool(proofs):
            return {"active": False}
        return claims


async def respond(send, status, challenge):
    headers = [(b"www-authenticate", challenge)] if challenge else []
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b""})
