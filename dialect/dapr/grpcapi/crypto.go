package grpcapi

import (
	"context"
	"errors"
	"fmt"
	"io"

	commonv1 "github.com/proa-io/proa/api/gen/dapr/proto/common/v1"
	rtv1 "github.com/proa-io/proa/api/gen/dapr/proto/runtime/v1"
	"github.com/proa-io/proa/block/crypto"
	"github.com/proa-io/proa/dialect/dapr"
	"github.com/proa-io/proa/fault"
)

// EncryptAlpha1 encrypts a stream while it comes.
func (s *service) EncryptAlpha1(stream rtv1.Dapr_EncryptAlpha1Server) error {
	first, err := firstOf(stream.Recv)
	if err != nil {
		return err
	}
	o := first.GetOptions()
	switch {
	case o == nil:
		return dapr.BadRequest(errors.New("first message does not contain the required options"))
	case o.GetKeyName() == "":
		return dapr.BadRequest(errors.New("missing property 'keyName' in the options message"))
	case o.GetKeyWrapAlgorithm() == "":
		return dapr.BadRequest(errors.New("missing property 'keyWrapAlgorithm' in the options message"))
	}
	about := dapr.Subject{Component: o.GetComponentName(), Key: o.GetKeyName()}
	p, err := s.opts.Blocks.Crypto(about.Component)
	if err != nil {
		return s.failed(dapr.Crypto, about, err)
	}
	in := &payloadReader{first: first.GetPayload(), recv: func() (payloadMessage, error) {
		m, err := stream.Recv()
		return payloadMessage{m.GetPayload(), m.GetOptions() != nil}, err
	}}
	out := payloadWriter{send: func(p *commonv1.StreamPayload) error { return stream.Send(&rtv1.EncryptResponse{Payload: p}) }}
	err = p.Encrypt(stream.Context(), &out, in, crypto.EncryptOptions{
		Key: o.GetKeyName(), KeyWrapAlgorithm: o.GetKeyWrapAlgorithm(), Cipher: o.GetDataEncryptionCipher(),
		DecryptionKey: o.GetDecryptionKeyName(), OmitDecryptionKey: o.GetOmitDecryptionKeyName(),
	})
	return s.streamed(about, err)
}

// DecryptAlpha1 decrypts a stream while it comes.
func (s *service) DecryptAlpha1(stream rtv1.Dapr_DecryptAlpha1Server) error {
	first, err := firstOf(stream.Recv)
	if err != nil {
		return err
	}
	o := first.GetOptions()
	if o == nil {
		return dapr.BadRequest(errors.New("first message does not contain the required options"))
	}
	about := dapr.Subject{Component: o.GetComponentName(), Key: o.GetKeyName()}
	p, err := s.opts.Blocks.Crypto(about.Component)
	if err != nil {
		return s.failed(dapr.Crypto, about, err)
	}
	in := &payloadReader{first: first.GetPayload(), recv: func() (payloadMessage, error) {
		m, err := stream.Recv()
		return payloadMessage{m.GetPayload(), m.GetOptions() != nil}, err
	}}
	out := payloadWriter{send: func(p *commonv1.StreamPayload) error { return stream.Send(&rtv1.DecryptResponse{Payload: p}) }}
	return s.streamed(about, p.Decrypt(stream.Context(), &out, in, crypto.DecryptOptions{Key: o.GetKeyName()}))
}

// firstOf returns the first message of a stream.
func firstOf[M any](recv func() (M, error)) (M, error) {
	m, err := recv()
	if errors.Is(err, io.EOF) {
		return m, dapr.BadRequest(errors.New("first message does not contain the required options"))
	}
	return m, err
}

// streamed returns the status of a stream that has ended.
func (s *service) streamed(about dapr.Subject, err error) error {
	if err == nil {
		return nil
	}
	return s.failed(dapr.Crypto, about, err)
}

// payloadMessage is a message of a stream, behind the first.
type payloadMessage struct {
	payload    *commonv1.StreamPayload
	hasOptions bool
}

// payloadReader reads the bytes of a stream of messages, which are numbered.
type payloadReader struct {
	first *commonv1.StreamPayload // not read yet; nil for none
	recv  func() (payloadMessage, error)
	rest  []byte
	seq   uint64 // that the next payload must have
}

