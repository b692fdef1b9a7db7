package dapr

import (
	"context"
	"errors"

	rtv1 "github.com/proa-io/proa/api/gen/dapr/proto/runtime/v1"
	"github.com/proa-io/proa/block/crypto"
)

// SubtleGetKey returns the public half of a key. As do the functions below, it
// returns the block's errors as they are.
func SubtleGetKey(ctx context.Context, p *crypto.Provider, in *rtv1.SubtleGetKeyRequest) (*rtv1.SubtleGetKeyResponse, error) {
	marshal := crypto.MarshalPublicPEM
	switch in.GetFormat() {
	case rtv1.SubtleGetKeyRequest_PEM:
	case rtv1.SubtleGetKeyRequest_JSON:
		marshal = crypto.MarshalPublicJWK
	default:
		return nil, BadRequest(errors.New("invalid key format"))
	}
	key, err := p.PublicKey(ctx, in.GetName())
	if err != nil {
		return nil, err
	}
	text, err := marshal(key)
	if err != nil {
		return nil, err
	}
	return &rtv1.SubtleGetKeyResponse{Name: in.GetName(), PublicKey: string(text)}, nil
}

// SubtleEncrypt encrypts a small message.
func SubtleEncrypt(ctx context.Context, p *crypto.Provider, in *rtv1.SubtleEncryptRequest) (*rtv1.SubtleEncryptResponse, error) {
	s, err := p.EncryptMessage(ctx, in.GetKeyName(), in.GetAlgorithm(), in.GetPlaintext(),
		crypto.Params{Nonce: in.GetNonce(), AssociatedData: in.GetAssociatedData()})
	if err != nil {
		return nil, err
	}
	return &rtv1.SubtleEncryptResponse{Ciphertext: s.Ciphertext, Tag: s.Tag}, nil
}

// SubtleDecrypt decrypts a small message.
func SubtleDecrypt(ctx context.Context, p *crypto.Provider, in *rtv1.SubtleDecryptRequest) (*rtv1.SubtleDecryptResponse, error) {
	plaintext, err := p.DecryptMessage(ctx, in.GetKeyName(), in.GetAlgorithm(), crypto.Sealed{Ciphertext: in.GetCiphertext(), Tag: in.GetTag()},
		crypto.Params{Nonce: in.GetNonce(), AssociatedData: in.GetAssociatedData()})
	if err != nil {
		return nil, err
	}
	return &rtv1.SubtleDecryptResponse{Plaintext: plaintext}, nil
}

// SubtleWrapKey wraps a key, given in any form that crypto.KeyMaterial takes.
func SubtleWrapKey(ctx context.Context, p *crypto.Provider, in *rtv1.SubtleWrapKeyRequest) (*rtv1.SubtleWrapKeyResponse, error) {
	material, err := crypto.KeyMaterial(in.GetPlaintextKey())
	if err != nil {
		return nil, err
	}
	s, err := p.WrapKey(ctx, in.GetKeyName(), in.GetAlgorithm(), material,
		crypto.Params{Nonce: in.GetNonce(), AssociatedData: in.GetAssociatedData()})
	if err != nil {
		return nil, err
	}
	return &rtv1.SubtleWrapKeyResponse{WrappedKey: s.Ciphertext, Tag: s.Tag}, nil
}

// SubtleUnwrapKey unwraps a key.
func SubtleUnwrapKey(ctx context.Context, p *crypto.Provider, in *rtv1.SubtleUnwrapKeyRequest) (*rtv1.SubtleUnwrapKeyResponse, error) {
	key, err := p.UnwrapKey(ctx, in.GetKeyName(), in.GetAlgorithm(), crypto.Sealed{Ciphertext: in.GetWrappedKey(), Tag: in.GetTag()},
		crypto.Params{Nonce: in.GetNonce(), AssociatedData: in.GetAssociatedData()})
	if err != nil {
		return nil, err
	}
	return &rtv1.SubtleUnwrapKeyResponse{PlaintextKey: key}, nil
}

// SubtleSign signs a digest.
func SubtleSign(ctx context.Context, p *crypto.Provider, in *rtv1.SubtleSignRequest) (*rtv1.SubtleSignResponse, error) {
	signature, err := p.Sign(ctx, in.GetKeyName(), in.GetAlgorithm(), in.GetDigest())
	if err != nil {
		return nil, err
	}
	return &rtv1.SubtleSignResponse{Signature: signature}, nil
}

// SubtleVerify verifies a signature.
func SubtleVerify(ctx context.Context, p *crypto.Provider, in *rtv1.SubtleVerifyRequest) (*rtv1.SubtleVerifyResponse, error) {
	valid, err := p.Verify(ctx, in.GetKeyName(), in.GetAlgorithm(), in.GetDigest(), in.GetSignature())
	if err != nil {
		return nil, err
	}
	return &rtv1.SubtleVerifyResponse{Valid: valid}, nil
}
