"use strict";

const { HttpMethod } = require("@dapr/dapr");
const { check, equal, fails } = require("./report");

module.exports.checks = async ({ client, grpc, peer }) => {
  const invoke = (...args) => client.invoker.invoke(peer, ...args);

  for (const method of [HttpMethod.POST, HttpMethod.PUT, HttpMethod.PATCH, HttpMethod.DELETE]) {
    await check(`invoke: ${method.toUpperCase()} with a body reaches the other application`, async () => {
      const body = { n: 1, text: "漢字 🛶" };
      const got = await invoke("echo", method, body);
      equal([got.by, got.method, got.body, got.contentType], [peer, method, body, "application/json"]);
    });
  }

  await check("invoke: GET reaches the other application", async () => {
    const got = await invoke("echo", HttpMethod.GET);
    equal([got.by, got.method], [peer, "get"]);
  });

  if (!grpc) {
    await check("invoke: the query and headers are passed on", async () => {
      const got = await invoke("echo?x=1&y=a%20b", HttpMethod.GET, undefined, { headers: { "X-Greeting": "hello" } });
      equal([got.query, got.greeting, got.caller], ["/echo?x=1&y=a%20b", "hello", process.env.APP_ID]);
    });

    await check("invoke: the status of the other application is passed on", async () => {
      const error = JSON.parse((await fails(() => invoke("no-such-method", HttpMethod.GET))).message);
      equal(error.status, 404);
      equal(error.error_msg.includes("Cannot GET /no-such-method"), true, error.error_msg);
    });
  }

  await check("invoke: an application may invoke itself", async () => {
    const error = await fails(() => client.invoker.invoke(process.env.APP_ID, "nothing-here", HttpMethod.GET));
    if (grpc) equal(JSON.parse(error.message).error, "COULD_NOT_PARSE_RESULT"); // the SDK answers with nothing
    else equal(JSON.parse(error.message).status, 404);
  });

  await check("invoke: a body of two megabytes goes there and back", async () => {
    const text = "y".repeat(2 << 20);
    const got = await invoke("echo", HttpMethod.POST, { text });
    equal(got.body.text === text, true, "same body");
  });

  await check("invoke: an application that does not exist is named in the error", async () => {
    const error = await fails(() => client.invoker.invoke("nobody", "echo", HttpMethod.GET));
    if (grpc) {
      equal(error.code, 13, `code of ${error}`); // Internal
      equal(error.rawMessage.includes("nobody"), true, error.rawMessage);
    } else {
      const { status, error_msg } = JSON.parse(error.message);
      equal([status, JSON.parse(error_msg).errorCode], [500, "ERR_DIRECT_INVOKE"]);
      equal(error_msg.includes("nobody"), true, error_msg);
    }
  });
};