// Read implements io.Reader.
func (r *payloadReader) Read(b []byte) (int, error) {
	for len(r.rest) == 0 {
		m := payloadMessage{payload: r.first}
		if r.first = nil; m.payload == nil {
			var err error
			if m, err = r.recv(); err != nil {
				return 0, err
			}
		}
		if m.hasOptions {
			return 0, fault.New(fault.InvalidArgument, "options found in non-leading message").WithReason(crypto.ReasonOptions)
		}
		if m.payload == nil {
			continue
		}
		if m.payload.GetSeq() != r.seq {
			return 0, fault.New(fault.InvalidArgument, "%s", fmt.Sprintf("invalid sequence number received: %d (expected: %d)", m.payload.GetSeq(), r.seq)).
				WithReason(crypto.ReasonOptions)
		}
		r.seq++
		r.rest = m.payload.GetData()
	}
	n := copy(b, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// payloadWriter writes bytes as a stream of numbered messages.
type payloadWriter struct {
	send func(*commonv1.StreamPayload) error
	seq  uint64
}

// Write implements io.Writer.
func (w *payloadWriter) Write(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	if err := w.send(&commonv1.StreamPayload{Data: b, Seq: w.seq}); err != nil {
		return 0, err
	}
	w.seq++
	return len(b), nil
}

// subtle finds the provider and runs one of the operations with small messages.
func subtle[I interface{ GetComponentName() string }, O any](ctx context.Context, s *service, op dapr.Operation, key string, in I,
	do func(context.Context, *crypto.Provider, I) (*O, error)) (*O, error) {
	about := dapr.Subject{Component: in.GetComponentName(), Key: key}
	p, err := s.opts.Blocks.Crypto(about.Component)
	if err != nil {
		return nil, s.failed(op, about, err)
	}
	out, err := do(ctx, p, in)
	if err != nil {
		return nil, s.failed(op, about, err)
	}
	return out, nil
}

// SubtleGetKeyAlpha1 returns the public half of a key.
func (s *service) SubtleGetKeyAlpha1(ctx context.Context, in *rtv1.SubtleGetKeyRequest) (*rtv1.SubtleGetKeyResponse, error) {
	return subtle(ctx, s, dapr.CryptoKey, in.GetName(), in, dapr.SubtleGetKey)
}

// SubtleEncryptAlpha1 encrypts a small message.
func (s *service) SubtleEncryptAlpha1(ctx context.Context, in *rtv1.SubtleEncryptRequest) (*rtv1.SubtleEncryptResponse, error) {
	return subtle(ctx, s, dapr.Crypto, in.GetKeyName(), in, dapr.SubtleEncrypt)
}

// SubtleDecryptAlpha1 decrypts a small message.
func (s *service) SubtleDecryptAlpha1(ctx context.Context, in *rtv1.SubtleDecryptRequest) (*rtv1.SubtleDecryptResponse, error) {
	return subtle(ctx, s, dapr.Crypto, in.GetKeyName(), in, dapr.SubtleDecrypt)
}

// SubtleWrapKeyAlpha1 wraps a key with another.
func (s *service) SubtleWrapKeyAlpha1(ctx context.Context, in *rtv1.SubtleWrapKeyRequest) (*rtv1.SubtleWrapKeyResponse, error) {
	return subtle(ctx, s, dapr.Crypto, in.GetKeyName(), in, dapr.SubtleWrapKey)
}

// SubtleUnwrapKeyAlpha1 unwraps a key.
func (s *service) SubtleUnwrapKeyAlpha1(ctx context.Context, in *rtv1.SubtleUnwrapKeyRequest) (*rtv1.SubtleUnwrapKeyResponse, error) {
	return subtle(ctx, s, dapr.Crypto, in.GetKeyName(), in, dapr.SubtleUnwrapKey)
}

// SubtleSignAlpha1 signs a digest.
func (s *service) SubtleSignAlpha1(ctx context.Context, in *rtv1.SubtleSignRequest) (*rtv1.SubtleSignResponse, error) {
	return subtle(ctx, s, dapr.Crypto, in.GetKeyName(), in, dapr.SubtleSign)
}

// SubtleVerifyAlpha1 verifies a signature.
func (s *service) SubtleVerifyAlpha1(ctx context.Context, in *rtv1.SubtleVerifyRequest) (*rtv1.SubtleVerifyResponse, error) {
	return subtle(ctx, s, dapr.Crypto, in.GetKeyName(), in, dapr.SubtleVerify)
}
