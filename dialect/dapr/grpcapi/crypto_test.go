package grpcapi

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"testing"

	"google.golang.org/grpc/codes"

	commonv1 "github.com/proa-io/proa/api/gen/dapr/proto/common/v1"
	rtv1 "github.com/proa-io/proa/api/gen/dapr/proto/runtime/v1"
	"github.com/proa-io/proa/internal/leak"
)

// encryptStream sends messages and returns the payloads that come back.
func encryptStream(t *testing.T, c rtv1.DaprClient, messages ...*rtv1.EncryptRequest) ([]byte, error) {
	t.Helper()
	stream := must[rtv1.Dapr_EncryptAlpha1Client](t)(c.EncryptAlpha1(timeout(t)))
	sent := make(chan error, 1)
	go func() {
		for _, m := range messages {
			if err := stream.Send(m); err != nil {
				sent <- err
				return
			}
		}
		sent <- stream.CloseSend()
	}()
	defer func() { <-sent }()
	var out []byte
	for seq := uint64(0); ; seq++ {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return out, err
		}
		if m.GetPayload().GetSeq() != seq {
			t.Fatalf("payload %d has the number %d", seq, m.GetPayload().GetSeq())
		}
		out = append(out, m.GetPayload().GetData()...)
	}
}

func decryptStream(t *testing.T, c rtv1.DaprClient, messages ...*rtv1.DecryptRequest) ([]byte, error) {
	t.Helper()
	stream := must[rtv1.Dapr_DecryptAlpha1Client](t)(c.DecryptAlpha1(timeout(t)))
	sent := make(chan error, 1)
	go func() {
		for _, m := range messages {
			if err := stream.Send(m); err != nil {
				sent <- err
				return
			}
		}
		sent <- stream.CloseSend()
	}()
	defer func() { <-sent }()
	var out []byte
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return out, err
		}
		out = append(out, m.GetPayload().GetData()...)
	}
}

func payload(seq uint64, data []byte) *commonv1.StreamPayload {
	return &commonv1.StreamPayload{Data: data, Seq: seq}
}

func TestStreamsAreEncryptedAndDecrypted(t *testing.T) {
	leak.Check(t)
	c := connect(t, newWorld(t))
	options := &rtv1.EncryptRequestOptions{ComponentName: "keys", KeyName: "oct", KeyWrapAlgorithm: "A256KW"}
	plaintext := bytes.Repeat([]byte("0123456789"), 100_000)
	for name, messages := range map[string][]*rtv1.EncryptRequest{
		"everything in one message": {{Options: options, Payload: payload(0, plaintext)}},
		"options apart":             {{Options: options}, {Payload: payload(0, plaintext[:7])}, {}, {Payload: payload(1, nil)}, {Payload: payload(2, plaintext[7:])}},
	} {
		sealed, err := encryptStream(t, c, messages...)
		if err != nil || !bytes.HasPrefix(sealed, []byte("dapr.io/enc/v1\n{\"k\":\"oct\"")) {
			t.Fatalf("%s: encrypted to %.40q, %v", name, sealed, err)
		}
		half := len(sealed) / 2
		got, err := decryptStream(t, c,
			&rtv1.DecryptRequest{Options: &rtv1.DecryptRequestOptions{ComponentName: "keys"}, Payload: payload(0, sealed[:half])},
			&rtv1.DecryptRequest{Payload: payload(1, sealed[half:])})
		if err != nil || sha256.Sum256(got) != sha256.Sum256(plaintext) {
			t.Errorf("%s: decrypted to %d bytes, %v", name, len(got), err)
		}
	}
}

