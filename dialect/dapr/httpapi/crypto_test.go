package httpapi

import (
	"bytes"
	"io"
	"net/http"
	"testing"

	"github.com/proa-io/proa/mesh/http1"
)

func TestBodiesAreEncryptedAndDecrypted(t *testing.T) {
	address := listen(t, &http1.Server{Handler: New(Options{AppID: "shop", Blocks: newWorld(t)}).Handle})
	put := func(path string, body []byte, header ...string) []byte {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://"+address+"/v1.0-alpha1/crypto/keys/"+path, bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(header); i += 2 {
			req.Header.Set(header[i], header[i+1])
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		out, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "application/octet-stream" {
			t.Fatalf("%s: %s, %.200q, %v", path, resp.Status, out, err)
		}
		return out
	}
	for _, size := range []int{0, 1, 65536, 200_000} {
		plaintext := bytes.Repeat([]byte{7}, size)
		sealed := put("encrypt", plaintext, "dapr-key-name", "oct", "dapr-key-wrap-algorithm", "aes",
			"dapr-data-encryption-cipher", "chacha20-poly1305", "dapr-omit-decryption-key-name", "true")
		if !bytes.HasPrefix(sealed, []byte("dapr.io/enc/v1\n{\"kw\":1,")) {
			t.Errorf("encrypted to %.40q", sealed)
		}
		if got := put("decrypt", sealed, "dapr-key-name", "oct"); !bytes.Equal(got, plaintext) {
			t.Errorf("%d bytes were decrypted to %d", size, len(got))
		}
	}
}
