package s3

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"

	"github.com/proa-io/proa/block/binding"
	"github.com/proa-io/proa/block/binding/bindingtest"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/fastloop"
	"github.com/proa-io/proa/internal/faultnet"
)

const bucket = "boats"

// A service stands in for S3. It keeps the head of the last request that made an
// object.
type service struct {
	*httptest.Server
	made atomic.Pointer[http.Request]
}

func newService(t testing.TB) *service {
	t.Helper()
	backend := s3mem.New()
	if err := backend.CreateBucket(bucket); err != nil {
		t.Fatal(err)
	}
	handler := gofakes3.New(backend).Server()
	s := &service{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut {
			s.made.Store(r.Clone(r.Context()))
		}
		handler.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

func configOf(endpoint string) Config {
	return Config{
		Bucket: bucket, Region: "us-east-1", Endpoint: endpoint, ForcePathStyle: true,
		AccessKey: component.NewSecret("key-id"), SecretKey: component.NewSecret("key-secret"),
	}
}

func open(t testing.TB, cfg Config) *Binding {
	t.Helper()
	b, err := Open(t.Context(), cfg, component.Env{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return b
}

// invoke carries out an operation. Metadata come in pairs.
func invoke(t testing.TB, b *Binding, operation, data string, metadata ...string) (binding.Response, error) {
	t.Helper()
	r := binding.Request{Operation: operation, Data: []byte(data), Metadata: map[string]string{}}
	for i := 0; i < len(metadata); i += 2 {
		r.Metadata[metadata[i]] = metadata[i+1]
	}
	return b.Invoke(t.Context(), r)
}

func must(t testing.TB, b *Binding, operation, data string, metadata ...string) string {
	t.Helper()
	r, err := invoke(t, b, operation, data, metadata...)
	if err != nil {
		t.Fatalf("%s: %v", operation, err)
	}
	return string(r.Data)
}

// parse reads an answer.
func parse(t testing.TB, text string) (out any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &out); err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	return out
}

func TestBinding(t *testing.T) {
	t.Parallel()
	s := newService(t)
	create := binding.Request{Operation: "create", Data: []byte("x"), Metadata: map[string]string{"key": "of the suite"}}
	bindingtest.RunOutput(t, bindingtest.Output{
		Open:    func(t testing.TB) binding.Output { return open(t, configOf(s.URL)) },
		Request: create,
	})
	t.Run("OnABadNetwork", func(t *testing.T) {
		t.Parallel()
		for _, operation := range []string{"create", "list", "delete"} {
			t.Run(operation, func(t *testing.T) {
				t.Parallel()
				r := create
				if r.Operation = operation; operation == "list" {
					r.Data = nil
				}
				bindingtest.RunNetwork(t, bindingtest.Network{
					Open: func(t testing.TB) (binding.Output, *faultnet.Proxy) {
						proxy := faultnet.New(t, s.Listener.Addr().String())
						return open(t, configOf("http://"+proxy.Addr())), proxy
					},
					Request: r,
				})
			})
		}
	})
}

func TestObjectsAreCreatedReadAndDeleted(t *testing.T) {
	t.Parallel()
	s := newService(t)
	b := open(t, configOf(s.URL))
	for name, tc := range map[string]struct{ data, want string }{
		"bytes":                   {"a\x00b\xff", "a\x00b\xff"},
		"a text of JSON":          {`"it's \"quoted\" ⛵"`, `it's "quoted" ⛵`},
		"an object of JSON":       {`{"a": 1}`, `{"a": 1}`},
		"a deep/name with +%?&=#": {"x", "x"},
		"nothing":                 {"", ""},
		"much":                    {strings.Repeat("0123456789abcdef", 1<<17), strings.Repeat("0123456789abcdef", 1<<17)},
	} {
		r, err := invoke(t, b, "create", tc.data, "key", name)
		if err != nil {
			t.Errorf("create %q: %v", name, err)
			continue
		}
		answer := parse(t, string(r.Data)).(map[string]any)
		if location := answer["location"].(string); !strings.HasPrefix(location, s.URL+"/"+bucket+"/") || strings.Contains(location, "X-Amz") || r.Metadata["key"] != name {
			t.Errorf("create %q answers %v, %v", name, answer, r.Metadata)
		}
		if got := must(t, b, "get", "", "key", name); got != tc.want {
			t.Errorf("get %q: %.40q, want %.40q", name, got, tc.want)
		}
		must(t, b, "delete", "", "key", name)
		must(t, b, "delete", "", "key", name)
		if _, err := invoke(t, b, "get", "", "key", name); !fault.Is(err, fault.NotFound) || !strings.Contains(fault.Message(err), name) {
			t.Errorf("get %q when it is deleted: %v", name, err)
		}
	}
	first, err := invoke(t, b, "create", "x")
	second, err2 := invoke(t, b, "create", "x")
	if err != nil || err2 != nil || len(first.Metadata["key"]) != 36 || first.Metadata["key"] == second.Metadata["key"] {
		t.Errorf("objects without a key are called %v and %v (%v, %v)", first.Metadata, second.Metadata, err, err2)
	}
}

func TestMetadataGoOverSettings(t *testing.T) {
	t.Parallel()
	s := newService(t)
	cfg := configOf(s.URL)
	cfg.DecodeBase64, cfg.EncodeBase64, cfg.StorageClass = true, true, "STANDARD_IA"
	b := open(t, cfg)
	must(t, b, "create", base64.StdEncoding.EncodeToString([]byte{0, 1, 0xff}), "key", "k", "Content-Type", "image/png", "tags", "a=1, b = x y")
	head := s.made.Load().Header
	for name, want := range map[string]string{"X-Amz-Storage-Class": "STANDARD_IA", "Content-Type": "image/png", "X-Amz-Tagging": "a=1&b=x+y"} {
		if got := head.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if got := must(t, b, "get", "", "key", "k"); got != "AAH/" {
		t.Errorf("get answers %q, want Base64", got)
	}
	if got := must(t, b, "get", "", "key", "k", "encodeBase64", "false"); got != "\x00\x01\xff" {
		t.Errorf("get answers %q, want bytes", got)
	}
	must(t, b, "create", "no Base64!", "key", "k", "decodeBase64", "no", "storageClass", "GLACIER")
	if got := s.made.Load().Header.Get("X-Amz-Storage-Class"); got != "GLACIER" {
		t.Errorf("storage class %q", got)
	}
	if got := must(t, b, "get", "", "key", "k", "encodeBase64", "0"); got != "no Base64!" {
		t.Errorf("get answers %q", got)
	}
}

func TestFilesAreSentAndWritten(t *testing.T) {
	t.Parallel()
	s := newService(t)
	b := open(t, configOf(s.URL))
	dir := t.TempDir()
	source, target := filepath.Join(dir, "source"), filepath.Join(dir, "target")
	content := strings.Repeat("line\n", 1<<12)
	if err := os.WriteFile(source, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	must(t, b, "create", "not this", "key", "k", "filePath", source)
	if got := must(t, b, "get", "", "key", "k"); got != content {
		t.Errorf("got %d bytes, want %d", len(got), len(content))
	}
	got := parse(t, must(t, b, "bulkget", fmt.Sprintf(`{"items":[{"key":"k","filePath":%q},{"key":"missing","filePath":%q}]}`, target, target+"2")))
	want := []any{map[string]any{"key": "k", "filePath": target}, map[string]any{"key": "missing", "error": `object "missing": does not exist`}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("bulkGet answers %v, want %v", got, want)
	}
	text, err := os.ReadFile(target)
	if err != nil || string(text) != content {
		t.Errorf("the file has %d bytes (%v), want %d", len(text), err, len(content))
	}
	if files, err := os.ReadDir(dir); err != nil || len(files) != 2 {
		t.Errorf("there are %v (%v), want the source and the target", files, err)
	}
	if _, err := invoke(t, b, "create", "", "key", "k", "filePath", filepath.Join(dir, "none")); !fault.Is(err, fault.NotFound) {
		t.Errorf("a file that does not exist: %v", err)
	}
}

func TestObjectsAreListedInPages(t *testing.T) {
	t.Parallel()
	b := open(t, configOf(newService(t).URL))
	for _, key := range []string{"a/1", "a/2", "a/3", "b/1", "c"} {
		must(t, b, "create", "content", "key", key)
	}
	var keys []string
	for marker := ""; ; {
		got := parse(t, must(t, b, "list", fmt.Sprintf(`{"maxResults":2,"prefix":"a/","marker":%q}`, marker))).(map[string]any)
		for _, o := range got["Contents"].([]any) {
			o := o.(map[string]any)
			if o["Size"] != 7.0 || o["ETag"] == "" || o["LastModified"] == "" {
				t.Errorf("object %v", o)
			}
			keys = append(keys, o["Key"].(string))
		}
		if got["Name"] != bucket || got["Prefix"] != "a/" || got["MaxKeys"] != 2.0 {
			t.Errorf("page %v", got)
		}
		if got["IsTruncated"] != true {
			break
		}
		marker = got["NextMarker"].(string)
	}
	if want := []string{"a/1", "a/2", "a/3"}; !reflect.DeepEqual(keys, want) {
		t.Errorf("listed %q, want %q", keys, want)
	}
	got := parse(t, must(t, b, "list", `{"delimiter":"/"}`)).(map[string]any)
	if prefixes := fmt.Sprint(got["CommonPrefixes"]); prefixes != "[map[Prefix:a/] map[Prefix:b/]]" || len(got["Contents"].([]any)) != 1 {
		t.Errorf("prefixes %s and %v", prefixes, got["Contents"])
	}
	if all := parse(t, must(t, b, "list", "")).(map[string]any); len(all["Contents"].([]any)) != 5 {
		t.Errorf("all: %v", all)
	}
}

func TestLinksAreSigned(t *testing.T) {
	t.Parallel()
	b := open(t, configOf(newService(t).URL))
	created := parse(t, must(t, b, "create", "for everyone", "key", "k", "presignTTL", "15m")).(map[string]any)
	signed := parse(t, must(t, b, "presign", "", "key", "k", "presignTTL", "90s")).(map[string]any)
	for link, seconds := range map[string]string{created["presignURL"].(string): "900", signed["presignURL"].(string): "90"} {
		if !strings.Contains(link, "X-Amz-Expires="+seconds+"&") || strings.Contains(link, "key-secret") {
			t.Errorf("link %s, want one for %s s", link, seconds)
		}
		resp, err := http.Get(link)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil || string(text) != "for everyone" {
			t.Errorf("the link leads to %q (%v)", text, err)
		}
	}
}

func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	b := open(t, configOf(newService(t).URL))
	got := parse(t, must(t, b, "bulkcreate", `{"items":[{"key":"1","data":"one"},{"key":"2","data":"two","contentType":"text/plain"},{"key":"3"},{"key":"4","data":"x","filePath":"y"}],"concurrency":2}`)).([]any)
	for i, want := range []string{"", "", `it wants either "data" or "filePath"`, `it wants either "data" or "filePath"`} {
		r := got[i].(map[string]any)
		if text, _ := r["error"].(string); r["key"] != fmt.Sprint(i+1) || text != want || (want == "") != (r["location"] != nil) {
			t.Errorf("item %d: %v, want error %q", i, r, want)
		}
	}
	must(t, b, "create", "\xff\xfe", "key", "bytes")
	for encode, want := range map[string]string{
		"false": `[{"key":"1","data":"one"},{"key":"bytes","error":"it is no text: ask for encodeBase64"},{"key":"none","error":"object \"none\": does not exist"}]`,
		"true":  `[{"key":"1","data":"b25l"},{"key":"bytes","data":"//4="},{"key":"none","error":"object \"none\": does not exist"}]`,
	} {
		if got := must(t, b, "bulkget", `{"items":[{"key":"1"},{"key":"bytes"},{"key":"none"}]}`, "encodeBase64", encode); got != want {
			t.Errorf("bulkGet answers %s, want %s", got, want)
		}
	}
	if got, want := must(t, b, "bulkdelete", `{"keys":["1","none","2"]}`), `[{"key":"1"},{"key":"none"},{"key":"2"}]`; got != want {
		t.Errorf("bulkDelete answers %s, want %s", got, want)
	}
	if _, err := invoke(t, b, "get", "", "key", "1"); !fault.Is(err, fault.NotFound) {
		t.Errorf("get of what was deleted: %v", err)
	}
}

func TestRequestsThatCannotBeCarriedOut(t *testing.T) {
	t.Parallel()
	s := newService(t)
	b := open(t, configOf(s.URL))
	for _, tc := range []struct {
		operation, data string
		metadata        []string
		want            string
	}{
		{"get", "", nil, `"key" is missing`},
		{"delete", "", nil, `"key" is missing`},
		{"presign", "", []string{"key", "k"}, `"presignTTL" is missing`},
		{"presign", "", []string{"key", "k", "presignTTL", "8d"}, "presignTTL"},
		{"create", "", []string{"presignTTL", "200h"}, "from 1s to 168h"},
		{"create", "", []string{"decodeBase64", "perhaps"}, "true or false"},
		{"create", "no Base64!", []string{"decodeBase64", "true"}, "not Base64"},
		{"create", "", []string{"tags", "a"}, "name=value"},
		{"list", "[]", nil, "JSON object"},
		{"bulkget", "{}", nil, "one at least"},
		{"bulkget", `{"items":[{}]}`, nil, `no "key"`},
		{"bulkget", `{"items":[{"key":"a"}],"concurrency":-1}`, nil, "negative"},
		{"bulkcreate", `x`, nil, "JSON object"},
		{"bulkdelete", `{"keys":[]}`, nil, `"keys"`},
	} {
		_, err := invoke(t, b, tc.operation, tc.data, tc.metadata...)
		if !fault.Is(err, fault.InvalidArgument) || !strings.Contains(fault.Message(err), tc.want) {
			t.Errorf("%s %s %v: %v, want invalid_argument and %q", tc.operation, tc.data, tc.metadata, err, tc.want)
		}
	}
	cfg := configOf(s.URL)
	cfg.Bucket = "none"
	for _, operation := range []string{"create", "list"} {
		if _, err := invoke(t, open(t, cfg), operation, ""); !fault.Is(err, fault.FailedPrecondition) {
			t.Errorf("%s in a bucket that does not exist: %v", operation, err)
		}
	}
}

func TestAnswersOfTheServiceAreNamed(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]fault.Code{
		"403 AccessDenied": fault.PermissionDenied, "403 InvalidAccessKeyId": fault.Unauthenticated, "403 SignatureDoesNotMatch": fault.Unauthenticated,
		"503 SlowDown": fault.ResourceExhausted, "500 InternalError": fault.Unavailable, "400 KeyTooLongError": fault.InvalidArgument,
		"301 PermanentRedirect": fault.FailedPrecondition, "501 NotImplemented": fault.Unimplemented, "403 InvalidObjectState": fault.FailedPrecondition,
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			var status int
			var code string
			if _, err := fmt.Sscan(text, &status, &code); err != nil {
				t.Error(err)
			}
			w.WriteHeader(status)
			_, _ = fmt.Fprintf(w, `<?xml version="1.0"?><Error><Code>%s</Code><Message>in other words</Message></Error>`, code)
		}))
		b := open(t, configOf(server.URL))
		for _, operation := range []string{"get", "list"} {
			if _, err := invoke(t, b, operation, "", "key", "k"); !fault.Is(err, want) || strings.Contains(err.Error(), "key-secret") {
				t.Errorf("%s, answered %s: %v, want %v", operation, text, err, want)
			}
		}
		server.Close()
	}
}

