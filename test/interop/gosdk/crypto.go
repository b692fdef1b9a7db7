package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"

	runtimev1 "github.com/dapr/dapr/pkg/proto/runtime/v1"
	"github.com/dapr/go-sdk/client"
)

const vault = "vault"

// segment is how long those of the format are.
const segment = 64 << 10

func (a *app) checkCrypto() {
	encrypt := func(ctx context.Context, plain []byte, o client.EncryptOptions) ([]byte, error) {
		o.ComponentName = vault
		out, err := a.client.Encrypt(ctx, bytes.NewReader(plain), o)
		if err != nil {
			return nil, err
		}
		return io.ReadAll(out)
	}
	decrypt := func(ctx context.Context, sealed []byte, key string) ([]byte, error) {
		out, err := a.client.Decrypt(ctx, bytes.NewReader(sealed), client.DecryptOptions{ComponentName: vault, KeyName: key})
		if err != nil {
			return nil, err
		}
		return io.ReadAll(out)
	}
	message := func(length int) []byte { return bytes.Repeat([]byte("boats "), length/6+1)[:length] }

	for _, key := range []client.EncryptOptions{
		{KeyName: "rsa.pem", KeyWrapAlgorithm: "RSA-OAEP-256"}, {KeyName: "aes", KeyWrapAlgorithm: "A256KW"},
	} {
		a.check("crypto: "+key.KeyWrapAlgorithm+" with either cipher, from one byte to many segments", func(ctx context.Context, t *t) {
			for _, key.DataEncryptionCipher = range []string{"", "aes-gcm", "chacha20-poly1305"} {
				for _, length := range []int{1, segment - 1, segment, segment + 1, 3*segment + 7} {
					sealed, err := encrypt(ctx, message(length), key)
					t.ok(err)
					t.equal(bytes.HasPrefix(sealed, []byte("dapr.io/enc/v1\n")), true, "header")
					got, err := decrypt(ctx, sealed, "")
					t.ok(err)
					t.equal(bytes.Equal(got, message(length)), true, fmt.Sprintf("%s, %d bytes", key.DataEncryptionCipher, length))
				}
			}
		})
	}
	a.check("crypto: the name of the key may be left out, or another one given", func(ctx context.Context, t *t) {
		manifest := func(sealed []byte) string { return string(bytes.Split(sealed, []byte("\n"))[1]) }
		sealed, err := encrypt(ctx, message(10), client.EncryptOptions{KeyName: "aes", KeyWrapAlgorithm: "A256KW", OmitDecryptionKeyName: true})
		t.ok(err)
		t.equal(strings.Contains(manifest(sealed), `"aes"`), false, "the header names the key")
		_, err = decrypt(ctx, sealed, "")
		t.refused(err)
		got, err := decrypt(ctx, sealed, "aes")
		t.ok(err)
		t.equal(got, message(10), "message")
		sealed, err = encrypt(ctx, message(10), client.EncryptOptions{KeyName: "aes", KeyWrapAlgorithm: "A256KW", DecryptionKeyName: "elsewhere"})
		t.ok(err)
		t.equal(strings.Contains(manifest(sealed), `"elsewhere"`), true, "the header names the key")
	})
	a.check("crypto: what was changed is refused, and a key or a vault that does not exist", func(ctx context.Context, t *t) {
		sealed, err := encrypt(ctx, message(2*segment), client.EncryptOptions{KeyName: "aes", KeyWrapAlgorithm: "A256KW"})
		t.ok(err)
		sealed[len(sealed)-1] ^= 1
		_, err = decrypt(ctx, sealed, "")
		t.refused(err)
		_, err = encrypt(ctx, message(10), client.EncryptOptions{KeyName: "no-such-key", KeyWrapAlgorithm: "A256KW"})
		t.refused(err, "no-such-key")
		out, err := a.client.Decrypt(ctx, bytes.NewReader(sealed), client.DecryptOptions{ComponentName: "novault"})
		if err == nil {
			_, err = io.ReadAll(out)
		}
		t.refused(err, "novault")
	})
	a.checkSubtleCrypto()
}

// checkSubtleCrypto works with keys themselves, for which the SDK has the
// generated client.
func (a *app) checkSubtleCrypto() {
	c := a.client.GrpcClient()
	a.check("subtle crypto: a message is encrypted, and tied to what belongs to it", func(ctx context.Context, t *t) {
		nonce, with := make([]byte, 12), []byte("the bill")
		sealed, err := c.SubtleEncryptAlpha1(ctx, &runtimev1.SubtleEncryptRequest{
			ComponentName: vault, KeyName: "aes", Algorithm: "A256GCM", Plaintext: []byte("secret"), Nonce: nonce, AssociatedData: with,
		})
		t.ok(err)
		in := &runtimev1.SubtleDecryptRequest{
			ComponentName: vault, KeyName: "aes", Algorithm: "A256GCM", Ciphertext: sealed.GetCiphertext(), Tag: sealed.GetTag(), Nonce: nonce, AssociatedData: with,
		}
		out, err := c.SubtleDecryptAlpha1(ctx, in)
		t.ok(err)
		t.equal(string(out.GetPlaintext()), "secret", "message")
		in.AssociatedData = []byte("another bill")
		_, err = c.SubtleDecryptAlpha1(ctx, in)
		t.refused(err)
	})
	a.check("subtle crypto: a key is wrapped", func(ctx context.Context, t *t) {
		key := bytes.Repeat([]byte{7}, 32)
		public, err := c.SubtleGetKeyAlpha1(ctx, &runtimev1.SubtleGetKeyRequest{ComponentName: vault, Name: "rsa.pem"})
		t.ok(err)
		t.equal(strings.Contains(public.GetPublicKey(), "PUBLIC KEY"), true, "public key")
		wrapped, err := c.SubtleWrapKeyAlpha1(ctx, &runtimev1.SubtleWrapKeyRequest{
			ComponentName: vault, KeyName: "aes", Algorithm: "A256KW", PlaintextKey: []byte(`{"kty":"oct","k":"BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc"}`),
		})
		t.ok(err)
		out, err := c.SubtleUnwrapKeyAlpha1(ctx, &runtimev1.SubtleUnwrapKeyRequest{
			ComponentName: vault, KeyName: "aes", Algorithm: "A256KW", WrappedKey: wrapped.GetWrappedKey(),
		})
		t.ok(err)
		t.equal(out.GetPlaintextKey(), key, "key")
	})
	a.check("subtle crypto: a digest is signed", func(ctx context.Context, t *t) {
		digest := bytes.Repeat([]byte{7}, 32)
		signed, err := c.SubtleSignAlpha1(ctx, &runtimev1.SubtleSignRequest{ComponentName: vault, KeyName: "rsa.pem", Algorithm: "PS256", Digest: digest})
		t.ok(err)
		for _, valid := range []bool{true, false} {
			got, err := c.SubtleVerifyAlpha1(ctx, &runtimev1.SubtleVerifyRequest{
				ComponentName: vault, KeyName: "rsa.pem", Algorithm: "PS256", Digest: digest, Signature: signed.GetSignature(),
			})
			t.ok(err)
			t.equal(got.GetValid(), valid, "valid")
			digest[0]++
		}
	})
}
