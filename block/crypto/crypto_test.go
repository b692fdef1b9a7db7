package crypto_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/proa-io/proa/block/crypto"
	"github.com/proa-io/proa/block/crypto/cryptotest"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/policy"
)

// keyring is a driver that holds keys in memory.
type keyring map[string]crypto.Key

func (r keyring) Key(ctx context.Context, name string) (crypto.Key, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if k, ok := r[name]; ok {
		return k, nil
	}
	return nil, fault.New(fault.NotFound, "there is no such key")
}

func (keyring) Close() error { return nil }

func newKeyring(t testing.TB, keys map[string]any) keyring {
	t.Helper()
	r := keyring{}
	for name, material := range keys {
		k, err := crypto.NewLocalKey(material)
		if err != nil {
			t.Fatal(err)
		}
		r[name] = k
	}
	return r
}

func provider(t testing.TB, r keyring) *crypto.Provider {
	t.Helper()
	return crypto.New(component.Opened[crypto.Driver]("vault", r), crypto.Options{Chains: policy.None{}})
}

func TestLocalKeysKeepTheContract(t *testing.T) {
	cryptotest.Run(t, cryptotest.Harness{
		Symmetric: true,
		Open:      func(t testing.TB, keys map[string]any) crypto.Driver { return newKeyring(t, keys) },
	})
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The vectors are those of the RFCs that define the algorithms.
func TestSymmetricAlgorithmsGiveWhatTheirRFCsSay(t *testing.T) {
	const (
		kerckhoffs = "41 20 63 69 70 68 65 72 20 73 79 73 74 65 6d 20 6d 75 73 74 20 6e 6f 74 20 62 65 20 72 65 71 75 69 72 65 64 20 74 6f 20 62 65 20 73 65 63 72 65 74 2c 20 61 6e 64 20 69 74 20 6d 75 73 74 20 62 65 20 61 62 6c 65 20 74 6f 20 66 61 6c 6c 20 69 6e 74 6f 20 74 68 65 20 68 61 6e 64 73 20 6f 66 20 74 68 65 20 65 6e 65 6d 79 20 77 69 74 68 6f 75 74 20 69 6e 63 6f 6e 76 65 6e 69 65 6e 63 65"
		second     = "54 68 65 20 73 65 63 6f 6e 64 20 70 72 69 6e 63 69 70 6c 65 20 6f 66 20 41 75 67 75 73 74 65 20 4b 65 72 63 6b 68 6f 66 66 73"
		iv         = "1a f3 8c 2d c2 b9 6f fd d8 66 94 09 23 41 bc 04"
	)
	for _, c := range []struct {
		rfc, algorithm, key, nonce, aad, plaintext, ciphertext, tag string
	}{
		{"3394 4.1", "A128KW", "000102030405060708090A0B0C0D0E0F", "", "", "00112233445566778899AABBCCDDEEFF",
			"1FA68B0A8112B447AEF34BD8FB5A7B829D3E862371D2CFE5", ""},
		{"3394 4.4", "A192KW", "000102030405060708090A0B0C0D0E0F1011121314151617", "", "",
			"00112233445566778899AABBCCDDEEFF0001020304050607", "031D33264E15D33268F24EC260743EDCE1C6C7DDEE725A936BA814915C6762D2", ""},
		{"3394 4.6", "A256KW", "000102030405060708090A0B0C0D0E0F101112131415161718191A1B1C1D1E1F", "", "",
			"00112233445566778899AABBCCDDEEFF000102030405060708090A0B0C0D0E0F",
			"28C9F404C4B810F4CBCCB35CFB87F8263F5786E2D80ED326CBC7F0E71A99F43BFB988B9B7A02DD21", ""},
		{"7518 B.1", "A128CBC-HS256", "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f", iv, second, kerckhoffs,
			"c8 0e df a3 2d df 39 d5 ef 00 c0 b4 68 83 42 79 a2 e4 6a 1b 80 49 f7 92 f7 6b fe 54 b9 03 a9 c9 a9 4a c9 b4 7a d2 65 5c 5f 10 f9 ae f7 14 27 e2 fc 6f 9b 3f 39 9a 22 14 89 f1 63 62 c7 03 23 36 09 d4 5a c6 98 64 e3 32 1c f8 29 35 ac 40 96 c8 6e 13 33 14 c5 40 19 e8 ca 79 80 df a4 b9 cf 1b 38 4c 48 6f 3a 54 c5 10 78 15 8e e5 d7 9d e5 9f bd 34 d8 48 b3 d6 95 50 a6 76 46 34 44 27 ad e5 4b 88 51 ff b5 98 f7 f8 00 74 b9 47 3c 82 e2 db",
			"65 2c 3f a3 6b 0a 7c 5b 32 19 fa b3 a3 0b c1 c4"},
		{"7539 2.8.2", "C20P", "808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f", "070000004041424344454647", "50515253c0c1c2c3c4c5c6c7",
			hex.EncodeToString([]byte("Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, sunscreen would be it.")),
			"d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d63dbea45e8ca9671282fafb69da92728b1a71de0a9e060b2905d6a5b67ecd3b3692ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585808b4831d7bc3ff4def08e4b7a9de576d26586cec64b6116",
			"1ae10b594f09e26a7e902ecbd0600691"},
		{"3602 4.1", "A128CBC-NOPAD", "06a9214036b8a15b512e03d534120006", "3dafba429d9eb430b422da802c9fac41", "", hex.EncodeToString([]byte("Single block msg")),
			"e353779c1079aeb82708942dbe77181a", ""},
	} {
		t.Run(c.algorithm, func(t *testing.T) {
			k := newKeyring(t, map[string]any{"k": unhex(t, c.key)})["k"]
			p := crypto.Params{Nonce: unhex(t, c.nonce), AssociatedData: unhex(t, c.aad)}
			ciphertext, tag, err := k.Encrypt(t.Context(), c.algorithm, unhex(t, c.plaintext), p)
			if err != nil || !bytes.Equal(ciphertext, unhex(t, c.ciphertext)) || !bytes.Equal(tag, unhex(t, c.tag)) {
				t.Fatalf("RFC %s: Encrypt = %x, %x, %v", c.rfc, ciphertext, tag, err)
			}
			plaintext, err := k.Decrypt(t.Context(), c.algorithm, ciphertext, tag, p)
			if err != nil || !bytes.Equal(plaintext, unhex(t, c.plaintext)) {
				t.Fatalf("RFC %s: Decrypt = %x, %v", c.rfc, plaintext, err)
			}
		})
	}
}

func TestEverySymmetricAlgorithmComesBack(t *testing.T) {
	for _, c := range []struct {
		key, nonce int
		algorithms string
	}{
		{16, 16, "A128CBC A128CBC-NOPAD"}, {24, 16, "A192CBC A192CBC-NOPAD"}, {32, 16, "A256CBC A256CBC-NOPAD"},
		{16, 12, "A128GCM A128GCMKW"}, {24, 12, "A192GCM A192GCMKW"}, {32, 12, "A256GCM A256GCMKW C20P C20PKW"},
		{32, 24, "XC20P XC20PKW"}, {32, 16, "A128CBC-HS256"}, {48, 16, "A192CBC-HS384"}, {64, 16, "A256CBC-HS512"},
	} {
		for algorithm := range strings.FieldsSeq(c.algorithms) {
			k := newKeyring(t, map[string]any{"k": bytes.Repeat([]byte{3}, c.key)})["k"]
			p := crypto.Params{Nonce: bytes.Repeat([]byte{5}, c.nonce)}
			for size := 0; size <= 64; size += 16 {
				want := bytes.Repeat([]byte{9}, size)
				ciphertext, tag, err := k.Encrypt(t.Context(), algorithm, want, p)
				if err != nil {
					t.Fatalf("%s: %v", algorithm, err)
				}
				got, err := k.Decrypt(t.Context(), algorithm, ciphertext, tag, p)
				if err != nil || !bytes.Equal(got, want) {
					t.Errorf("%s of %d bytes comes back as %x, %v", algorithm, size, got, err)
				}
				if len(tag) > 0 {
					tag[0] ^= 1
					if _, err := k.Decrypt(t.Context(), algorithm, ciphertext, tag, p); fault.ReasonOf(err) != crypto.ReasonDecrypt {
						t.Errorf("%s with a changed tag: %v", algorithm, err)
					}
				}
			}
			p.Nonce = p.Nonce[1:]
			if _, _, err := k.Encrypt(t.Context(), algorithm, nil, p); !fault.Is(err, fault.InvalidArgument) {
				t.Errorf("%s with a short nonce: %v", algorithm, err)
			}
		}
	}
}

func TestSignaturesWantTheRightDigestAndKey(t *testing.T) {
	p := provider(t, newKeyring(t, map[string]any{"oct": make([]byte, 32)}))
	signature, err := p.Sign(t.Context(), "oct", "HS256", []byte("message"))
	if err != nil {
		t.Fatal(err)
	}
	if ok, err := p.Verify(t.Context(), "oct", "HS256", []byte("message"), signature); !ok || err != nil {
		t.Errorf("Verify = %v, %v", ok, err)
	}
	for _, algorithm := range []string{"", "HS", "HS999", "RS256", "ES256", "EdDSA", "none"} {
		_, err := p.Sign(t.Context(), "oct", algorithm, make([]byte, 32))
		if !fault.Is(err, fault.InvalidArgument) || fault.ReasonOf(err) != crypto.ReasonAlgorithm || !strings.Contains(err.Error(), "symmetric") {
			t.Errorf("Sign with %q and a symmetric key: %v", algorithm, err)
		}
	}
	pemText, err := os.ReadFile("testdata/rsa.pem")
	if err != nil {
		t.Fatal(err)
	}
	k, err := crypto.ParseKey(pemText, crypto.AnyFormat)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.Sign(t.Context(), "RS384", make([]byte, 32)); err == nil || !strings.Contains(err.Error(), "48 bytes") {
		t.Errorf("Sign of a digest of the wrong size: %v", err)
	}
}

func TestAKeyIsUsedOnlyForWhatItSays(t *testing.T) {
	for _, c := range []struct{ jwk, want string }{
		{`{"kty":"oct","k":"AAECAwQFBgcICQoLDA0ODw","alg":"A128KW"}`, "for the algorithm A128KW"},
		{`{"kty":"oct","k":"AAECAwQFBgcICQoLDA0ODw","key_ops":["sign"]}`, "not for the operation encrypt"},
		{`{"kty":"oct","k":"AAECAwQFBgcICQoLDA0ODw","use":"sig"}`, "not for the operation encrypt"},
	} {
		k, err := crypto.ParseKey([]byte(c.jwk), crypto.AnyFormat)
		if err != nil {
			t.Fatal(err)
		}
		_, _, err = k.Encrypt(t.Context(), "A128GCM", nil, crypto.Params{Nonce: make([]byte, 12)})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("Encrypt with %s: %v; want %q", c.jwk, err, c.want)
		}
	}
}

