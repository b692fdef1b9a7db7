"use strict";

const { check, equal, eventually, fails } = require("./report");

const STORE = "lockstore";
const SUCCESS = 0, MISSING = 1, OF_OTHERS = 2; // LockStatus, which the SDK does not export

module.exports.checks = async ({ client, grpc }) => {
  const lock = async (id, owner, seconds) => (await client.lock.lock(STORE, id, owner, seconds)).success;
  const unlock = async (id, owner) => (await client.lock.unlock(STORE, id, owner)).status;

  await check("lock: one owner has it, and only that one gives it back", async () => {
    equal(await lock("boat", "ada", 60), true, "ada locks");
    equal(await lock("boat", "bob", 60), false, "bob locks");
    equal(await unlock("boat", "bob"), OF_OTHERS, "bob unlocks");
    equal(await unlock("boat", "ada"), SUCCESS, "ada unlocks");
    equal(await unlock("boat", "ada"), MISSING, "ada unlocks again");
    equal(await lock("boat", "bob", 60), true, "bob locks at last");
    equal(await unlock("boat", "bob"), SUCCESS, "bob unlocks");
  });

  await check("lock: it expires", async () => {
    equal(await lock("paddle", "ada", 1), true, "ada locks");
    await eventually(() => lock("paddle", "bob", 60), true, "bob locks when ada's time is over");
    equal(await unlock("paddle", "ada"), OF_OTHERS, "ada unlocks too late");
  });

  await check("lock: a bad request is refused", async () => {
    const error = await fails(() => lock("boat", "ada", 0));
    if (grpc) equal(error.code, 3, `code of ${error}`); // InvalidArgument
    else equal(JSON.parse(error.message).status, 400, error.message);
  });
};
