package azure

import (
	"crypto/md5"
	"encoding/base64"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/proa-io/proa/block/binding"
	"github.com/proa-io/proa/block/binding/bindingtest"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/faultnet"
)

func openBlobs(t testing.TB, cfg BlobsConfig) *Blobs {
	t.Helper()
	b, err := OpenBlobs(t.Context(), cfg, component.Env{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return b
}

func invoke(t testing.TB, b *Blobs, operation, data string, metadata map[string]string) (binding.Response, error) {
	t.Helper()
	return b.Invoke(t.Context(), binding.Request{Operation: operation, Data: []byte(data), Metadata: metadata})
}

func mustInvoke(t testing.TB, b *Blobs, operation, data string, metadata map[string]string) binding.Response {
	t.Helper()
	r, err := invoke(t, b, operation, data, metadata)
	if err != nil {
		t.Fatalf("%s %v: %v", operation, metadata, err)
	}
	return r
}

func TestBinding(t *testing.T) {
	t.Parallel()
	addr := server.Get(t).Addr()
	request := binding.Request{Operation: "create", Data: []byte("x"), Metadata: map[string]string{"blobName": "a/b c"}}
	bindingtest.RunOutput(t, bindingtest.Output{
		Open:    func(t testing.TB) binding.Output { return openBlobs(t, BlobsConfig{StorageConfig: at(addr)}) },
		Request: request,
	})
	t.Run("OnABadNetwork", func(t *testing.T) {
		t.Parallel()
		bindingtest.RunNetwork(t, bindingtest.Network{
			Open: func(t testing.TB) (binding.Output, *faultnet.Proxy) {
				proxy := faultnet.New(t, addr)
				return openBlobs(t, BlobsConfig{StorageConfig: at(proxy.Addr())}), proxy
			},
			Request: request,
		})
	})
}

func TestABlobComesBackAsItWasCreated(t *testing.T) {
	t.Parallel()
	b := openBlobs(t, BlobsConfig{StorageConfig: at(server.Get(t).Addr())})
	sum := md5.Sum([]byte("it's \"text\"")) //nolint:gosec // as the service has it
	r := mustInvoke(t, b, "create", `"it's \"text\""`, map[string]string{
		"blobName": "dir/ü ?#%.txt", "ContentType": "text/plain", "contentMD5": base64.StdEncoding.EncodeToString(sum[:]),
		"cacheControl": "no-cache", "an-Owner": "m\u00fce\r\nX: y",
	})
	var made created
	if err := json.Unmarshal(r.Data, &made); err != nil || made.BlobName != "dir/ü ?#%.txt" || r.Metadata["blobName"] != made.BlobName || made.PresignURL != "" ||
		!strings.HasSuffix(made.BlobURL, "/dir/%C3%BC%20%3F%23%25.txt") {
		t.Errorf("create returned %s, %v", r.Data, r.Metadata)
	}
	r = mustInvoke(t, b, "get", "", map[string]string{"blobName": made.BlobName, "includeMetadata": "true"})
	if string(r.Data) != `it's "text"` || !maps.Equal(r.Metadata, map[string]string{"Anowner": "meX: y"}) {
		t.Errorf("get returned %q, %v", r.Data, r.Metadata)
	}
	if r := mustInvoke(t, b, "get", "", map[string]string{"blobName": made.BlobName}); len(r.Metadata) != 0 {
		t.Errorf("get without metadata returned %v", r.Metadata)
	}
	a, err := b.storage.do(t.Context(), request{method: http.MethodHead, blob: made.BlobName})
	if err != nil || a.Header.Get("Content-Type") != "text/plain" || a.Header.Get("Cache-Control") != "no-cache" {
		t.Errorf("the blob has %v, %v", a.Header, err)
	}
	random := mustInvoke(t, b, "create", "x", nil).Metadata["blobName"]
	if _, err := uuid.Parse(random); err != nil {
		t.Errorf("a blob without a name is called %q", random)
	}
	mustInvoke(t, b, "delete", "", map[string]string{"blobName": random, "deleteSnapshots": "include"})
	for _, operation := range []string{"get", "delete"} {
		if _, err := invoke(t, b, operation, "", map[string]string{"blobName": random}); !fault.Is(err, fault.NotFound) {
			t.Errorf("%s of a blob that is gone: %v", operation, err)
		}
	}
}

func TestDataInBase64AreDecoded(t *testing.T) {
	t.Parallel()
	b := openBlobs(t, BlobsConfig{StorageConfig: at(server.Get(t).Addr()), DecodeBase64: true})
	name := map[string]string{"blobName": "bytes"}
	mustInvoke(t, b, "create", "AP8=", name)
	if r := mustInvoke(t, b, "get", "", name); string(r.Data) != "\x00\xff" {
		t.Errorf("the blob is %q", r.Data)
	}
	if _, err := invoke(t, b, "create", "!", name); !fault.Is(err, fault.InvalidArgument) {
		t.Errorf("what is no Base64: %v", err)
	}
}

func TestALinkNeedsNoCredentials(t *testing.T) {
	t.Parallel()
	b := openBlobs(t, BlobsConfig{StorageConfig: at(server.Get(t).Addr())})
	name := map[string]string{"blobName": "dir/a b", "signTTL": "1m"}
	var made created
	if err := json.Unmarshal(mustInvoke(t, b, "create", "shared", name).Data, &made); err != nil {
		t.Fatal(err)
	}
	var signed struct{ PresignURL string }
	if err := json.Unmarshal(mustInvoke(t, b, "presign", "", name).Data, &signed); err != nil {
		t.Fatal(err)
	}
	for link, want := range map[string]string{made.PresignURL: "200 shared", signed.PresignURL: "200 shared", strings.Replace(signed.PresignURL, "a%20b", "c", 1): "403", made.BlobURL: "403"} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, link, nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if got := res.Status[:3] + " " + string(text); !strings.HasPrefix(got, want) {
			t.Errorf("%s: %s, want %s", link, got, want)
		}
	}
}

func TestBlobsAreListedInPages(t *testing.T) {
	t.Parallel()
	b := openBlobs(t, BlobsConfig{StorageConfig: at(server.Get(t).Addr())})
	for _, name := range []string{"a/1", "a/2", "a/3", "b"} {
		mustInvoke(t, b, "create", "text", map[string]string{"blobName": name, "contentType": "text/plain", "owner": "me"})
	}
	list := func(ask string) ([]listed, map[string]string) {
		t.Helper()
		r := mustInvoke(t, b, "list", ask, nil)
		var blobs []listed
		if err := json.Unmarshal(r.Data, &blobs); err != nil {
			t.Fatal(err)
		}
		return blobs, r.Metadata
	}
	names := func(blobs []listed) (out []string) {
		for _, l := range blobs {
			out = append(out, l.Name)
		}
		return out
	}
	all, meta := list("")
	if !slices.Equal(names(all), []string{"a/1", "a/2", "a/3", "b"}) || meta["number"] != "4" || meta["marker"] != "" || meta["pagesTraversed"] != "1" {
		t.Errorf("all: %v, %v", names(all), meta)
	}
	if p := all[0].Properties; *p.ContentLength != 4 || *p.ContentType != "text/plain" || p.LastModified.IsZero() || *p.ETag == "" || *p.BlobType != "BlockBlob" || all[0].Metadata != nil {
		t.Errorf("the first is %+v", all[0])
	}
	some, meta := list(`{"prefix":"a/","maxResults":2,"include":{"metadata":true}}`)
	if !slices.Equal(names(some), []string{"a/1", "a/2"}) || meta["marker"] == "" || some[0].Metadata["owner"] != "me" {
		t.Errorf("the first page: %v, %v, %v", names(some), meta, some[0].Metadata)
	}
	if rest, _ := list(`{"prefix":"a/","maxResults":2,"marker":"` + meta["marker"] + `"}`); !slices.Equal(names(rest), []string{"a/3"}) {
		t.Errorf("the second page: %v", names(rest))
	}
	if r := mustInvoke(t, b, "list", `{"prefix":"none"}`, nil); string(r.Data) != "[]" {
		t.Errorf("nothing: %s", r.Data)
	}
}

func TestRequestsThatCannotBeCarriedOut(t *testing.T) {
	t.Parallel()
	b := openBlobs(t, BlobsConfig{StorageConfig: at(server.Get(t).Addr())})
	for _, tc := range []struct {
		operation, data string
		metadata        map[string]string
		want            string
	}{
		{"get", "", nil, "blobName"},
		{"presign", "", map[string]string{"signTTL": "1m"}, "blobName"},
		{"presign", "", map[string]string{"blobName": "a"}, "signTTL"},
		{"create", "", map[string]string{"signTTL": "-1m"}, "signTTL"},
		{"create", "", map[string]string{"contentMD5": "AA=="}, "contentMD5"},
		{"create", "", map[string]string{"blobName": "a/../../other/b"}, "no blob can have"},
		{"create", "", map[string]string{"blobName": strings.Repeat("a", 1025)}, "no blob can have"},
		{"delete", "", map[string]string{"blobName": "a", "deleteSnapshots": "all"}, "deleteSnapshots"},
		{"get", "", map[string]string{"blobName": "a", "includeMetadata": "maybe"}, "includeMetadata"},
		{"list", "[", nil, "JSON"},
	} {
		if _, err := invoke(t, b, tc.operation, tc.data, tc.metadata); !fault.Is(err, fault.InvalidArgument) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s %s %v: %v, want %q", tc.operation, tc.data, tc.metadata, err, tc.want)
		}
	}
}
