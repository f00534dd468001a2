"""A step of a data pipeline: fetches one dataset over mutual TLS, with a token that is bound to its certificate.

    fetch_dataset.py SVID-DIRECTORY URL AUDIENCE SERVER-ID

`hostbadge certificate --watch SVID-DIRECTORY` renews the certificate of this agent. SERVER-ID is the SPIFFE ID of the server.
Prints the dataset; exit status 1 and the reason where it is refused.
"""

import http.client
import ssl
import sys
from pathlib import Path
from urllib.parse import urlsplit

import hostbadge

MAX_DATASET = 64 << 20  # bytes

svid, url, audience, server_id = sys.argv[1:]
# One directory for all reads: a renewal replaces the link to it, and not its files.
files = (Path(svid) / "..data").resolve()
context = ssl.create_default_context(cafile=files / "bundle.pem")
# The server is known by its SPIFFE ID, which is compared below, and not by the name of a host.
context.check_hostname = False
context.load_cert_chain(files / "combined.pem")
try:
    token = hostbadge.Client().token(audience, bind="mtls", certificate=(files / "cert.pem").read_text())
except hostbadge.Refused as refused:
    sys.exit(f"no token: {refused}")
target = urlsplit(url)
connection = http.client.HTTPSConnection(target.hostname, target.port, context=context, timeout=30)
connection.connect()
names = connection.sock.getpeercert()["subjectAltName"]
if names != (("URI", server_id),):
    sys.exit(f"the server is another one: {names}")
connection.request("GET", target.path, headers={"Authorization": f"Bearer {token['access_token']}"})
response = connection.getresponse()
body = response.read(MAX_DATASET + 1)
if response.status != 200:
    sys.exit(f"{response.status}: {body.decode(errors='replace').strip()}")
if len(body) > MAX_DATASET:
    sys.exit(f"the dataset has more than {MAX_DATASET} bytes")
sys.stdout.buffer.write(body + b"\n")