func TestKeysThatCannotBeReadSayWhyAndNothingElse(t *testing.T) {
	for _, c := range []struct {
		text   string
		format crypto.KeyFormat
		want   string
	}{
		{"", crypto.AnyFormat, "empty"},
		{"-----BEGIN nothing", crypto.AnyFormat, "no key in the PEM"},
		{"-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n", crypto.AnyFormat, `"PRIVATE KEY" cannot be read`},
		{"-----BEGIN ENCRYPTED PRIVATE KEY-----\nc2VjcmV0\n-----END ENCRYPTED PRIVATE KEY-----\n", crypto.AnyFormat, "passphrase"},
		{`{"kty":"oct","k":`, crypto.JWK, "cannot be read"},
		{`{"kty":"what","k":"secret"}`, crypto.JWK, "cannot be read"},
		{strings.Repeat("x", 2<<20), crypto.AnyFormat, "larger than"},
	} {
		_, err := crypto.ParseKey([]byte(c.text), c.format)
		if !fault.Is(err, fault.FailedPrecondition) || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("ParseKey(%.40q): %v; want %q", c.text, err, c.want)
		}
	}
}

func TestKeySetsLeaveOutWhatTheyCannotName(t *testing.T) {
	set, err := crypto.ParseKeySet([]byte(`{"keys":[{"kty":"oct","k":"AAEC","kid":"a"},{"kty":"oct","k":"AAEC"},{"kty":"new","kid":"b"},{"kty":"oct","k":"AAED","kid":"c"}]}`))
	if err != nil || len(set) != 2 || set["a"] == nil || set["c"] == nil {
		t.Errorf("ParseKeySet = %v, %v", set, err)
	}
	for _, text := range []string{"", "{}", "[]", "null", `{"keys":{}}`} {
		if _, err := crypto.ParseKeySet([]byte(text)); !fault.Is(err, fault.FailedPrecondition) {
			t.Errorf("ParseKeySet(%q): %v", text, err)
		}
	}
}

