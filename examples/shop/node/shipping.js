// shipping, in Node, written with the official Dapr SDK. It says in code what it
// subscribes to, which replaces the subscriptions in resources/orders.yaml.
"use strict";

const { DaprServer, DaprPubSubStatusEnum, HttpMethod, CommunicationProtocolEnum } = require("@dapr/dapr");

const sent = [];

function ship(route) {
  return async (order, headers) => {
    if (order.item === "mirror" && route !== "dead") {
      console.log(`the mirror of order ${order.id} broke`);
      return DaprPubSubStatusEnum.RETRY;
    }
    console.log(`order ${order.id} goes by ${route}`);
    sent.push({ order: order.id, route, reason: headers.deadletterreason });
    return DaprPubSubStatusEnum.SUCCESS;
  };
}

async function main() {
  const server = new DaprServer({
    serverHost: "127.0.0.1",
    serverPort: process.env.APP_PORT,
    communicationProtocol: CommunicationProtocolEnum.HTTP,
    clientOptions: { daprHost: "127.0.0.1", daprPort: process.env.DAPR_HTTP_PORT },
  });

  await server.pubsub.subscribeWithOptions("pubsub", "orders", {
    deadLetterTopic: "dead-orders",
    route: {
      rules: [{ match: 'event.type == "order.big"', path: "/lorry" }],
      default: "/bicycle",
    },
  });
  server.pubsub.subscribeToRoute("pubsub", "orders", "/lorry", ship("lorry"));
  server.pubsub.subscribeToRoute("pubsub", "orders", "/bicycle", ship("bicycle"));
  await server.pubsub.subscribe("pubsub", "dead-orders", ship("dead"), "/dead");

  await server.invoker.listen("sent", async () => sent, { method: HttpMethod.GET });
  await server.start();
  console.log("shipping in Node is up");
}

main().catch((e) => {
  console.error(e);
  process.exit(1);
});
