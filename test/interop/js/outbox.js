"use strict";

const { check, equal, fails, Inbox } = require("./report");

const STORE = "outbox"; // and the topic too
const inbox = new Inbox();

module.exports.listen = async ({ server }) => {
  await server.pubsub.subscribe("pubsub", "outbox", async (data) => inbox.put(data));
};

module.exports.checks = async ({ client, grpc }) => {
  const upsert = (key, value, more = {}) => ({ operation: "upsert", request: { key, value, ...more } });
  const transact = (...operations) => client.state.transaction(STORE, operations);
  const etag = async (key) => (await client.state.getBulk(STORE, [key]))[0].etag;

  await check("outbox: what a transaction writes is published, and what it deletes is not", async () => {
    await client.state.save(STORE, [{ key: "old", value: "x" }]);
    await transact(upsert("order-1", "one"), { operation: "delete", request: { key: "old" } });
    equal(await inbox.take(), "one", "event");
    equal([await client.state.get(STORE, "order-1"), await client.state.get(STORE, "old")], ["one", ""], "stored");
  });

  if (!grpc) {
    // Over gRPC the SDK leaves the metadata of operations out.
    await check("outbox: a projection is published in place of what is stored", async () => {
      await transact(
        upsert("order-2", { n: 2, private: true }),
        upsert("order-2", { n: 2 }, { metadata: { "outbox.projection": "true" } }),
      );
      equal(await inbox.take(), { n: 2 }, "event");
      equal(await client.state.get(STORE, "order-2"), { n: 2, private: true }, "stored");
    });
  }

  await check("outbox: a transaction that fails publishes nothing", async () => {
    await client.state.save(STORE, [{ key: "order-3", value: "x" }]);
    const old = await etag("order-3");
    await client.state.save(STORE, [{ key: "order-3", value: "y" }]);
    await fails(() => transact(upsert("order-4", "four"), upsert("order-3", "three", { etag: old })));
    await transact(upsert("order-5", "five"));
    equal(await inbox.take(), "five", "next event");
    equal(inbox.empty, true, "no more events");
  });
};
