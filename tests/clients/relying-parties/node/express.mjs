// An Express server with the settings of the guide, and one request to it: express.mjs JWKS-FILE ISSUER
// AUDIENCE TOKEN [strict]. Prints the claims that the route sees; exit 1 and the reason if the token is
// refused.

import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { createRequire } from "node:module";

// MODULES is the directory of the libraries, since this file is not in a package.
const require = createRequire(process.env.MODULES + "/");
const express = require("express");
const { auth } = require("express-oauth2-jwt-bearer");
const [file, issuer, audience, token, strict] = process.argv.slice(2);

const listen = (handler) =>
  new Promise((resolve) => {
    const server = createServer(handler).listen(0, "127.0.0.1", () => resolve(server));
  });
const url = (server) => `http://127.0.0.1:${server.address().port}`;

const keys = await listen((_, response) => {
  response.setHeader("Content-Type", "application/json");
  response.end(readFileSync(file));
});
const app = express();
const options = { issuer, audience, jwksUri: url(keys), tokenSigningAlg: "ES256" };
const verify = auth({ ...options, strict: strict === "strict" });
app.get("/", verify, (request, response) => response.json(request.auth.payload));
app.use((fault, request, response, next) => response.status(fault.status ?? 500).send(fault.message));
const server = await listen(app);

const response = await fetch(url(server), { headers: { Authorization: `Bearer ${token}` } });
const text = await response.text();
if (response.ok) console.log(text);
else console.error(`invalid: ${text}`);
process.exit(response.ok ? 0 : 1);
