"use strict";

const { StateConcurrencyEnum, StateConsistencyEnum } = require("@dapr/dapr");
const { check, equal, eventually, fails } = require("./report");

const STORE = "statestore";
const FIRST_WRITE = { concurrency: StateConcurrencyEnum.CONCURRENCY_FIRST_WRITE };

module.exports.checks = async ({ client, grpc }) => {
  // The HTTP client returns what went wrong, the gRPC client throws it.
  const throwing = async (call) => {
    const { error } = await call;
    if (error) throw error;
  };
  const save = (...items) => throwing(client.state.save(STORE, items));
  const get = (key, options) => client.state.get(STORE, key, options);
  const remove = (key, options) => throwing(client.state.delete(STORE, key, options));
  const bulk = async (keys) => {
    const items = await client.state.getBulk(STORE, keys);
    return items.sort((a, b) => keys.indexOf(a.key) - keys.indexOf(b.key));
  };
  const etag = async (key) => (await bulk([key]))[0].etag;
  const conflicts = async (call, errorCode) => {
    const error = await fails(call);
    if (grpc) return equal(error.code, 10, `code of ${error}`); // Aborted
    const { status, error_msg } = JSON.parse(error.message);
    equal([status, JSON.parse(error_msg).errorCode], [409, errorCode]);
  };

  const values = {
    object: { name: "Ada", tags: ["a", "b"], nested: { deep: [1, 2.5, null, true] } },
    array: [1, "two", { three: 3 }],
    integer: 9007199254740991,
    fraction: -0.125,
    text: 'a "quoted" text,\nover two lines',
    unicode: "naïve — 漢字 🛶",
    truth: true,
    untruth: false,
    empty: "",
  };
  for (const [name, value] of Object.entries(values)) {
    await check(`state: a saved ${name} comes back as it was`, async () => {
      await save({ key: `value-${name}`, value });
      equal(await get(`value-${name}`), value);
    });
  }

  await check("state: a key that does not exist is empty", async () => {
    equal(await get("no-such-key"), "");
  });

  await check("state: keys may hold what URLs and stores treat apart", async () => {
    for (const key of ["a b", "a/b", "a+b", "a.b", "a:b", "ä", "50%", "a?b#c"]) {
      await save({ key, value: { key } });
      equal(await get(grpc ? key : encodeURIComponent(key)), { key }, `value of ${key}`);
      await remove(grpc ? key : encodeURIComponent(key));
      equal(await get(grpc ? key : encodeURIComponent(key)), "", `value of ${key} when it is deleted`);
    }
  });

  await check("state: a value of one megabyte comes back", async () => {
    const value = "x".repeat(1 << 20);
    await save({ key: "large", value });
    equal((await get("large")) === value, true, "same value");
  });

  await check("state: consistency can be asked for", async () => {
    const consistency = StateConsistencyEnum.CONSISTENCY_STRONG;
    await save({ key: "strong", value: 1, options: { consistency } });
    equal(await get("strong", { consistency }), 1);
  });

  await check("state: many keys are got at once, those that do not exist empty", async () => {
    await save({ key: "bulk-1", value: { n: 1 } }, { key: "bulk-2", value: "two" });
    const [one, two, three] = await bulk(["bulk-1", "bulk-2", "bulk-3"]);
    equal([one.key, one.data, typeof one.etag], ["bulk-1", { n: 1 }, "string"], "the first");
    equal([two.key, two.data], ["bulk-2", "two"], "the second");
    equal([three.key, three.data ?? "", three.etag ?? ""], ["bulk-3", "", ""], "the third");
  });

  await check("state: every save changes the etag", async () => {
    await save({ key: "etag", value: 1 });
    const first = await etag("etag");
    await save({ key: "etag", value: 1 });
    const second = await etag("etag");
    equal(first !== "" && second !== "" && first !== second, true, `etags ${first} and ${second} differ`);
  });

  await check("state: a save with an old etag conflicts and changes nothing", async () => {
    await save({ key: "race", value: "one" });
    const old = await etag("race");
    await save({ key: "race", value: "two", etag: old, options: FIRST_WRITE });
    await conflicts(() => save({ key: "race", value: "three", etag: old, options: FIRST_WRITE }), "ERR_STATE_SAVE");
    equal(await get("race"), "two");
  });

  await check("state: a delete with an old etag conflicts, with the present one it deletes", async () => {
    await save({ key: "gone", value: "one" });
    const old = await etag("gone");
    await save({ key: "gone", value: "two" });
    await conflicts(() => remove("gone", { etag: old, ...FIRST_WRITE }), "ERR_STATE_DELETE");
    equal(await get("gone"), "two");
    await remove("gone", { etag: await etag("gone"), ...FIRST_WRITE });
    equal(await get("gone"), "");
  });

  await check("state: deleting what does not exist is no error", () => remove("never-was"));

  await check("state: a transaction makes all its changes", async () => {
    await save({ key: "tx-old", value: "old" });
    await client.state.transaction(STORE, [
      { operation: "upsert", request: { key: "tx-new", value: "new" } },
      { operation: "delete", request: { key: "tx-old" } },
    ]);
    equal([await get("tx-new"), await get("tx-old")], ["new", ""]);
  });

  await check("state: a transaction with an old etag changes nothing", async () => {
    await save({ key: "tx-race", value: "one" });
    const old = await etag("tx-race");
    await save({ key: "tx-race", value: "two" });
    await fails(() =>
      client.state.transaction(STORE, [
        { operation: "upsert", request: { key: "tx-other", value: "other" } },
        { operation: "upsert", request: { key: "tx-race", value: "three", etag: old, options: FIRST_WRITE } },
      ]),
    );
    equal([await get("tx-race"), await get("tx-other")], ["two", ""]);
  });

  await check("state: a value with a time to live goes away", async () => {
    await save({ key: "short", value: "lived", metadata: { ttlInSeconds: "1" } });
    equal(await get("short"), "lived");
    await eventually(() => get("short"), "", "value after its time");
  });

  await check("state: a query filters, sorts and pages", async () => {
    const boats = [{ q: "A", n: 2 }, { q: "A", n: 3 }, { q: "B", n: 4 }, { q: "A", n: 1 }];
    const metadata = { contentType: "application/json" };
    await save(...boats.map((value, i) => ({ key: `query-${i}`, value, metadata })));
    const query = {
      filter: { AND: [{ EQ: { q: "A" } }, { IN: { n: [1, 2, 3] } }] },
      sort: [{ key: "n", order: "DESC" }],
      page: { limit: 2 },
    };
    const page = await client.state.query(STORE, query);
    const next = await client.state.query(STORE, { ...query, page: { limit: 2, token: page.token } });
    const got = [...page.results, ...next.results].map(({ key, data, etag }) => [
      key,
      grpc ? JSON.parse(Buffer.from(data).toString()) : data,
      etag !== "",
    ]);
    equal(got, [1, 0, 3].map((i) => [`query-${i}`, boats[i], true]));
    equal((await client.state.query(STORE, { filter: { EQ: { q: "nothing" } }, sort: [], page: { limit: 1 } })).results, [], "nothing");
  });

  await check("state: an encrypted store keeps values of every kind, in transactions too", async () => {
    const kinds = { text: "漢字", object: { a: [1, 2.5, null] }, number: 7 };
    const all = Object.entries(kinds);
    await throwing(client.state.save("encrypted", all.map(([key, value]) => ({ key: `saved-${key}`, value }))));
    for (const [key, value] of all) equal(await client.state.get("encrypted", `saved-${key}`), value, key);
    // Over gRPC the SDK takes texts only in transactions.
    const texts = grpc ? [["text", kinds.text]] : all;
    await client.state.transaction("encrypted", texts.map(([key, value]) => ({ operation: "upsert", request: { key: `tx-${key}`, value } })));
    for (const [key, value] of texts) equal(await client.state.get("encrypted", `tx-${key}`), value, key);
  });

  await check("state: many keys are got with as many calls at once as asked for", async () => {
    const keys = Array.from({ length: 30 }, (_, n) => `many-${n}`);
    await save(...keys.map((key, n) => ({ key, value: n })));
    const got = await client.state.getBulk(STORE, keys, { parallelism: 3 });
    equal(Object.fromEntries(got.map(({ key, data }) => [key, data])), Object.fromEntries(keys.map((key, n) => [key, n])));
  });

  await check("state: a store that does not exist is named in the error", async () => {
    const error = await fails(() => client.state.get("nostore", "key"));
    const text = grpc ? error.rawMessage : JSON.parse(JSON.parse(error.message).error_msg).message;
    equal(text, "state store nostore is not found");
    if (grpc) equal(error.code, 3, "code"); // InvalidArgument
    else equal(JSON.parse(error.message).status, 400, "status");
  });
};
