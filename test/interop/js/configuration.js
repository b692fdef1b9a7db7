"use strict";

const { check, equal, eventually, fails, Inbox } = require("./report");

const STORE = "configstore";

// The SDK reads configuration over gRPC only.
module.exports.checks = async ({ client, grpc }) => {
  if (!grpc) {
    await check("configuration: the HTTP client says that it cannot", async () => {
      equal((await fails(() => client.configuration.get(STORE, ["key"]))).constructor.name, "HTTPNotSupportedError");
    });
    return;
  }

  // Items are written by the test, as an operator would do it.
  const control = async (method, key, value) => {
    const { status } = await fetch(`${process.env.INTEROP_CONTROL}/configuration/${key}`, { method, body: value });
    equal(status, 204, "status of the control");
  };
  const values = ({ items }) => Object.fromEntries(Object.entries(items).map(([key, item]) => [key, item.value]));

  await control("PUT", "colour", "red");
  await control("PUT", "size", "10");

  await check("configuration: the items of some keys are read", async () => {
    const { items } = await client.configuration.get(STORE, ["colour"]);
    equal(Object.keys(items), ["colour"]);
    equal([items.colour.key, items.colour.value, items.colour.version !== ""], ["colour", "red", true]);
  });

  await check("configuration: all items are read", async () => {
    equal(values(await client.configuration.get(STORE, [])), { colour: "red", size: "10" });
  });

  await check("configuration: keys that do not exist are left out", async () => {
    equal(values(await client.configuration.get(STORE, ["colour", "nothing"])), { colour: "red" });
  });

  await check("configuration: changes are sent until the subscription stops", async () => {
    const changes = new Inbox();
    const subscription = await client.configuration.subscribeWithKeys(STORE, ["colour"], async (data) => changes.put(data));
    // The SDK does not say when the subscription is there: change until it is.
    let n = 0;
    let first;
    const arrived = changes.take().then((change) => (first = change));
    await eventually(async () => {
      if (first === undefined) await control("PUT", "colour", `colour-${++n}`);
      return first !== undefined;
    }, true, "a change has arrived");
    await arrived;
    equal(first.items.colour.value.startsWith("colour-"), true, "first change");

    await control("PUT", "size", "11"); // which is not asked for
    await control("PUT", "colour", "green");
    let last = first;
    while (values(last).colour !== "green") last = await changes.take();
    equal(values(last), { colour: "green" });

    await subscription.stop();
    await control("PUT", "colour", "blue");
    equal(values(await client.configuration.get(STORE, ["colour"])), { colour: "blue" });
    equal(changes.empty, true, "nothing arrives after the stop");
  });

  await check("configuration: changes of all keys are sent", async () => {
    const changes = new Inbox();
    const subscription = await client.configuration.subscribe(STORE, async (data) => changes.put(data));
    let arrived = false;
    let n = 0;
    const first = changes.take().then(() => (arrived = true));
    await eventually(async () => {
      if (!arrived) await control("PUT", "size", `${++n}`);
      return arrived;
    }, true, "a change has arrived");
    await first;
    await control("PUT", "colour", "white");
    let last = {};
    while (last.colour === undefined) last = values(await changes.take());
    equal(last.colour, "white");
    await subscription.stop();
  });

  await check("configuration: a store that does not exist is named in the error", async () => {
    const error = await fails(() => client.configuration.get("noconfig", ["key"]));
    equal(error.message.includes("noconfig"), true, error.message);
  });
};
