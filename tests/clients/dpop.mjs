// A resource server with oauth4webapi: dpop.mjs JWKS-FILE ISSUER AUDIENCE METHOD URL TOKEN PROOF. Prints the claims of
// the token; exit 1 and the reason if it refuses the request.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

// LIBRARIES is the directory of the libraries, since this file is not in a package.
const require = createRequire(process.env.LIBRARIES + "/");
const oauth = await import(pathToFileURL(require.resolve("oauth4webapi")));
const [file, issuer, audience, method, url, token, proof] = process.argv.slice(2);
const server = { issuer, jwks_uri: "https://keys.invalid/jwks.json" };
const request = new Request(url, { method, headers: { authorization: `DPoP ${token}`, dpop: proof } });
const keys = async () =>
  new Response(readFileSync(file), { headers: { "content-type": "application/json" } });
try {
  const claims = await oauth.validateJwtAccessToken(server, request, audience, {
    requireDPoP: true,
    [oauth.customFetch]: keys,
  });
  console.log(JSON.stringify(claims));
} catch (fault) {
  console.error(`refused: ${fault.code ?? fault.name}: ${fault.message}`);
  process.exit(1);
}
