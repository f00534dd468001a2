// An authorization server: authorization_server.mjs PORT JWKS-FILE. Two clients get tokens for themselves: client-1
// authenticates by an assertion (private_key_jwt), client-2 by an attestation. Both need DPoP with a nonce of the server.
// The keys in the file verify the assertions and attestations.

import { createPublicKey } from "node:crypto";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

// LIBRARIES is the directory of the libraries, since this file is not in a package.
const require = createRequire(process.env.LIBRARIES + "/");
const { default: Provider } = await import(pathToFileURL(require.resolve("oidc-provider")));
const [port, file] = process.argv.slice(2);
const jwks = JSON.parse(readFileSync(file));
const client = (client_id, token_endpoint_auth_method, more) => ({
  client_id,
  token_endpoint_auth_method,
  grant_types: ["client_credentials"],
  redirect_uris: [],
  response_types: [],
  dpop_bound_access_tokens: true,
  ...more,
});
const provider = new Provider(`http://127.0.0.1:${port}`, {
  clients: [
    client("client-1", "private_key_jwt", { jwks, token_endpoint_auth_signing_alg: "ES256" }),
    client("client-2", "attest_jwt_client_auth"),
  ],
  clientAuthMethods: ["private_key_jwt", "attest_jwt_client_auth"],
  features: {
    attestClientAuth: {
      ack: "draft-12",
      enabled: true,
      challengeSecret: Buffer.alloc(32, 1),
      getAttestationSignaturePublicKey: (_, header) =>
        createPublicKey({ key: jwks.keys.find((key) => key.kid === header.kid), format: "jwk" }),
      assertAttestationJwtAndPop: () => {},
    },
    clientCredentials: { enabled: true },
    devInteractions: { enabled: false },
    dPoP: { enabled: true, nonceSecret: Buffer.alloc(32, 2), requireNonce: () => true },
    introspection: { enabled: true },
  },
});
provider.on("server_error", (_, fault) => console.error(fault));
provider.on("grant.error", (_, fault) => console.error(fault.error_description, fault.error_detail, fault.cause ?? ""));
provider.listen(Number(port), "127.0.0.1");
