// Verifies a new token as a relying party whose clock is behind, with jose's default leeway: slow_clock.mjs
// JWKS-FILE TOKEN SECONDS. Prints "accepted by jose" or "refused by jose: why".

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const jose = await import(pathToFileURL(createRequire(process.env.JOSE + "/").resolve("jose")));
const [file, token, seconds] = process.argv.slice(2);
const keys = jose.createLocalJWKSet(JSON.parse(readFileSync(file, "utf8")));
const currentDate = new Date(Date.now() - Number(seconds) * 1000);
try {
  await jose.jwtVerify(token, keys, { currentDate, maxTokenAge: "1h" });
  console.log("accepted by jose");
} catch (fault) {
  console.log(`refused by jose: ${fault}`);
}
