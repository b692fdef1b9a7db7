#!/usr/bin/env python3
"""Writes the streams that the tests decrypt, with an implementation of the scheme
dapr.io/enc/v1 that shares nothing with ours. Needs the package cryptography.

The plaintext of NAME-N.enc is N bytes: the number of each byte modulo 251. The
key "oct" is the 32 bytes 0 to 31; the key "rsa" is rsa.pem.
"""
import base64
import hashlib
import hmac
import json
import os
import pathlib

from cryptography.hazmat.primitives import hashes, keywrap, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

here = pathlib.Path(__file__).parent
oct_key = bytes(range(32))


def rsa_key():
    path = here / "rsa.pem"
    if not path.exists():
        key = rsa.generate_private_key(65537, 2048)
        path.write_bytes(key.private_bytes(serialization.Encoding.PEM,
                                           serialization.PrivateFormat.PKCS8,
                                           serialization.NoEncryption()))
    return serialization.load_pem_private_key(path.read_bytes(), None)


def derive(file_key, salt, info):
    return HKDF(hashes.SHA256(), 32, salt, info).derive(file_key)


def encrypt(plaintext, kw, cph, name):
    file_key, prefix = os.urandom(32), os.urandom(7)
    if kw == 1:
        wrapped = keywrap.aes_key_wrap(oct_key, file_key)
    else:
        wrapped = rsa_key().public_key().encrypt(
            file_key, padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None))
    manifest = {"kw": kw, "wfk": base64.b64encode(wrapped).decode(), "cph": cph,
                "np": base64.b64encode(prefix).decode()}
    if name:
        manifest = {"k": name, **manifest}
    lines = b"dapr.io/enc/v1\n" + json.dumps(manifest, separators=(",", ":")).encode() + b"\n"
    mac = hmac.new(derive(file_key, None, b"header"), lines, hashlib.sha256).digest()
    out = lines + base64.b64encode(mac) + b"\n"
    cipher = (AESGCM if cph == 1 else ChaCha20Poly1305)(derive(file_key, prefix, b"payload"))
    count = -(-len(plaintext) // 65536)
    for i in range(count):
        last = b"\x01" if i == count - 1 else b"\x00"
        out += cipher.encrypt(prefix + i.to_bytes(4, "big") + last,
                              plaintext[i * 65536:(i + 1) * 65536], None)
    return out


for name, kw, cph, key, size in [
    ("gcm", 1, 1, "oct", 11), ("gcm", 1, 1, "oct", 0), ("gcm", 1, 1, "oct", 65536), ("gcm", 1, 1, "oct", 65537),
    ("chacha", 1, 2, "oct", 300), ("rsa", 5, 1, "rsa", 20), ("unnamed", 1, 1, "", 20),
]:
    plaintext = bytes(i % 251 for i in range(size))
    (here / f"{name}-{size}.enc").write_bytes(encrypt(plaintext, kw, cph, key))
