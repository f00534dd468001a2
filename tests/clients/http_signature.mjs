// Verifies an HTTP message signature with http-message-sig: reads {"method", "url", "headers", "body", "jwk"} as JSON on
// standard input. Prints the signature's parameters and covered components; exit 1 and the reason if it is not valid.
// The library builds the signature base and checks the policy; the algorithm, which it leaves to its caller, is Node's.

import { createHash, createPublicKey, verify } from "node:crypto";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

// LIBRARIES is the directory of the libraries, since this file is not in a package.
const require = createRequire(process.env.LIBRARIES + "/");
const { verifySignature } = await import(pathToFileURL(require.resolve("http-message-sig")));
const given = JSON.parse(readFileSync(0));
const key = createPublicKey({ key: given.jwk, format: "jwk" });
const verifier = {
  algorithm: "ecdsa-p256-sha256",
  verify: (data, signature) => verify("sha256", data, { key, dsaEncoding: "ieee-p1363" }, signature),
};
const { pathname, search } = new URL(given.url);
const message = {
  kind: "request",
  method: given.method,
  targetUri: given.url,
  requestTarget: pathname + search,
  fields: Object.entries(given.headers).map(([name, value]) => ({ name, value })),
};
const policy = {
  algorithms: [verifier.algorithm],
  requiredComponents: ["@method", "@request-target", "content-digest", "workload-identity-token"],
  requiredParameters: ["created", "expires", "nonce", "tag"],
  maxAge: 60,
  clockSkew: 5,
};
try {
  const valid = await verifySignature(message, { policy, resolveVerifier: () => verifier });
  const digest = createHash("sha256").update(given.body).digest("base64");
  if (given.headers["Content-Digest"] !== `sha-256=:${digest}:`) throw new Error("the digest is of another body");
  const covered = valid.components.map((component) => component.name);
  console.log(JSON.stringify({ covered, parameters: valid.parameters }));
} catch (fault) {
  console.error(`invalid: ${fault.code ?? fault.name}: ${fault.message}`);
  process.exit(1);
}
