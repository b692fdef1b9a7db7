"use strict";

const { check, equal, eventually } = require("./report");

module.exports.checks = async ({ client }) => {
  await check("the sidecar is healthy", async () => {
    equal(await client.health.isHealthy(), true);
  });

  await check("the sidecar becomes ready when the application's subscriptions are there", async () => {
    const url = `http://127.0.0.1:${process.env.DAPR_HTTP_PORT}/v1.0/healthz`;
    await eventually(async () => (await fetch(url)).status, 204, "status of healthz");
  });
};