// vectors opens the keys that testdata was written with.
func vectors(t testing.TB) *crypto.Provider {
	t.Helper()
	oct := make([]byte, 32)
	for i := range oct {
		oct[i] = byte(i)
	}
	r := newKeyring(t, map[string]any{"oct": oct})
	text, err := os.ReadFile("testdata/rsa.pem")
	if err != nil {
		t.Fatal(err)
	}
	if r["rsa"], err = crypto.ParseKey(text, crypto.PEM); err != nil {
		t.Fatal(err)
	}
	return provider(t, r)
}

func counting(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i % 251)
	}
	return b
}

func TestStreamsOfAnotherImplementationAreDecrypted(t *testing.T) {
	files, err := filepath.Glob("testdata/*.enc")
	if err != nil || len(files) == 0 {
		t.Fatalf("no streams: %v", err)
	}
	p := vectors(t)
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			name, size, _ := strings.Cut(strings.TrimSuffix(filepath.Base(file), ".enc"), "-")
			n, err := strconv.Atoi(size)
			if err != nil {
				t.Fatal(err)
			}
			stream, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var o crypto.DecryptOptions
			if name == "unnamed" {
				if err := p.Decrypt(t.Context(), io.Discard, bytes.NewReader(stream), o); fault.ReasonOf(err) != crypto.ReasonOptions {
					t.Errorf("Decrypt without the name of a key: %v", err)
				}
				o.Key = "oct"
			}
			var out bytes.Buffer
			if err := p.Decrypt(t.Context(), &out, iotest.HalfReader(bytes.NewReader(stream)), o); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(out.Bytes(), counting(n)) {
				t.Errorf("decrypted %d bytes that are not the %d that were encrypted", out.Len(), n)
			}
		})
	}
}

