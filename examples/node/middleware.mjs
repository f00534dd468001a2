// Protects a server of Node's http, or Express: each request needs a token of this host, and the proof to which it is
// bound.
//
//     const protect = protectedBy({ audience: "https://api.example.com", origin: "https://api.example.com" });
//     http.createServer((request, response) => protect(request, response, () => ...request.hostbadge...));
//     app.use(protect); // Express
//
// The service itself is an agent, so that it may introspect (POST /v1/introspect). `origin` is the service's own, by
// its configuration: a header such as Host could name another one.

import { Client } from "./hostbadge.mjs";

export function protectedBy({ audience, origin, client = new Client() }) {
  return async (request, response, next) => {
    let claims;
    try {
      claims = await introspect(client, audience, origin, request);
    } catch {
      response.writeHead(503).end();
      return;
    }
    if (!claims.active) {
      response.writeHead(401, { "WWW-Authenticate": 'DPoP algs="ES256"' }).end();
      return;
    }
    request.hostbadge = claims;
    next();
  };
}

/** The claims of the request's token, or { active: false }. */
async function introspect(client, audience, origin, request) {
  const { authorization = [], dpop = [] } = request.headersDistinct;
  if (authorization.length !== 1 || dpop.length > 1) return { active: false };
  const [kind, token = ""] = authorization[0].split(" ");
  const url = origin + (request.originalUrl ?? request.url);
  const proof = dpop.length ? { proof: dpop[0], method: request.method, url } : {};
  const claims = await client.introspect(token, { audience, ...proof });
  // A bound token without its proof is a stolen one.
  const isExpected = kind.toLowerCase() === claims.token_type?.toLowerCase();
  return isExpected && "cnf" in claims === dpop.length > 0 ? claims : { active: false };
}
