"""A client of the Workload API with py-spiffe: workload.py AUDIENCE. The socket is SPIFFE_ENDPOINT_SOCKET.

Prints JSON: the token, what validation says, then the names of the keys, once now and once after they have changed, and
the X509-SVID, once now and once after it was renewed.
"""

import base64
import json
import sys
import threading

from cryptography.hazmat.primitives.serialization import Encoding
from spiffe import WorkloadApiClient

audience = sys.argv[1]


def say(value):
    print(json.dumps(value), flush=True)


def kids(bundles):
    return sorted(kid for bundle in bundles.bundles for kid in bundle.jwt_authorities)


with WorkloadApiClient() as client:
    svid = client.fetch_jwt_svid({audience})
    say({"spiffe_id": str(svid.spiffe_id), "token": svid.token})
    say({"valid": str(client.validate_jwt_svid(svid.token, audience).spiffe_id)})
    try:
        client.fetch_jwt_svid({"https://bank.example.com"})
    except Exception as fault:  # pylint: disable=broad-except
        say({"denied": "PERMISSION_DENIED" in str(fault)})
    changed = threading.Semaphore(0)

    def pushed(bundles):
        say({"kids": kids(bundles)})
        changed.release()

    def broken(fault):
        sys.exit(f"the stream broke: {fault}")

    client.stream_jwt_bundles(pushed, broken)
    for _ in range(2):
        if not changed.acquire(timeout=30):
            sys.exit("nothing was pushed")

    def shown(context):
        svid = context.default_svid
        bundle = context.x509_bundle_set.get_bundle_for_trust_domain(svid.spiffe_id.trust_domain)
        leaf = base64.b64encode(svid.leaf.public_bytes(Encoding.DER)).decode()
        certified = svid.private_key.public_key() == svid.leaf.public_key() and bool(bundle.x509_authorities)
        say({"x509": str(svid.spiffe_id), "leaf": leaf, "holds": certified})
        changed.release()

    bundles = client.fetch_x509_bundles()
    say({"domains": sorted(bundle.trust_domain.name for bundle in bundles.bundles)})
    context = client.fetch_x509_context()
    assert context.default_svid.spiffe_id == svid.spiffe_id
    client.stream_x509_contexts(shown, broken)
    for _ in range(2):
        if not changed.acquire(timeout=60):
            sys.exit("the certificate was not renewed")