// A stream is answered while it comes, or there would be no end to what has to
// be kept.
func TestAnEncryptedStreamComesBackBeforeItsEnd(t *testing.T) {
	leak.Check(t)
	stream := must[rtv1.Dapr_EncryptAlpha1Client](t)(connect(t, newWorld(t)).EncryptAlpha1(timeout(t)))
	segment := make([]byte, 64<<10)
	first := &rtv1.EncryptRequest{
		Options: &rtv1.EncryptRequestOptions{ComponentName: "keys", KeyName: "oct", KeyWrapAlgorithm: "AES"}, Payload: payload(0, segment),
	}
	if err := stream.Send(first); err != nil {
		t.Fatal(err)
	}
	got := 0
	for seq := uint64(1); seq < 5; seq++ {
		if err := stream.Send(&rtv1.EncryptRequest{Payload: payload(seq, segment)}); err != nil {
			t.Fatal(err)
		}
		for got < int(seq)*len(segment) {
			m, err := stream.Recv()
			if err != nil {
				t.Fatal(err)
			}
			got += len(m.GetPayload().GetData())
		}
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := stream.Recv(); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

func TestStreamsThatCannotBeEncryptedSayWhy(t *testing.T) {
	leak.Check(t)
	c, none := connect(t, newWorld(t)), connect(t, &world{})
	options := func(component, key, algorithm string) *rtv1.EncryptRequest {
		return &rtv1.EncryptRequest{Options: &rtv1.EncryptRequestOptions{ComponentName: component, KeyName: key, KeyWrapAlgorithm: algorithm}}
	}
	good := options("keys", "oct", "AES")
	for _, r := range []struct {
		messages []*rtv1.EncryptRequest
		want     want
	}{
		{nil, want{codes.InvalidArgument, "ERR_BAD_REQUEST", "first message does not contain the required options"}},
		{[]*rtv1.EncryptRequest{{Payload: payload(0, nil)}}, want{codes.InvalidArgument, "ERR_BAD_REQUEST", "first message does not contain"}},
		{[]*rtv1.EncryptRequest{options("keys", "", "AES")}, want{codes.InvalidArgument, "ERR_BAD_REQUEST", "missing property 'keyName' in the options message"}},
		{[]*rtv1.EncryptRequest{options("keys", "oct", "")}, want{codes.InvalidArgument, "ERR_BAD_REQUEST", "missing property 'keyWrapAlgorithm' in the options"}},
		{[]*rtv1.EncryptRequest{options("", "oct", "AES")}, want{codes.InvalidArgument, "ERR_BAD_REQUEST", "missing component name"}},
		{[]*rtv1.EncryptRequest{options("nosuch", "oct", "AES")}, want{codes.InvalidArgument, "ERR_CRYPTO_PROVIDER_NOT_FOUND", "crypto provider nosuch not found"}},
		{[]*rtv1.EncryptRequest{options("keys", "none", "AES")}, want{codes.Internal, "ERR_CRYPTO", "failed to perform operation: there is no file \"none\""}},
		{[]*rtv1.EncryptRequest{options("keys", "ec", "AES")}, want{codes.InvalidArgument, "ERR_CRYPTO", "elliptic curve"}},
		{[]*rtv1.EncryptRequest{options("keys", "oct", "ROT13")}, want{codes.InvalidArgument, "ERR_BAD_REQUEST", "want A256KW"}},
		{[]*rtv1.EncryptRequest{good, good}, want{codes.InvalidArgument, "", "options found in non-leading message"}},
		{[]*rtv1.EncryptRequest{good, {Payload: payload(1, nil)}}, want{codes.InvalidArgument, "", "invalid sequence number received: 1 (expected: 0)"}},
	} {
		_, err := encryptStream(t, c, r.messages...)
		r.want.check(t, err)
	}
	_, err := encryptStream(t, none, good)
	want{codes.Internal, "ERR_CRYPTO_PROVIDERS_NOT_CONFIGURED", "crypto providers not configured"}.check(t, err)
	for _, d := range []struct {
		message *rtv1.DecryptRequest
		want    want
	}{
		{&rtv1.DecryptRequest{}, want{codes.InvalidArgument, "ERR_BAD_REQUEST", "first message does not contain the required options"}},
		{&rtv1.DecryptRequest{Options: &rtv1.DecryptRequestOptions{ComponentName: "keys"}, Payload: payload(0, []byte("x\n"))},
			want{codes.InvalidArgument, "ERR_CRYPTO", "does not begin with the line"}},
	} {
		_, err := decryptStream(t, c, d.message)
		d.want.check(t, err)
	}
}

func TestSmallMessagesAreEncryptedWrappedAndSigned(t *testing.T) {
	leak.Check(t)
	c, ctx := connect(t, newWorld(t)), timeout(t)
	nonce, aad := make([]byte, 12), []byte("about")
	sealed := must[*rtv1.SubtleEncryptResponse](t)(c.SubtleEncryptAlpha1(ctx, &rtv1.SubtleEncryptRequest{
		ComponentName: "keys", KeyName: "oct", Algorithm: "A256GCM", Plaintext: []byte("hello"), Nonce: nonce, AssociatedData: aad}))
	opened := must[*rtv1.SubtleDecryptResponse](t)(c.SubtleDecryptAlpha1(ctx, &rtv1.SubtleDecryptRequest{
		ComponentName: "keys", KeyName: "oct", Algorithm: "A256GCM", Ciphertext: sealed.GetCiphertext(), Tag: sealed.GetTag(), Nonce: nonce, AssociatedData: aad}))
	if string(opened.GetPlaintext()) != "hello" {
		t.Errorf("decrypted to %q", opened.GetPlaintext())
	}
	key := bytes.Repeat([]byte{9}, 32)
	wrapped := must[*rtv1.SubtleWrapKeyResponse](t)(c.SubtleWrapKeyAlpha1(ctx, &rtv1.SubtleWrapKeyRequest{
		ComponentName: "keys", KeyName: "oct", Algorithm: "A256KW", PlaintextKey: key}))
	unwrapped := must[*rtv1.SubtleUnwrapKeyResponse](t)(c.SubtleUnwrapKeyAlpha1(ctx, &rtv1.SubtleUnwrapKeyRequest{
		ComponentName: "keys", KeyName: "oct", Algorithm: "A256KW", WrappedKey: wrapped.GetWrappedKey()}))
	if !bytes.Equal(unwrapped.GetPlaintextKey(), key) {
		t.Errorf("unwrapped to %x", unwrapped.GetPlaintextKey())
	}
	digest := sha256.Sum256([]byte("message"))
	signed := must[*rtv1.SubtleSignResponse](t)(c.SubtleSignAlpha1(ctx, &rtv1.SubtleSignRequest{
		ComponentName: "keys", KeyName: "ec", Algorithm: "ES256", Digest: digest[:]}))
	for _, valid := range []bool{true, false} {
		out := must[*rtv1.SubtleVerifyResponse](t)(c.SubtleVerifyAlpha1(ctx, &rtv1.SubtleVerifyRequest{
			ComponentName: "keys", KeyName: "ec", Algorithm: "ES256", Digest: digest[:], Signature: signed.GetSignature()}))
		if out.GetValid() != valid {
			t.Errorf("valid is %v, want %v", out.GetValid(), valid)
		}
		digest[0] ^= 1
	}
	public := must[*rtv1.SubtleGetKeyResponse](t)(c.SubtleGetKeyAlpha1(ctx, &rtv1.SubtleGetKeyRequest{ComponentName: "keys", Name: "ec"}))
	if public.GetName() != "ec" || !bytes.HasPrefix([]byte(public.GetPublicKey()), []byte("-----BEGIN PUBLIC KEY-----\n")) {
		t.Errorf("the key is %v", public)
	}
	_, err := c.SubtleGetKeyAlpha1(ctx, &rtv1.SubtleGetKeyRequest{ComponentName: "keys", Name: "none"})
	want{codes.Internal, "ERR_CRYPTO_KEY", "failed to retrieve key none"}.check(t, err)
	_, err = c.SubtleGetKeyAlpha1(ctx, &rtv1.SubtleGetKeyRequest{ComponentName: "keys", Name: "ec", Format: 9})
	want{codes.InvalidArgument, "ERR_BAD_REQUEST", "invalid key format"}.check(t, err)
	_, err = c.SubtleSignAlpha1(ctx, &rtv1.SubtleSignRequest{ComponentName: "nosuch"})
	want{codes.InvalidArgument, "ERR_CRYPTO_PROVIDER_NOT_FOUND", "nosuch"}.check(t, err)
}
