"""Encryption with the keys of a vault."""

import asyncio
import os

from dapr.aio.clients import DaprClient as AsyncClient
from dapr.clients.grpc._crypto import DecryptOptions, EncryptOptions
from report import check, equal, fails

VAULT = 'vault'
SEGMENT = 64 << 10  # of the format
LENGTHS = (1, SEGMENT - 1, SEGMENT, SEGMENT + 1, 3 * SEGMENT + 7)


def message(length: int) -> bytes:
    return bytes(n * 7 % 251 for n in range(length))


def checks(client, _) -> None:
    def encrypt(data, key='rsa.pem', algorithm='RSA', **more) -> bytes:
        return client.encrypt(data, EncryptOptions(VAULT, key, algorithm, **more)).read()

    def decrypt(data, key='') -> bytes:
        return client.decrypt(data, DecryptOptions(VAULT, key)).read()

    for key, algorithm in (('rsa.pem', 'RSA'), ('rsa.pem', 'RSA-OAEP-256'), ('aes', 'AES'), ('aes', 'A256KW')):

        @check(f'crypto: {algorithm} with either cipher, from one byte to many segments')
        def _():
            for cipher in ('aes-gcm', 'chacha20-poly1305'):
                for length in LENGTHS:
                    sealed = encrypt(message(length), key, algorithm, data_encryption_cipher=cipher)
                    equal(sealed.startswith(b'dapr.io/enc/v1\n'), True, 'header')
                    equal(decrypt(sealed) == message(length), True, f'{cipher}, {length} bytes')

    @check('crypto: a text, read in pieces')
    def _():
        sealed = client.encrypt('漢字 🛶' * 20_000, EncryptOptions(VAULT, 'aes', 'AES'))
        pieces = iter(lambda: sealed.read(10_000), b'')
        equal(decrypt(b''.join(pieces)).decode() == '漢字 🛶' * 20_000, True, 'same text')

    @check('crypto: without the name of its key, it must be given')
    def _():
        sealed = encrypt(b'secret', omit_decryption_key_name=True)
        equal(b'rsa.pem' in sealed.split(b'\n')[1], False, 'the header names the key')
        fails(lambda: decrypt(sealed))
        equal(decrypt(sealed, 'rsa.pem'), b'secret')

    @check('crypto: another key for the decryption may be named')
    def _():
        sealed = encrypt(b'secret', decryption_key_name='elsewhere')
        equal(b'elsewhere' in sealed.split(b'\n')[1], True, 'the header names the key')
        equal(decrypt(sealed, 'rsa.pem'), b'secret')

    @check('crypto: what was changed is refused, and a key that does not exist')
    def _():
        sealed = bytearray(encrypt(message(2 * SEGMENT)))
        sealed[-1] ^= 1
        fails(lambda: decrypt(bytes(sealed)))
        fails(lambda: decrypt(b'not encrypted at all'))
        fails(lambda: encrypt(b'secret', 'no-such-key'))
        fails(lambda: client.encrypt(b'x', EncryptOptions('novault', 'aes', 'AES')).read())

    if os.environ.get('DAPR_API_TOKEN'):
        return  # which the asynchronous client of the SDK does not send with streams

    @check('crypto: the asynchronous client does the same')
    def _():
        async def round_trip():
            async with AsyncClient() as client:
                sealed = await (await client.encrypt(message(2 * SEGMENT), EncryptOptions(VAULT, 'aes', 'AES'))).read()
                return await (await client.decrypt(sealed, DecryptOptions(VAULT))).read()

        equal(asyncio.run(round_trip()) == message(2 * SEGMENT), True, 'same bytes')