func encrypt(t testing.TB, p *crypto.Provider, plaintext []byte, o crypto.EncryptOptions) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := p.Encrypt(t.Context(), &out, bytes.NewReader(plaintext), o); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestStreamsOfEverySizeComeBack(t *testing.T) {
	p := vectors(t)
	for _, o := range []crypto.EncryptOptions{
		{Key: "oct", KeyWrapAlgorithm: "aes"},
		{Key: "oct", KeyWrapAlgorithm: "A256KW", Cipher: "ChaCha20-Poly1305"},
		{Key: "rsa", KeyWrapAlgorithm: "RSA", Cipher: "AES-GCM"},
	} {
		for _, size := range []int{0, 1, 65535, 65536, 65537, 131072, 200_000} {
			want := counting(size)
			stream := encrypt(t, p, want, o)
			var out bytes.Buffer
			if err := p.Decrypt(t.Context(), &out, iotest.OneByteReader(bytes.NewReader(stream)), crypto.DecryptOptions{}); err != nil {
				t.Fatalf("%+v of %d bytes: %v", o, size, err)
			}
			if sha256.Sum256(out.Bytes()) != sha256.Sum256(want) {
				t.Errorf("%+v of %d bytes comes back as %d others", o, size, out.Len())
			}
		}
	}
}

