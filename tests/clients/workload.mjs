// A client of the Workload API with @grpc/grpc-js: workload.mjs SOCKET PROTO AUDIENCE. GRPC is the directory
// of packages. Prints the same as workload.py.
import { createPrivateKey, X509Certificate } from "node:crypto";
import { createRequire } from "node:module";

const require = createRequire(process.env.GRPC + "/");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");
const [socket, proto, audience] = process.argv.slice(2);

const say = (value) => console.log(JSON.stringify(value));
const { SpiffeWorkloadAPI } = grpc.loadPackageDefinition(loader.loadSync(proto, { keepCase: true }));
const client = new SpiffeWorkloadAPI(`unix://${socket}`, grpc.credentials.createInsecure());
const metadata = () => {
  const metadata = new grpc.Metadata();
  metadata.set("workload.spiffe.io", "true");
  return metadata;
};
const call = (method, message) =>
  new Promise((resolve, reject) =>
    client[method](message, metadata(), (fault, answer) => (fault ? reject(fault) : resolve(answer))),
  );

const { svids } = await call("FetchJWTSVID", { audience: [audience] });
say({ spiffe_id: svids[0].spiffe_id, token: svids[0].svid });
const { spiffe_id } = await call("ValidateJWTSVID", { audience, svid: svids[0].svid });
say({ valid: spiffe_id });
const denied = await call("FetchJWTSVID", { audience: ["https://bank.example.com"] }).catch((fault) => fault.code);
say({ denied: denied === grpc.status.PERMISSION_DENIED });
// Reads two messages of a stream.
const two = (stream, tell) =>
  new Promise((resolve) => {
    let pushed = 0;
    stream.on("data", (message) => {
      tell(message);
      if (++pushed === 2) stream.cancel();
    });
    stream.on("error", (fault) => (fault.code === grpc.status.CANCELLED ? resolve() : process.exit(1)));
  });
await two(client.FetchJWTBundles({}, metadata()), ({ bundles }) => {
  const kids = Object.values(bundles).flatMap((bundle) => JSON.parse(bundle).keys.map((key) => key.kid));
  say({ kids: kids.sort() });
});
const bundles = client.FetchX509Bundles({}, metadata());
await new Promise((resolve) => {
  bundles.on("data", (message) => {
    say({ domains: Object.keys(message.bundles).map((id) => id.slice("spiffe://".length)) });
    bundles.cancel();
  });
  bundles.on("error", resolve);
});
// Splits concatenated certificates, each a SEQUENCE whose length has two bytes.
const split = (all) => {
  const certificates = [];
  for (let at = 0; at < all.length; ) {
    const end = at + 4 + all.readUInt16BE(at + 2);
    certificates.push(new X509Certificate(all.subarray(at, end)));
    at = end;
  }
  return certificates;
};
await two(client.FetchX509SVID({}, metadata()), ({ svids: [svid] }) => {
  const chain = [...split(svid.x509_svid), ...split(svid.bundle)];
  const key = createPrivateKey({ key: svid.x509_svid_key, format: "der", type: "pkcs8" });
  const signed = chain.every((one, at) => one.verify(chain[Math.min(at + 1, chain.length - 1)].publicKey));
  say({ x509: svid.spiffe_id, leaf: chain[0].raw.toString("base64"), holds: signed && chain[0].checkPrivateKey(key) });
});
