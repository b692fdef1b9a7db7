"use strict";

const { DaprPubSubStatusEnum } = require("@dapr/dapr");
const { check, equal, eventually, fails, Inbox } = require("./report");

const PUBSUB = "pubsub";
const inboxes = {};

// inbox returns the inbox of that name.
function inbox(name) {
  return (inboxes[name] ??= new Inbox());
}

// into returns a handler that keeps what it gets.
function into(name) {
  return async (data, headers) => inbox(name).put({ data, headers });
}

module.exports.listen = async ({ server }) => {
  for (const topic of ["values", "text", "binary", "cloudevents", "graveyard", "orders/eu.north"]) {
    await server.pubsub.subscribe(PUBSUB, topic, into(topic));
  }
  await server.pubsub.subscribe(PUBSUB, "elsewhere", into("elsewhere"), "/a-route");
  await server.pubsub.subscribe(PUBSUB, "raw", into("raw"), "", { rawPayload: true });

  await server.pubsub.subscribeWithOptions(PUBSUB, "routed", {
    route: {
      rules: [
        { match: `event.type == "important"`, path: "important" },
        { match: `event.data.amount > 100`, path: "large" },
      ],
      default: "ordinary",
    },
  });
  for (const route of ["important", "large", "ordinary"]) {
    server.pubsub.subscribeToRoute(PUBSUB, "routed", route, into(route));
  }

  let attempts = 0;
  await server.pubsub.subscribe(PUBSUB, "flaky", async (data) => {
    inbox("flaky").put({ data, attempt: ++attempts });
    return attempts < 3 ? DaprPubSubStatusEnum.RETRY : DaprPubSubStatusEnum.SUCCESS;
  });
  await server.pubsub.subscribeWithOptions(PUBSUB, "doomed", {
    deadLetterTopic: "graveyard",
    callback: async (data) => {
      inbox("doomed").put({ data });
      return DaprPubSubStatusEnum.DROP;
    },
  });
  const failing = new Set(["bad"]); // the first time
  const some = async (data) => {
    inbox("some").put(data);
    return failing.delete(data) ? DaprPubSubStatusEnum.RETRY : DaprPubSubStatusEnum.SUCCESS;
  };
  await server.pubsub.subscribeBulk(PUBSUB, "some", some, { maxMessagesCount: 10, maxAwaitDurationMs: 100 });
  await server.pubsub.subscribeBulk(PUBSUB, "bulk", into("bulk"), { maxMessagesCount: 10, maxAwaitDurationMs: 100 });
};

