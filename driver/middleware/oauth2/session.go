package oauth2

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"time"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/mesh/proxy"
)

// session is what the cookie holds: a signing in under way, or a token.
type session struct {
	State  string    `json:"s,omitempty"` // what the server is to say again
	Target string    `json:"t,omitempty"` // where somebody wanted to go
	Token  string    `json:"a,omitempty"` // the value of the header
	Until  time.Time `json:"u"`
}

// maxCookie is how long a cookie may be, in bytes: what all browsers take.
const maxCookie = 4000

// sealer encrypts sessions, so that who has the cookie can neither read nor
// change it.
type sealer struct {
	aead cipher.AEAD
	name []byte // of the cookie and the client: a session of another one is none
}

// encoding is what cookies are written in.
func encoding() *base64.Encoding { return base64.RawURLEncoding.Strict() }

// newSealer derives the key from the client's secret, which only sidecars with
// the same settings have.
func newSealer(cfg Config) sealer {
	key := sha256.Sum256([]byte("proa.middleware.http.oauth2\x00" + cfg.ClientSecret.Reveal()))
	block, err := aes.NewCipher(key[:])
	if err != nil {
		panic(err) // a key of 32 bytes is right
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic(err) // the block of AES is right
	}
	return sealer{aead, []byte(cfg.CookieName + "\x00" + cfg.ClientID)}
}

func (s sealer) seal(in session) (string, error) {
	plain, err := json.Marshal(in)
	if err != nil {
		return "", fault.Wrap(err, fault.Internal, "the session cannot be written")
	}
	nonce := make([]byte, s.aead.NonceSize(), s.aead.NonceSize()+len(plain)+s.aead.Overhead())
	_, _ = rand.Read(nonce) // never fails
	text := encoding().EncodeToString(s.aead.Seal(nonce, nonce, plain, s.name))
	if len(text) > maxCookie {
		return "", fault.New(fault.ResourceExhausted, "the token, or the address asked for, is too long for a cookie")
	}
	return text, nil
}

// open returns an empty session for what seal has not made.
func (s sealer) open(text string) (out session) {
	sealed, err := encoding().DecodeString(text)
	if err != nil || len(text) > maxCookie || len(sealed) < s.aead.NonceSize() {
		return session{}
	}
	size := s.aead.NonceSize()
	plain, err := s.aead.Open(nil, sealed[:size], sealed[size:], s.name)
	if err != nil || json.Unmarshal(plain, &out) != nil {
		return session{}
	}
	return out
}

// session returns the session of a request, an empty one when there is none, or
// its time is over.
func (g *Gate) session(r *proxy.Request) session {
	for _, f := range r.Header {
		if !proxy.SameName(f.Name, "cookie") {
			continue
		}
		cookies, err := http.ParseCookie(f.Value)
		if err != nil {
			continue
		}
		for _, c := range cookies {
			if c.Name != g.cfg.CookieName {
				continue
			}
			if s := g.seal.open(c.Value); time.Now().Before(s.Until) {
				return s
			}
		}
	}
	return session{}
}