func TestOptionsDecideWhichKeyAStreamNames(t *testing.T) {
	p := vectors(t)
	for _, c := range []struct {
		o    crypto.EncryptOptions
		want string
	}{
		{crypto.EncryptOptions{}, `{"k":"oct","kw":1,`},
		{crypto.EncryptOptions{DecryptionKey: "other/2"}, `{"k":"other/2","kw":1,`},
		{crypto.EncryptOptions{DecryptionKey: "other", OmitDecryptionKey: true}, `{"kw":1,`},
	} {
		c.o.Key, c.o.KeyWrapAlgorithm = "oct", "AES"
		if got := string(encrypt(t, p, nil, c.o)); !strings.HasPrefix(got, "dapr.io/enc/v1\n"+c.want) {
			t.Errorf("%+v: the stream begins with %.60q", c.o, got)
		}
	}
}

func TestWrongOptionsAreRefusedBeforeAnythingIsWritten(t *testing.T) {
	p := vectors(t)
	for _, c := range []struct {
		o      crypto.EncryptOptions
		reason string
		want   string
	}{
		{crypto.EncryptOptions{KeyWrapAlgorithm: "AES"}, "crypto.options", "name of the key is empty"},
		{crypto.EncryptOptions{Key: "oct"}, "crypto.options", "want A256KW"},
		{crypto.EncryptOptions{Key: "oct", KeyWrapAlgorithm: "ROT13"}, "crypto.options", "not supported"},
		{crypto.EncryptOptions{Key: "oct", KeyWrapAlgorithm: "A256CBC-NOPAD"}, "crypto.options", "cannot be used for streams"},
		{crypto.EncryptOptions{Key: "oct", KeyWrapAlgorithm: "AES", Cipher: "des"}, "crypto.options", "aes-gcm or"},
		{crypto.EncryptOptions{Key: "none", KeyWrapAlgorithm: "AES"}, "crypto.no_key", `"none"`},
		{crypto.EncryptOptions{Key: "rsa", KeyWrapAlgorithm: "AES"}, "crypto.algorithm", "RSA key"},
	} {
		var out bytes.Buffer
		err := p.Encrypt(t.Context(), &out, strings.NewReader("x"), c.o)
		if string(fault.ReasonOf(err)) != c.reason || !strings.Contains(err.Error(), c.want) || out.Len() > 0 {
			t.Errorf("%+v: %v (reason %s), %d bytes written; want %q", c.o, err, fault.ReasonOf(err), out.Len(), c.want)
		}
	}
}

// Whatever is changed, cut, repeated or swapped in a stream, no byte comes out
// that was not put in at that place.
func TestTamperedStreamsAreRefused(t *testing.T) {
	p := vectors(t)
	plaintext := counting(3*65536 + 100)
	stream := encrypt(t, p, plaintext, crypto.EncryptOptions{Key: "oct", KeyWrapAlgorithm: "AES"})
	start := bytes.Index(stream, []byte("=\n")) // of the manifest's last value
	start = start + bytes.IndexByte(stream[start+2:], '\n') + 3
	const segment = 65536 + 16
	cut := func(from, to int) []byte { return append(bytes.Clone(stream[:from]), stream[to:]...) }
	flip := func(i int) []byte { b := bytes.Clone(stream); b[i] ^= 1; return b }
	swapped := append(append(append(bytes.Clone(stream[:start]), stream[start+segment:start+2*segment]...), stream[start:start+segment]...), stream[start+2*segment:]...)
	for name, bad := range map[string][]byte{
		"a changed scheme":        flip(3),
		"a changed manifest":      flip(20),
		"a changed wrapped key":   flip(bytes.Index(stream, []byte(`"wfk":"`)) + 10),
		"a changed MAC":           flip(start - 10),
		"a changed first segment": flip(start + 5),
		"a changed last byte":     flip(len(stream) - 1),
		"a cut last segment":      stream[:start+3*segment],
		"a cut last byte":         stream[:len(stream)-1],
		"a cut header":            stream[:40],
		"nothing":                 nil,
		"a lost segment":          cut(start+segment, start+2*segment),
		"swapped segments":        swapped,
		"a byte more":             append(bytes.Clone(stream), 0),
		"an endless header":       bytes.Repeat([]byte("x"), 1<<20),
	} {
		var out bytes.Buffer
		err := p.Decrypt(t.Context(), &out, bytes.NewReader(bad), crypto.DecryptOptions{})
		if !fault.Is(err, fault.InvalidArgument) {
			t.Errorf("%s: %v; want invalid_argument", name, err)
		}
		if !bytes.HasPrefix(plaintext, out.Bytes()) {
			t.Errorf("%s: %d bytes came out that were not put in", name, out.Len())
		}
	}
}

