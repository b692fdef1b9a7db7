"use strict";

// An application on the Dapr SDK for JavaScript.
//
//   node app.js main http|grpc    make all checks, then shut the sidecar down
//   node app.js peer http|grpc    be the other application that main talks to
//
// The protocol is the one between application and sidecar, in both directions.

const { CommunicationProtocolEnum, DaprServer, LogLevel } = require("@dapr/dapr");
const { check, done, endWithParent } = require("./report");
const peer = require("./peer");

const areas = [
  require("./health"),
  require("./state"),
  require("./outbox"),
  require("./pubsub"),
  require("./invoke"),
  require("./binding"),
  require("./secret"),
  require("./configuration"),
  require("./lock"),
  require("./crypto"),
  require("./metadata"),
];

async function run(role, protocol) {
  endWithParent();
  const communicationProtocol = { http: CommunicationProtocolEnum.HTTP, grpc: CommunicationProtocolEnum.GRPC }[protocol];
  // All ports and tokens come from the environment.
  const server = new DaprServer({ communicationProtocol, logger: { level: LogLevel.Warn } });
  const app = { server, client: server.client, protocol, grpc: protocol === "grpc", peer: process.env.INTEROP_PEER };
  console.log("waiting for the sidecar");
  if (role === "peer") {
    await peer.listen(app);
    await server.start();
    return;
  }
  for (const area of areas) await area.listen?.(app);
  await check("the server starts when the sidecar is there", () => server.start());
  for (const area of areas) await area.checks(app);
  done();
  await app.client.sidecar.shutdown();
}

run(process.argv[2], process.argv[3]).catch((e) => {
  console.error(e);
  process.exit(1);
});
