"use strict";

// What every check needs: a way to report, to wait for what arrives, and to
// expect a failure.

const { isDeepStrictEqual, inspect } = require("node:util");

const CHECK_WITHIN = 30_000;

let checks = 0;

// check runs one check and prints its result as a line of JSON.
async function check(name, body) {
  let error = "";
  let timer;
  try {
    const timeout = new Promise((_, reject) => {
      timer = setTimeout(() => reject(new Error(`not through after ${CHECK_WITHIN} ms`)), CHECK_WITHIN);
    });
    await Promise.race([body(), timeout]);
  } catch (e) {
    error = e instanceof Error ? e.stack || String(e) : inspect(e);
  } finally {
    clearTimeout(timer);
  }
  checks++;
  console.log(JSON.stringify({ check: name, error }));
}

// done prints the last line of the results.
function done() {
  console.log(JSON.stringify({ done: checks }));
}

// equal fails unless both values have the same types and contents.
function equal(got, want, what = "value") {
  if (!isDeepStrictEqual(got, want)) {
    throw new Error(`${what}: got ${inspect(got, { depth: 9 })}, want ${inspect(want, { depth: 9 })}`);
  }
}

// fails returns what a call throws, or fails when it does not.
async function fails(call) {
  let result;
  try {
    result = await call();
  } catch (e) {
    return e;
  }
  throw new Error(`a call that had to fail answered ${inspect(result)}`);
}

// eventually asks until the answer is the wanted one.
async function eventually(ask, want, what) {
  const deadline = Date.now() + CHECK_WITHIN / 2;
  for (;;) {
    const got = await ask();
    if (isDeepStrictEqual(got, want)) return;
    if (Date.now() > deadline) equal(got, want, what);
    await new Promise((resolve) => setTimeout(resolve, 25));
  }
}

// Inbox keeps what handlers receive, in order, until a check takes it.
class Inbox {
  #items = [];
  #waiting = [];

  put(item) {
    const waiting = this.#waiting.shift();
    if (waiting) waiting(item);
    else this.#items.push(item);
  }

  // take returns the next item, waiting for it if need be.
  take() {
    if (this.#items.length > 0) return Promise.resolve(this.#items.shift());
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  // takeAll returns the next n items.
  async takeAll(n) {
    const items = [];
    while (items.length < n) items.push(await this.take());
    return items;
  }

  // empty tells whether everything has been taken.
  get empty() {
    return this.#items.length === 0;
  }
}

// endWithParent ends this program when the one that started it is gone.
function endWithParent() {
  const parent = process.ppid;
  setInterval(() => {
    if (process.ppid !== parent) process.exit(1);
  }, 500).unref();
}

module.exports = { check, done, equal, fails, eventually, Inbox, endWithParent };
