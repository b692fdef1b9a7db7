"use strict";

const { check, equal, fails } = require("./report");

module.exports.checks = async ({ client, grpc }) => {
  await check("secret: one is read from the environment", async () => {
    equal(await client.secret.get("secretstore", "INTEROP_SECRET"), { INTEROP_SECRET: "from the environment" });
  });

  await check("secret: one is read from a file", async () => {
    equal(await client.secret.get("secretfile", "database:password"), { "database:password": "from a file" });
  });

  await check("secret: all are read at once", async () => {
    equal(await client.secret.getBulk("secretfile"), {
      "database:password": { "database:password": "from a file" },
      key: { key: "value" },
    });
    const { INTEROP_SECRET } = await client.secret.getBulk("secretstore");
    equal(INTEROP_SECRET, { INTEROP_SECRET: "from the environment" });
  });

  await check("secret: a store that does not exist is named in the error", async () => {
    const error = await fails(() => client.secret.get("nosecrets", "key"));
    if (grpc) {
      equal(error.code, 3, `code of ${error}`); // InvalidArgument
      equal(error.rawMessage.includes("nosecrets"), true, error.rawMessage);
    } else {
      const { status, error_msg } = JSON.parse(error.message);
      equal([status, JSON.parse(error_msg).errorCode], [401, "ERR_SECRET_STORE_NOT_FOUND"]);
    }
  });
};
