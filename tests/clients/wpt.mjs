// A relying party of WIMSE with jose: wpt.mjs JWKS-FILE URL WIT WPT ACCESS-TOKEN. Prints the claims of the Workload
// Identity Token; exit 1 and the reason if it refuses the request.

import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

// LIBRARIES is the directory of the libraries, since this file is not in a package.
const require = createRequire(process.env.LIBRARIES + "/");
const jose = await import(pathToFileURL(require.resolve("jose")));
const [file, url, wit, proof, token] = process.argv.slice(2);
const hash = (text) => createHash("sha256").update(text).digest("base64url");
try {
  // The key set has the identifier of a WIT's key without its prefix.
  const { keys } = JSON.parse(readFileSync(file));
  const ofWits = keys.map((key) => ({ ...key, kid: `wit-${key.kid}` }));
  const identity = await jose.jwtVerify(wit, jose.createLocalJWKSet({ keys: ofWits }), {
    typ: "wit+jwt",
    algorithms: ["ES256"],
    requiredClaims: ["sub", "exp", "cnf"],
  });
  const { jwk } = identity.payload.cnf;
  const { payload } = await jose.jwtVerify(proof, await jose.importJWK(jwk, jwk.alg), {
    typ: "wpt+jwt",
    algorithms: [jwk.alg],
    audience: url,
    requiredClaims: ["aud", "exp", "jti", "wth", "ath"],
  });
  if (payload.wth !== hash(wit)) throw new Error("the proof is for another WIT");
  if (payload.ath !== hash(token)) throw new Error("the proof is for another access token");
  if (payload.exp > Date.now() / 1000 + 70) throw new Error("the proof is valid for more than a minute");
  console.log(JSON.stringify(identity.payload));
} catch (fault) {
  console.error(`refused: ${fault.code ?? fault.name}: ${fault.message}`);
  process.exit(1);
}
