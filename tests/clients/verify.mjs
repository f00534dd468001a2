// Verifies a token with jose: verify.mjs JWKS-FILE TOKEN AUDIENCE. Prints the claims; exit 1 and the reason
// if invalid.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

// JOSE is the directory of the library, since this file is not in a package.
const jose = await import(pathToFileURL(createRequire(process.env.JOSE + "/").resolve("jose")));
const [file, token, audience] = process.argv.slice(2);
try {
  const keys = jose.createLocalJWKSet(JSON.parse(readFileSync(file, "utf8")));
  const options = { audience, algorithms: ["ES256", "RS256"], typ: "at+jwt", requiredClaims: ["iss", "sub", "iat", "jti"] };
  const { payload } = await jose.jwtVerify(token, keys, options);
  console.log(JSON.stringify(payload));
} catch (fault) {
  console.error(`invalid: ${fault.code ?? fault}`);
  process.exit(1);
}