func TestSettingsThatCanNeverWork(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"region=x":                              `"bucket": is required`,
		"bucket=a":                              `"bucket": is no name of a bucket`,
		"bucket=boats accessKey=hunter2":        `"secretKey": accessKey and secretKey go together`,
		"bucket=boats endpoint=ftp://x":         `"endpoint": wants the address`,
		"bucket=boats endpoint=http://x/y":      `"endpoint": wants the address`,
		"bucket=boats endpoint=http://u:p@x":    `"endpoint": wants the address`,
		"bucket=boats presignTTL=1000h":         `"presignTTL": must be from 1s to 168h`,
		"bucket=boats forcePathStyle=sometimes": `"forcePathStyle": wants true or false`,
	} {
		var settings component.Settings
		for pair := range strings.FieldsSeq(text) {
			name, value, _ := strings.Cut(pair, "=")
			settings = append(settings, component.Setting{Name: name, Value: value})
		}
		cfg := Config{}
		if err := settings.Decode(&cfg); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

func TestWhereTheServiceIs(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		cfg  Config
		want string // the address of an object
	}{
		{Config{Region: "eu-central-1"}, "https://boats.s3.dualstack.eu-central-1.amazonaws.com/k"},
		{Config{Region: "eu-central-1", ForcePathStyle: true}, "https://s3.dualstack.eu-central-1.amazonaws.com/boats/k"},
		{Config{Endpoint: "minio.example:9000", ForcePathStyle: true}, "https://minio.example:9000/boats/k"},
		{Config{Endpoint: "minio.example:9000", ForcePathStyle: true, DisableSSL: true}, "http://minio.example:9000/boats/k"},
		{Config{Endpoint: "http://minio.example:9000/"}, "http://boats.minio.example:9000/k"},
	} {
		tc.cfg.Bucket, tc.cfg.AccessKey, tc.cfg.SecretKey = bucket, component.NewSecret("a"), component.NewSecret("b")
		if tc.cfg.Region == "" {
			tc.cfg.Region = "us-east-1"
		}
		u, err := open(t, tc.cfg).link(t.Context(), "k", minPresign)
		if err != nil {
			t.Errorf("%+v: %v", tc.cfg, err)
			continue
		}
		if u.RawQuery = ""; u.String() != tc.want {
			t.Errorf("%+v: %s, want %s", tc.cfg, u, tc.want)
		}
	}
}

