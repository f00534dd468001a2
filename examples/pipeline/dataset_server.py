"""A server of datasets over mutual TLS. Each dataset is an audience of its own, and a request needs a token for it that is
bound to the client certificate of the connection (RFC 8705).

    dataset_server.py SVID-DIRECTORY PORT ORIGIN DATASET=TEXT…

The server is an agent: `hostbadge certificate --watch SVID-DIRECTORY` renews its certificate. GET /DATASET answers with TEXT,
to an agent with a token for the audience ORIGIN/DATASET.
"""

import http.server
import ssl
import sys
from pathlib import Path

import hostbadge

TIMEOUT = 30  # seconds, for each read of a connection


class Handler(http.server.BaseHTTPRequestHandler):
    timeout = TIMEOUT

    def setup(self):
        # In the thread of the connection, with the certificate of this moment: it is renewed.
        files = (self.server.svid / "..data").resolve()
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=files / "bundle.pem")
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_cert_chain(files / "combined.pem")
        self.request.settimeout(TIMEOUT)
        self.request = context.wrap_socket(self.request, server_side=True)
        super().setup()

    def do_GET(self):
        dataset = self.path.removeprefix("/")
        kind, _, token = self.headers.get("Authorization", "").partition(" ")
        if dataset not in self.server.datasets:
            return self.respond(404, b"no such dataset\n")
        if kind.lower() != "bearer":
            return self.respond(401, b"a token is missing\n")
        certificate = ssl.DER_cert_to_PEM_cert(self.request.getpeercert(binary_form=True))
        audience = f"{self.server.origin}/{dataset}"
        try:
            claims = self.server.client.introspect(token, audience=audience, certificate=certificate)
        except (OSError, ValueError, hostbadge.Refused):
            return self.respond(503, b"tokens cannot be checked\n")
        # A token that is bound to nothing would be of use to a thief.
        if not claims.get("active") or "x5t#S256" not in claims.get("cnf", {}):
            return self.respond(403, b"the token is not valid for this dataset on this connection\n")
        self.respond(200, self.server.datasets[dataset].encode())

    def respond(self, status, body):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        print(f"{client_address}: {sys.exc_info()[1]}", file=sys.stderr, flush=True)


svid, port, origin, *datasets = sys.argv[1:]
with Server(("127.0.0.1", int(port)), Handler) as server:
    server.svid, server.origin, server.client = Path(svid), origin, hostbadge.Client()
    server.datasets = dict(dataset.split("=", 1) for dataset in datasets)
    print(f"serving {', '.join(server.datasets)} on port {server.server_port}", flush=True)
    server.serve_forever()
