"""Signs a request with botocore's own signer: reads {"access_key", "secret_key", "session_token", "region", "service",
"method", "url", "headers", "body"} as JSON on standard input, where headers have the X-Amz-Date of the signature.
Prints the value of Authorization."""

import json
import sys

from botocore.auth import SigV4Auth, S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

given = json.load(sys.stdin)
credentials = Credentials(given["access_key"], given["secret_key"], given["session_token"])
signer_type = S3SigV4Auth if given["service"] == "s3" else SigV4Auth
signer = signer_type(credentials, given["service"], given["region"])
request = AWSRequest(
    method=given["method"], url=given["url"], headers=given["headers"], data=given["body"].encode()
)
# The signer takes the time of its context, and not one of its own.
request.context["timestamp"] = given["headers"]["X-Amz-Date"]
del request.headers["X-Amz-Security-Token"]
signer._modify_request_before_signing(request)
signature = signer.signature(signer.string_to_sign(request, signer.canonical_request(request)), request)
signer._inject_signature_to_request(request, signature)
print(request.headers["Authorization"])