func TestErrorsOfTheStreamsThemselvesComeBack(t *testing.T) {
	p := vectors(t)
	broken := errors.New("broken pipe")
	o := crypto.EncryptOptions{Key: "oct", KeyWrapAlgorithm: "AES"}
	if err := p.Encrypt(t.Context(), io.Discard, iotest.ErrReader(broken), o); !errors.Is(err, broken) {
		t.Errorf("Encrypt from a broken reader: %v", err)
	}
	r, w := io.Pipe()
	_ = r.CloseWithError(broken)
	if err := p.Encrypt(t.Context(), w, strings.NewReader("x"), o); !errors.Is(err, broken) {
		t.Errorf("Encrypt to a broken writer: %v", err)
	}
	if err := p.Decrypt(t.Context(), io.Discard, iotest.ErrReader(broken), crypto.DecryptOptions{}); !errors.Is(err, broken) {
		t.Errorf("Decrypt from a broken reader: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.Encrypt(ctx, io.Discard, strings.NewReader("x"), o); !fault.Is(err, fault.Canceled) {
		t.Errorf("Encrypt with a canceled context: %v", err)
	}
}

func FuzzDecryptNeverPanics(f *testing.F) {
	for _, file := range []string{"gcm-11", "chacha-300", "rsa-20", "unnamed-20", "gcm-0"} {
		stream, err := os.ReadFile("testdata/" + file + ".enc")
		if err != nil {
			f.Fatal(err)
		}
		f.Add(stream)
	}
	f.Add([]byte("dapr.io/enc/v1\n{}\n\n"))
	p := vectors(f)
	f.Fuzz(func(t *testing.T, stream []byte) {
		err := p.Decrypt(t.Context(), io.Discard, bytes.NewReader(stream), crypto.DecryptOptions{Key: "oct"})
		if err != nil && fault.CodeOf(err) == fault.Unknown {
			t.Errorf("an error that nobody classified: %v", err)
		}
	})
}

func FuzzParseKeyNeverPanics(f *testing.F) {
	f.Add([]byte(`{"kty":"oct","k":"AAECAwQFBgcICQoLDA0ODw"}`), uint8(0))
	f.Add([]byte("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"), uint8(2))
	f.Fuzz(func(t *testing.T, text []byte, format uint8) {
		_, err := crypto.ParseKey(text, crypto.KeyFormat(format%3))
		if err != nil && !fault.Is(err, fault.FailedPrecondition) {
			t.Error(err)
		}
	})
}

func BenchmarkEncryptStream(b *testing.B) {
	p := vectors(b)
	plaintext := counting(1 << 20)
	b.SetBytes(1 << 20)
	b.ReportAllocs()
	for b.Loop() {
		if err := p.Encrypt(b.Context(), io.Discard, bytes.NewReader(plaintext), crypto.EncryptOptions{Key: "oct", KeyWrapAlgorithm: "AES"}); err != nil {
			b.Fatal(err)
		}
	}
}
