"use strict";

const { check, equal } = require("./report");

module.exports.checks = async ({ client }) => {
  await check("metadata: it says who this is and what there is", async () => {
    const { id, components } = await client.metadata.get();
    equal(id, process.env.APP_ID);
    const types = Object.fromEntries(components.map(({ name, type }) => [name, type]));
    const wanted = JSON.parse(process.env.INTEROP_COMPONENTS);
    equal(Object.fromEntries(Object.keys(wanted).map((name) => [name, types[name]])), wanted);
    const { capabilities } = components.find(({ name }) => name === "statestore");
    equal(["ETAG", "TRANSACTIONAL", "TTL", "QUERY_API"].filter((one) => !capabilities.includes(one)), [], "capabilities that are missing");
  });

  await check("metadata: what the application sets is there", async () => {
    equal(await client.metadata.set("interop", "was here"), true);
    equal((await client.metadata.get()).extended.interop, "was here");
  });
};
