// One call for each form of :authority that clients send: authority.mjs SOCKET FORM…, where "-" is none at all.
// Prints the grpc-status of each.
import http2 from "node:http2";
import net from "node:net";

const [socket, ...forms] = process.argv.slice(2);
for (const form of forms) {
  const session = http2.connect("http://localhost", { createConnection: () => net.connect(socket) });
  const headers = {
    ":method": "POST",
    ":path": "/SpiffeWorkloadAPI/FetchJWTBundles",
    ":scheme": "http",
    "content-type": "application/grpc",
    te: "trailers",
    "workload.spiffe.io": "true",
  };
  // Node adds an :authority of its own, unless there is a host.
  if (form === "-") headers.host = "localhost";
  else headers[":authority"] = form;
  await new Promise((resolve) => {
    const stream = session.request(headers);
    stream.setTimeout(20000, () => stream.destroy(new Error("no answer")));
    stream.on("data", () => {
      console.log(JSON.stringify({ form, answered: true }));
      stream.destroy();
      resolve();
    });
    stream.on("error", (fault) => {
      console.log(JSON.stringify({ form, answered: false, fault: String(fault) }));
      resolve();
    });
    stream.end(Buffer.alloc(5));
  });
  session.destroy();
}
