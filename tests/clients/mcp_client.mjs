// A client of MCP that is checked by the conformance suite of MCP: mcp_client.mjs URL. Every DPoP proof comes from the
// daemon. The servers' ports are chosen anew for each check, so the client writes the agent's file (AGENTS_FILE) when it
// knows them, and has it reloaded (HOSTBADGE, the command).

import { execFileSync } from "node:child_process";
import { createHash, randomBytes } from "node:crypto";
import { writeFileSync } from "node:fs";
import { Client } from "../../examples/node/hostbadge.mjs";

const url = process.argv.at(-1);
const daemon = new Client();
const json = async (from, request) => {
  const response = await fetch(from, request);
  if (!response.ok) throw new Error(`${from}: ${response.status} ${await response.text()}`);
  return response.json();
};
const post = (body, headers) => ({ method: "POST", body, headers, redirect: "manual" });

const { origin, pathname } = new URL(url);
const resource = await json(`${origin}/.well-known/oauth-protected-resource${pathname}`);
const issuer = resource.authorization_servers[0];
const server = await json(`${issuer}/.well-known/oauth-authorization-server`);
const actions = [server.token_endpoint, url].map((target) => `"POST ${target}"`);
writeFileSync(
  process.env.AGENTS_FILE,
  `name = "client"\n[match]\nuser = 0\n[[grant]]\naudience = "mcp"\nproofs = ["dpop"]\nactions = [${actions}]\n`,
);
execFileSync(process.env.HOSTBADGE, ["agent", "reload"], { stdio: "ignore" });

// RFC 7591, then RFC 6749 section 4.1 with RFC 7636.
const redirect_uri = "http://localhost:3000/callback";
const registration = {
  client_name: "hostbadge-test",
  redirect_uris: [redirect_uri],
  grant_types: ["authorization_code"],
  response_types: ["code"],
  token_endpoint_auth_method: "none",
};
const { client_id } = await json(
  server.registration_endpoint,
  post(JSON.stringify(registration), { "Content-Type": "application/json" }),
);
const code_verifier = randomBytes(32).toString("base64url");
const state = randomBytes(8).toString("hex");
const query = new URLSearchParams({
  response_type: "code",
  client_id,
  redirect_uri,
  state,
  resource: url,
  code_challenge: createHash("sha256").update(code_verifier).digest("base64url"),
  code_challenge_method: "S256",
});
const authorized = await fetch(`${server.authorization_endpoint}?${query}`, { redirect: "manual" });
const answer = new URL(authorized.headers.get("location")).searchParams;
if (answer.get("state") !== state) throw new Error("the state is another one");

/** Sends a request with a proof, and once more with the nonce that the server asks for. */
async function proven(target, body, headers, token) {
  let nonce;
  for (;;) {
    const proof = await daemon.prove("dpop", "POST", target, { token, nonce });
    const response = await fetch(target, post(body, { ...headers, ...proof }));
    if (response.ok || nonce || !response.headers.get("dpop-nonce")) return response;
    nonce = response.headers.get("dpop-nonce");
  }
}

const form = new URLSearchParams({
  grant_type: "authorization_code",
  code: answer.get("code"),
  redirect_uri,
  client_id,
  code_verifier,
  resource: url,
});
const granted = await proven(server.token_endpoint, form.toString(), {
  "Content-Type": "application/x-www-form-urlencoded",
});
const token = await granted.json();
if (token.token_type !== "DPoP") throw new Error(`the token is not bound: ${JSON.stringify(token)}`);

const headers = {
  Authorization: `DPoP ${token.access_token}`,
  "Content-Type": "application/json",
  Accept: "application/json, text/event-stream",
};
const call = async (message) => {
  const body = JSON.stringify({ jsonrpc: "2.0", ...message });
  const response = await proven(url, body, headers, token.access_token);
  if (!response.ok) throw new Error(`${message.method}: ${response.status} ${await response.text()}`);
  const session = response.headers.get("mcp-session-id");
  if (session) headers["Mcp-Session-Id"] = session;
  await response.text();
};
const protocolVersion = "2025-11-25";
const clientInfo = { name: "hostbadge-test", version: "1" };
await call({ id: 1, method: "initialize", params: { protocolVersion, capabilities: {}, clientInfo } });
headers["MCP-Protocol-Version"] = protocolVersion;
await call({ method: "notifications/initialized" });
await call({ id: 2, method: "tools/list", params: {} });
