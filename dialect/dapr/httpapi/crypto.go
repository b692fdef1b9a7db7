package httpapi

import (
	"bytes"
	"context"
	"fmt"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	rtv1 "github.com/proa-io/proa/api/gen/dapr/proto/runtime/v1"
	"github.com/proa-io/proa/block/crypto"
	"github.com/proa-io/proa/dialect/dapr"
)

// The header fields of a request to encrypt or decrypt.
const (
	fieldKeyName           = "dapr-key-name"
	fieldKeyWrapAlgorithm  = "dapr-key-wrap-algorithm"
	fieldCipher            = "dapr-data-encryption-cipher"
	fieldDecryptionKeyName = "dapr-decryption-key-name"
	fieldOmitDecryptionKey = "dapr-omit-decryption-key-name"
)

// crypto encrypts or decrypts the body. The answer begins when the body has been
// read: many clients of HTTP/1.1 read nothing before they have sent everything.
// The gRPC API streams.
func (c *call) crypto() {
	about := dapr.Subject{Component: c.params[0]}
	p, err := c.api.opts.Blocks.Crypto(about.Component)
	if err != nil {
		c.failed(dapr.Crypto, about, err)
		return
	}
	encrypt := c.params[1] == "encrypt"
	h := c.req.Header
	if encrypt {
		for _, name := range []string{fieldKeyName, fieldKeyWrapAlgorithm} {
			if h.Get(name) == "" {
				c.fail(dapr.BadRequest(fmt.Errorf("missing header '%s'", name)))
				return
			}
		}
	}
	body, ok := c.readBody()
	if !ok {
		return
	}
	out := bytes.NewBuffer(c.out[:0])
	if encrypt {
		err = p.Encrypt(c.context(), out, bytes.NewReader(body), crypto.EncryptOptions{
			Key: h.Get(fieldKeyName), KeyWrapAlgorithm: h.Get(fieldKeyWrapAlgorithm), Cipher: h.Get(fieldCipher),
			DecryptionKey: h.Get(fieldDecryptionKeyName), OmitDecryptionKey: isTrue(h.Get(fieldOmitDecryptionKey)),
		})
	} else {
		err = p.Decrypt(c.context(), out, bytes.NewReader(body), crypto.DecryptOptions{Key: h.Get(fieldKeyName)})
	}
	if err != nil {
		c.failed(dapr.Crypto, about, err)
		return
	}
	c.out = out.Bytes()
	c.header.Add("Content-Type", "application/octet-stream")
	c.respond(200, c.out)
}

// isTrue reads a flag as Dapr does.
func isTrue(text string) bool {
	switch strings.ToLower(strings.TrimSpace(text)) {
	case "y", "yes", "true", "t", "on", "1":
		return true
	}
	return false
}

// subtleCrypto answers requests for small messages.
func (c *call) subtleCrypto() {
	about := dapr.Subject{Component: c.params[0]}
	p, err := c.api.opts.Blocks.Crypto(about.Component)
	if err != nil {
		c.failed(dapr.Crypto, about, err)
		return
	}
	switch c.params[1] {
	case "getkey":
		subtle(c, dapr.CryptoKey, p, &rtv1.SubtleGetKeyRequest{}, dapr.SubtleGetKey)
	case "encrypt":
		subtle(c, dapr.Crypto, p, &rtv1.SubtleEncryptRequest{}, dapr.SubtleEncrypt)
	case "decrypt":
		subtle(c, dapr.Crypto, p, &rtv1.SubtleDecryptRequest{}, dapr.SubtleDecrypt)
	case "wrapkey":
		subtle(c, dapr.Crypto, p, &rtv1.SubtleWrapKeyRequest{}, dapr.SubtleWrapKey)
	case "unwrapkey":
		subtle(c, dapr.Crypto, p, &rtv1.SubtleUnwrapKeyRequest{}, dapr.SubtleUnwrapKey)
	case "sign":
		subtle(c, dapr.Crypto, p, &rtv1.SubtleSignRequest{}, dapr.SubtleSign)
	default:
		subtle(c, dapr.Crypto, p, &rtv1.SubtleVerifyRequest{}, dapr.SubtleVerify)
	}
}

// subtle reads the body into in and answers with what do makes of it.
func subtle[I, O proto.Message](c *call, op dapr.Operation, p *crypto.Provider, in I, do func(context.Context, *crypto.Provider, I) (O, error)) {
	body, ok := c.readBody()
	if !ok {
		return
	}
	if len(body) > 0 {
		if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(body, in); err != nil {
			c.fail(dapr.Malformed(protoError{err}))
			return
		}
	}
	about := dapr.Subject{Component: p.Name()}
	if named, ok := any(in).(interface{ GetName() string }); ok {
		about.Key = named.GetName()
	}
	out, err := do(c.context(), p, in)
	if err != nil {
		c.failed(op, about, err)
		return
	}
	c.proto(out, true)
}
