"use strict";

const { pipeline } = require("node:stream/promises");
const { Readable, Writable } = require("node:stream");
const { check, equal, fails } = require("./report");

const componentName = "vault";
const SEGMENT = 64 << 10; // of the format

// message returns bytes that no two segments have in common.
const message = (length) => Buffer.from(Array.from({ length }, (_, n) => (n * 7) % 251));

// The SDK encrypts over gRPC only.
module.exports.checks = async ({ client, grpc }) => {
  if (!grpc) {
    await check("crypto: the HTTP client says that it cannot", async () => {
      const error = await fails(async () => client.crypto.encrypt("x", { componentName, keyName: "aes", keyWrapAlgorithm: "AES" }));
      equal(error.message.includes("not available using the HTTP APIs"), true, error.message);
    });
    return;
  }

  const keys = [
    ["rsa.pem", "RSA"],
    ["rsa.pem", "RSA-OAEP-256"],
    ["aes", "AES"],
    ["aes", "A256KW"],
  ];
  for (const [keyName, keyWrapAlgorithm] of keys) {
    await check(`crypto: ${keyWrapAlgorithm} with either cipher, from one byte to many segments`, async () => {
      for (const dataEncryptionCipher of ["aes-gcm", "chacha20-poly1305"]) {
        for (const length of [1, SEGMENT - 1, SEGMENT, SEGMENT + 1, 3 * SEGMENT + 7]) {
          const sealed = await client.crypto.encrypt(message(length), { componentName, keyName, keyWrapAlgorithm, dataEncryptionCipher });
          equal(sealed.subarray(0, 15).toString(), "dapr.io/enc/v1\n", "header");
          equal((await client.crypto.decrypt(sealed, { componentName })).equals(message(length)), true, `${dataEncryptionCipher}, ${length} bytes`);
        }
      }
    });
  }

  await check("crypto: a stream is encrypted and decrypted as it comes", async () => {
    const plain = message(10 * SEGMENT);
    const pieces = [];
    const sealing = await client.crypto.encrypt({ componentName, keyName: "aes", keyWrapAlgorithm: "A256KW" });
    const opening = await client.crypto.decrypt({ componentName });
    const keep = new Writable({ write: (piece, _, done) => done(null, pieces.push(piece)) });
    await pipeline(Readable.from([plain.subarray(0, 10), plain.subarray(10)], { objectMode: false }), sealing, opening, keep);
    equal(Buffer.concat(pieces).equals(plain), true, "same bytes");
  });

  await check("crypto: without the name of its key, it must be given", async () => {
    const sealed = await client.crypto.encrypt("secret", {
      componentName,
      keyName: "rsa.pem",
      keyWrapAlgorithm: "RSA",
      omitDecryptionKeyName: true,
    });
    equal(sealed.toString().split("\n")[1].includes("rsa.pem"), false, "the header names the key");
    await fails(() => client.crypto.decrypt(sealed, { componentName }));
    equal((await client.crypto.decrypt(sealed, { componentName, keyName: "rsa.pem" })).toString(), "secret");
  });

  await check("crypto: what was changed is refused, and a key that does not exist", async () => {
    const sealed = await client.crypto.encrypt(message(2 * SEGMENT), { componentName, keyName: "aes", keyWrapAlgorithm: "AES" });
    sealed[sealed.length - 1] ^= 1;
    await fails(() => client.crypto.decrypt(sealed, { componentName }));
    const error = await fails(() => client.crypto.encrypt("x", { componentName, keyName: "no-such-key", keyWrapAlgorithm: "AES" }));
    equal(error.message.includes("no-such-key"), true, error.message);
  });
};