// The stand-in does not take parts as they are signed without TLS.
func TestLargeFilesGoInParts(t *testing.T) {
	fastloop.Skip(t, "takes seconds")
	t.Parallel()
	s := newService(t)
	secure := httptest.NewTLSServer(s.Config.Handler)
	t.Cleanup(secure.Close)
	cfg := configOf(secure.URL)
	if _, err := invoke(t, open(t, cfg), "create", "x"); !fault.Is(err, fault.Unavailable) {
		t.Errorf("a server that cannot be verified: %v", err)
	}
	cfg.InsecureSSL = true
	b := open(t, cfg)
	content := strings.Repeat("0123456789abcde\n", 17<<16) // 17 MiB, which are two parts
	for _, decode := range []bool{false, true} {
		text := content
		if decode {
			text = base64.StdEncoding.EncodeToString([]byte(content))
		}
		file := filepath.Join(t.TempDir(), "large")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		must(t, b, "create", "", "key", "large", "filePath", file, "decodeBase64", fmt.Sprint(decode))
		if got := must(t, b, "get", "", "key", "large"); got != content {
			t.Errorf("decode %v: got %d bytes, want %d", decode, len(got), len(content))
		}
		if decode {
			if err := os.WriteFile(file, []byte(text+"!"), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := invoke(t, b, "create", "", "key", "bad", "filePath", file, "decodeBase64", "true"); !fault.Is(err, fault.InvalidArgument) {
				t.Errorf("a file that is not Base64 at its end: %v", err)
			}
		}
	}
}

// TestWithoutCredentials uses a bucket that anybody may write to. No link can be
// signed then.
func TestWithoutCredentials(t *testing.T) {
	t.Setenv("HOME", t.TempDir())
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", filepath.Join(t.TempDir(), "none"))
	for _, name := range []string{"AWS_ACCESS_KEY_ID", "AWS_ACCESS_KEY", "AWS_SECRET_ACCESS_KEY", "AWS_SECRET_KEY"} {
		t.Setenv(name, "")
	}
	machine := httptest.NewServer(http.NotFoundHandler()) // which knows of no credentials
	t.Cleanup(machine.Close)
	t.Setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", machine.URL)
	s := newService(t)
	cfg := configOf(s.URL)
	cfg.AccessKey, cfg.SecretKey = component.Secret{}, component.Secret{}
	b := open(t, cfg)
	created := parse(t, must(t, b, "create", "for everyone", "key", "a b")).(map[string]any)
	if want := s.URL + "/" + bucket + "/a%20b"; created["location"] != want {
		t.Errorf("location %v, want %s", created["location"], want)
	}
	if got := must(t, b, "get", "", "key", "a b"); got != "for everyone" {
		t.Errorf("got %q", got)
	}
	if _, err := invoke(t, b, "presign", "", "key", "a b", "presignTTL", "1m"); !fault.Is(err, fault.InvalidArgument) || !strings.Contains(fault.Message(err), "credentials") {
		t.Errorf("presign: %v", err)
	}
}
