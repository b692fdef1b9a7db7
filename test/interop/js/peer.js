"use strict";

// The other application: it echoes what it is asked, and keeps the events of a
// subscription that is declared in a file.

const { HttpMethod } = require("@dapr/dapr");

const me = process.env.APP_ID;

module.exports.listen = async ({ server, client }) => {
  const received = [];
  await server.pubsub.subscribe("pubsub", "declared", async (data) => void received.push(data));
  for (const method of [HttpMethod.GET, HttpMethod.POST]) await server.invoker.listen("received", async () => received, { method });

  for (const method of [HttpMethod.GET, HttpMethod.POST, HttpMethod.PUT, HttpMethod.DELETE, HttpMethod.PATCH]) {
    await server.invoker.listen(
      "echo",
      async ({ body, query, metadata, headers }) => ({
        by: me,
        method,
        body: parse(body),
        query: query ?? "",
        contentType: metadata?.contentType ?? "",
        caller: headers?.["dapr-caller-app-id"] ?? "",
        greeting: headers?.["x-greeting"] ?? "",
      }),
      { method },
    );
  }

  // call invokes a third application and says what came back.
  await server.invoker.listen(
    "call",
    async ({ body }) => ({ by: me, answer: await client.invoker.invoke(parse(body).target, "echo", HttpMethod.POST, { from: me }) }),
    { method: HttpMethod.POST },
  );
};

function parse(body) {
  try {
    return JSON.parse(body);
  } catch {
    return body;
  }
}
