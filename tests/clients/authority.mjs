// Makes one call for each value of :authority: authority.mjs SOCKET VALUE…, where "-" means no :authority.
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
  // Node adds an :authority unless there is a host header.
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
