// A client of the Workload API with @grpc/grpc-js: workload.mjs SOCKET PROTO AUDIENCE. GRPC is where the packages are.
// Prints the same as workload.py.
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
let pushed = 0;
const stream = client.FetchJWTBundles({}, metadata());
stream.on("data", ({ bundles }) => {
  const kids = Object.values(bundles).flatMap((bundle) => JSON.parse(bundle).keys.map((key) => key.kid));
  say({ kids: kids.sort() });
  if (++pushed === 2) stream.cancel();
});
stream.on("error", (fault) => process.exit(fault.code === grpc.status.CANCELLED ? 0 : 1));
