// A client of hostbadge in one file: tokens that are renewed before they expire, proofs, and whoami.
//
//     const client = new Client();
//     const headers = await client.headers("https://api.example.com", "GET", "https://api.example.com/v1/items");
//
// It needs Node 18 or later and no packages. The daemon identifies this process; there is no secret to configure.

import { createHash } from "node:crypto";
import http from "node:http";

const DEFAULT_SOCKET = "/run/hostbadge/agent.sock";
const TIMEOUT = 30_000; // ms, longer than the daemon's own
const MAX_RESPONSE = 4 << 20; // bytes

/** The daemon refused: `code` is that of RFC 6749, and `retryAfter` is in seconds or undefined. */
export class Refused extends Error {
  constructor(status, body, retryAfter) {
    super(`${body.error}: ${body.error_description}`);
    Object.assign(this, { status, code: body.error, retryAfter });
  }
}

/** `agent` is needed where this process matches several agents. */
export class Client {
  #socket;
  #agent;
  #tokens = new Map();

  constructor({ socket = process.env.HOSTBADGE_SOCKET ?? DEFAULT_SOCKET, agent } = {}) {
    this.#socket = socket;
    this.#agent = agent;
  }

  /** This process, as the daemon identifies it. */
  whoami() {
    return this.#call("GET", "/v1/whoami");
  }

  /** The token response for an audience (RFC 6749 section 5.1), from the cache for half of its lifetime. */
  token(audience, { scope, bind } = {}) {
    const key = JSON.stringify([audience, scope, bind]);
    const known = this.#tokens.get(key);
    if (known && performance.now() < known.renewAt) return known.response;
    // One request for all who wait for it.
    const entry = { response: this.#post("/v1/token", { audience, scope, bind }), renewAt: Infinity };
    this.#tokens.set(key, entry);
    entry.response.then(
      (token) => (entry.renewAt = performance.now() + token.expires_in * 500),
      () => this.#tokens.delete(key),
    );
    return entry.response;
  }

  /** The headers of a proof for this one request. */
  async prove(kind, method, url, { body, token, nonce } = {}) {
    const digest = body === undefined ? undefined : createHash("sha256").update(body).digest("hex");
    const proof = await this.#post("/v1/prove", { kind, method, url, body_sha256: digest, token, nonce });
    return proof.headers;
  }

  /** `Authorization` for a request, and the DPoP proof where the token is bound to a key. */
  async headers(audience, method, url, { scope, nonce } = {}) {
    const { token_type: type, access_token: token } = await this.token(audience, { scope });
    const proof = type === "DPoP" ? await this.prove("dpop", method, url, { token, nonce }) : {};
    return { Authorization: `${type} ${token}`, ...proof };
  }

  /** Whether a token of this host is valid now (RFC 7662); this process has to be an agent. */
  introspect(token, members = {}) {
    return this.#call("POST", "/v1/introspect", JSON.stringify({ token, ...members }));
  }

  #post(path, members) {
    return this.#call("POST", path, JSON.stringify({ ...members, agent: this.#agent }));
  }

  #call(method, path, body) {
    return new Promise((resolve, reject) => {
      const headers = { "Content-Type": "application/json" };
      const options = { socketPath: this.#socket, method, path, headers, timeout: TIMEOUT };
      const request = http.request(options, (response) => {
        let text = "";
        response.setEncoding("utf8").on("error", reject);
        response.on("data", (part) => {
          text += part;
          if (text.length > MAX_RESPONSE) request.destroy(new Error("the response is too long"));
        });
        response.on("end", () => {
          try {
            const answer = JSON.parse(text);
            const retryAfter = response.headers["retry-after"];
            if (response.statusCode === 200) resolve(answer);
            else reject(new Refused(response.statusCode, answer, retryAfter && Number(retryAfter)));
          } catch (fault) {
            reject(fault);
          }
        });
      });
      request.on("timeout", () => request.destroy(new Error("the daemon does not respond")));
      request.on("error", reject);
      request.end(body);
    });
  }
}