module.exports.checks = async ({ client, grpc, peer }) => {
  // The HTTP client returns what went wrong, the gRPC client throws it.
  const publish = async (topic, data, options) => {
    const { error } = await client.pubsub.publish(PUBSUB, topic, data, options);
    if (error) throw error;
  };
  const roundTrip = async (topic, data, options) => {
    await publish(topic, data, options);
    return inbox(topic).take();
  };

  await check("pubsub: an object arrives with its types", async () => {
    const data = { name: "Ada", tags: ["a", "b"], nested: { deep: [1, 2.5, null, true] }, unicode: "漢字 🛶" };
    equal((await roundTrip("values", data)).data, data);
  });

  await check("pubsub: an array arrives", async () => {
    equal((await roundTrip("values", [1, "two", { three: 3 }])).data, [1, "two", { three: 3 }]);
  });

  await check("pubsub: the name of a topic may hold what paths and brokers treat apart", async () => {
    equal((await roundTrip("orders/eu.north", { n: 1 })).data, { n: 1 });
  });

  await check("pubsub: a text arrives", async () => {
    equal((await roundTrip("text", "just a text")).data, "just a text");
  });

  await check("pubsub: bytes arrive", async () => {
    equal((await roundTrip("binary", Buffer.from("just bytes"))).data, "just bytes");
  });

  await check("pubsub: the application's token comes with every event", async () => {
    const { headers } = await roundTrip("values", { a: 1 });
    equal(headers["dapr-api-token"], process.env.APP_API_TOKEN, "token");
    if (!grpc) equal(headers["content-type"], "application/cloudevents+json", "content type");
  });

  await check("pubsub: a CloudEvent is passed on as it is", async () => {
    const event = { specversion: "1.0", id: "e-1", source: "interop", type: "a.type", datacontenttype: "application/json" };
    equal((await roundTrip("cloudevents", { ...event, data: { n: 1 } })).data, { n: 1 });
  });

  await check("pubsub: the content type can be given", async () => {
    const { data } = await roundTrip("values", { n: 2 }, { contentType: "application/json" });
    equal(data, { n: 2 });
  });

  await check("pubsub: a subscription may have a route", async () => {
    equal((await roundTrip("elsewhere", { n: 3 })).data, { n: 3 });
  });

  await check("pubsub: a raw payload arrives", async () => {
    equal((await roundTrip("raw", { n: 4 }, { metadata: { rawPayload: "true" } })).data, { n: 4 });
  });

  await check("pubsub: rules decide on the route, the first that matches", async () => {
    await publish("routed", { amount: 1 });
    equal((await inbox("ordinary").take()).data, { amount: 1 });
    await publish("routed", { amount: 1000 });
    equal((await inbox("large").take()).data, { amount: 1000 });
    await publish("routed", { amount: 1000 }, { metadata: { "cloudevent.type": "important" } });
    equal((await inbox("important").take()).data, { amount: 1000 });
    equal(["ordinary", "large", "important"].map((route) => inbox(route).empty), [true, true, true], "nothing else");
  });

  await check("pubsub: what is to be retried comes again", async () => {
    await publish("flaky", { n: 5 });
    const got = await inbox("flaky").takeAll(3);
    equal(got, [1, 2, 3].map((attempt) => ({ data: { n: 5 }, attempt })));
  });

  await check("pubsub: what is dropped goes to the dead letter topic", async () => {
    await publish("doomed", { n: 6 });
    equal(await inbox("doomed").take(), { data: { n: 6 } });
    equal((await inbox("graveyard").take()).data, { n: 6 });
    equal(inbox("doomed").empty, true, "delivered once");
  });

  await check("pubsub: many are published and received at once", async () => {
    const events = [{ n: 1 }, { n: 2 }, "three", { entryID: "own", event: { n: 4 }, contentType: "application/json" }];
    equal(await client.pubsub.publishBulk(PUBSUB, "bulk", events), { failedMessages: [] });
    const got = (await inbox("bulk").takeAll(4)).map(({ data }) => JSON.stringify(data)).sort();
    equal(got, ['"three"', '{"n":1}', '{"n":2}', '{"n":4}']);
  });

  await check("pubsub: of many events only those that failed come again", async () => {
    await client.pubsub.publishBulk(PUBSUB, "some", ["good", "bad", "best"]);
    equal((await inbox("some").takeAll(4)).sort(), ["bad", "bad", "best", "good"]);
  });

  await check("pubsub: an event that has a time to live arrives", async () => {
    equal((await roundTrip("values", { n: 9 }, { metadata: { ttlInSeconds: "60" } })).data, { n: 9 });
  });

  await check("pubsub: a declared subscription delivers to another application", async () => {
    await publish("declared", { n: 7 });
    await eventually(() => client.invoker.invoke(peer, "received", "get"), [{ n: 7 }], "what the peer has received");
  });

  await check("pubsub: a component that does not exist is named in the error", async () => {
    const thrown = await fails(async () => {
      const { error } = await client.pubsub.publish("nopubsub", "topic", { n: 8 });
      if (error) throw { error };
    });
    const { error } = thrown;
    if (grpc) {
      equal([error.code, error.rawMessage.startsWith("pubsub nopubsub is not found")], [3, true], error.rawMessage); // InvalidArgument
    } else {
      const { status, error_msg } = JSON.parse(error.message);
      equal([status, JSON.parse(error_msg).errorCode], [404, "ERR_PUBSUB_NOT_FOUND"]);
    }
  });

  await check("pubsub: publishing many to a component that does not exist fails for each", async () => {
    const { failedMessages } = await client.pubsub.publishBulk("nopubsub", "topic", [{ n: 1 }, { n: 2 }]);
    equal(failedMessages.map(({ message }) => message.event), [{ n: 1 }, { n: 2 }]);
  });
};
