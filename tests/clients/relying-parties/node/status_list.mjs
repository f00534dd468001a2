// The status of a token in its list, as the guide says to read it: status_list.mjs JWKS-FILE ISSUER AUDIENCE
// TOKEN-FILE LIST-FILE. Prints the status of the token and of the next index, or exits with 1 and the reason.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

// MODULES is the directory of the libraries, since this file is not in a package.
const require = createRequire(process.env.MODULES + "/");
const { createLocalJWKSet, jwtVerify } = require("jose");
const { getListFromStatusListJWT, getStatusListFromJWT } = require("@sd-jwt/jwt-status-list");
const [jwks, issuer, audience, tokenFile, listFile] = process.argv.slice(2);
const read = (file) => readFileSync(file, "utf8").trim();

try {
  const keys = createLocalJWKSet(JSON.parse(read(jwks)));
  const token = read(tokenFile);
  await jwtVerify(token, keys, { issuer, audience, typ: "at+jwt", algorithms: ["ES256"] });
  const { idx, uri } = getStatusListFromJWT(token);
  if (!uri.startsWith(`${issuer}/v1/status-list/`)) throw new Error(`the list ${uri} is not the issuer's`);

  const list = read(listFile);
  // The functions of jwt-status-list verify no signature.
  const { payload } = await jwtVerify(list, keys, { subject: uri, typ: "statuslist+jwt", algorithms: ["ES256"] });
  if (!(payload.exp > payload.iat && payload.ttl > 0)) throw new Error("no exp or ttl");
  const statuses = getListFromStatusListJWT(list);
  const next = (idx + 1) % statuses.statusList.length;
  console.log(JSON.stringify({ own: statuses.getStatus(idx), next: statuses.getStatus(next) }));
} catch (fault) {
  console.error(`invalid: ${fault.message}`);
  process.exit(1);
}
