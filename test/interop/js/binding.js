"use strict";

const { check, equal, fails, Inbox } = require("./report");

const ticks = new Inbox();

module.exports.listen = async ({ server }) => {
  await server.binding.receive("ticks", async (data) => ticks.put(data));
};

module.exports.checks = async ({ client, grpc }) => {
  // The gRPC client answers with bytes and metadata, the HTTP client with what
  // the bytes say.
  const send = async (...args) => {
    const result = await client.binding.send(...args);
    if (!grpc) return result;
    const text = Buffer.from(result.data).toString();
    try {
      return JSON.parse(text);
    } catch {
      return text;
    }
  };

  await check("binding: a schedule calls the application", () => ticks.takeAll(2));

  await check("binding: a file is created, read, listed and deleted", async () => {
    const fileName = "notes.txt";
    await send("files", "create", "some notes", { fileName });
    equal(await send("files", "get", undefined, { fileName }), "some notes", "content");
    const listed = JSON.stringify(await send("files", "list", undefined, {}));
    equal(listed.includes(fileName), true, listed);
    await send("files", "delete", undefined, { fileName });
    await fails(() => send("files", "get", undefined, { fileName }));
  });

  await check("binding: an HTTP endpoint is called and answers", async () => {
    const got = await send("web", "post", { n: 1 }, { path: "/echo" });
    equal([got.method, JSON.parse(got.body)], ["POST", { n: 1 }]);
  });

  await check("binding: one that does not exist is named in the error", async () => {
    const error = await fails(() => client.binding.send("nobinding", "create", "x"));
    const text = grpc ? error.rawMessage : JSON.parse(JSON.parse(error.message).error_msg).message;
    equal(text.includes("nobinding"), true, text);
  });
};
