package passthrough_test

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"slices"
	"strings"
	"testing"
)

// sum is a short way to compare long contents.
func sum(b []byte) string {
	s := sha256.Sum256(b)
	return fmt.Sprintf("%d bytes, %s", len(b), hex.EncodeToString(s[:8]))
}

func readAll(t *testing.T, r io.Reader) []byte {
	t.Helper()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestContentOfEveryLengthArrivesAsItWasSent(t *testing.T) {
	eachWay(t, func(t *testing.T, w way) {
		url := w.on(t, func(rw http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				t.Errorf("the application reads: %v", err)
			}
			rw.Header().Set("X-Got", fmt.Sprintf("%s, announced %d", sum(body), r.ContentLength))
			if r.ContentLength >= 0 {
				rw.Header().Set("Content-Length", fmt.Sprint(len(body)))
			} else {
				_ = http.NewResponseController(rw).Flush() // or net/http would count a short answer
			}
			_, _ = rw.Write(body)
		})
		for _, n := range []int{0, 1, 4096, 65536, 1 << 20} {
			content := text(n)
			for _, known := range []bool{true, false} {
				req := newRequest(t, "POST", url, string(content))
				announced := n
				if !known && n > 0 {
					req.Body, req.ContentLength, announced = io.NopCloser(bytes.NewReader(content)), -1, -1
				}
				resp := w.do(t, req)
				if got, want := resp.Header.Get("X-Got"), fmt.Sprintf("%s, announced %d", sum(content), announced); got != want {
					t.Errorf("the application got %s, want %s", got, want)
				}
				if got := readAll(t, resp.Body); !bytes.Equal(got, content) {
					t.Errorf("the client got %s, want %s", sum(got), sum(content))
				}
				if resp.ContentLength != int64(announced) {
					t.Errorf("the answer has length %d, want %d", resp.ContentLength, announced)
				}
			}
		}
	})
}

func TestTrailersPassBothWays(t *testing.T) {
	eachWay(t, func(t *testing.T, w way) {
		url := w.on(t, func(rw http.ResponseWriter, r *http.Request) {
			rw.Header().Set("Trailer", "X-Sum")
			_, _ = io.Copy(io.Discard, r.Body)
			_, _ = io.WriteString(rw, "content")
			rw.Header().Set("X-Sum", "of the answer")
			rw.Header().Set(http.TrailerPrefix+"X-Got", r.Trailer.Get("X-Check"))
		})
		req := newRequest(t, "POST", url, "")
		req.Body, req.ContentLength = io.NopCloser(strings.NewReader("abc")), -1
		req.Trailer = http.Header{"X-Check": {"of the request"}}
		req.Header.Set("Te", "trailers")
		resp := w.do(t, req)
		if got := string(readAll(t, resp.Body)); got != "content" {
			t.Errorf("the content is %q", got)
		}
		if got := resp.Trailer; got.Get("X-Sum") != "of the answer" || got.Get("X-Got") != "of the request" {
			t.Errorf("the trailers are %v", got)
		}
	})
}

func TestAnswersWithoutContentPass(t *testing.T) {
	eachWay(t, func(t *testing.T, w way) {
		url := w.on(t, func(rw http.ResponseWriter, r *http.Request) {
			switch r.URL.Query().Get("as") {
			case "head":
				rw.Header().Set("Content-Length", "12345")
			case "204":
				rw.WriteHeader(204)
			case "304":
				rw.Header().Set("Etag", `"x"`)
				rw.WriteHeader(304)
			case "205":
				rw.WriteHeader(205)
			}
		})
		for _, tc := range []struct {
			method, as string
			status     int
			length     int64
		}{{"HEAD", "head", 200, 12345}, {"GET", "204", 204, 0}, {"GET", "304", 304, 0}, {"HEAD", "304", 304, 0}, {"GET", "205", 205, 0}, {"OPTIONS", "204", 204, 0}} {
			resp := w.do(t, newRequest(t, tc.method, url+"?as="+tc.as, nil))
			if body := readAll(t, resp.Body); resp.StatusCode != tc.status || len(body) > 0 {
				t.Errorf("%s %s: status %d and %q", tc.method, tc.as, resp.StatusCode, body)
			}
			if tc.length > 0 && resp.ContentLength != tc.length {
				t.Errorf("%s %s: length %d, want %d", tc.method, tc.as, resp.ContentLength, tc.length)
			}
			if tc.as == "304" && resp.Header.Get("Etag") != `"x"` {
				t.Errorf("%s %s: %v", tc.method, tc.as, resp.Header)
			}
		}
	})
}

func TestInterimResponsesPassBeforeTheAnswer(t *testing.T) {
	eachWay(t, func(t *testing.T, w way) {
		seen := make(chan string, 4)
		url := w.on(t, func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Link", "</style.css>; rel=preload")
			rw.WriteHeader(http.StatusEarlyHints)
			rw.Header().Set("Link", "</other.css>; rel=preload")
			rw.WriteHeader(http.StatusEarlyHints)
			// The client has them before there is an answer.
			for range 2 {
				wait(t, seen, "early hints")
			}
			rw.Header().Del("Link")
			rw.WriteHeader(http.StatusAccepted)
		})
		var links []string
		req := newRequest(t, "GET", url, nil)
		req = req.WithContext(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
			Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
				links = append(links, fmt.Sprint(code, " ", h.Get("Link")))
				seen <- ""
				return nil
			},
		}))
		resp := w.do(t, req)
		if want := []string{"103 </style.css>; rel=preload", "103 </other.css>; rel=preload"}; !slices.Equal(links, want) {
			t.Errorf("interim responses %q, want %q", links, want)
		}
		if resp.StatusCode != http.StatusAccepted || resp.Header.Get("Link") != "" {
			t.Errorf("the answer is %d %v", resp.StatusCode, resp.Header)
		}
	})
}

func TestAClientThatExpectsContinueIsToldToGoOn(t *testing.T) {
	eachWay(t, func(t *testing.T, w way) {
		url := w.on(t, func(rw http.ResponseWriter, r *http.Request) {
			if r.URL.Query().Has("refuse") {
				rw.WriteHeader(http.StatusExpectationFailed)
				return
			}
			body, _ := io.ReadAll(r.Body)
			_, _ = rw.Write(body)
		})
		req := newRequest(t, "PUT", url, "content")
		req.Header.Set("Expect", "100-continue")
		if got := string(readAll(t, w.do(t, req).Body)); got != "content" {
			t.Errorf("the answer is %q", got)
		}
		// An answer may come without the content being asked for.
		req = newRequest(t, "PUT", url+"?refuse", string(text(1<<20)))
		req.Header.Set("Expect", "100-continue")
		if resp := w.do(t, req); resp.StatusCode != http.StatusExpectationFailed {
			t.Errorf("the answer is %s", resp.Status)
		}
	})
}

// TestFieldsPassInOrderAndTwice sends fields of one name in several lines, and
// looks at their values, not at what may stand between them (RFC 9110, section
// 5.3).
func TestFieldsPassInOrderAndTwice(t *testing.T) {
	eachWay(t, func(t *testing.T, w way) {
		url := w.on(t, func(rw http.ResponseWriter, r *http.Request) {
			for i, v := range r.Header["X-Many"] {
				rw.Header().Add("X-Back", fmt.Sprint(i, v))
			}
			rw.Header().Add("Set-Cookie", "a=1")
			rw.Header().Add("Set-Cookie", "b=2")
			rw.Header()["X-Empty"] = []string{r.Header.Get("X-Empty")}
			rw.Header().Set("X-Target", r.RequestURI)
		})
		req := newRequest(t, "GET", url+"/a%2Fb/c%20d?x=%20y&z=1+2&x=3", nil)
		req.Header["X-Many"] = []string{"one", "two", "one", "a, b"}
		req.Header["X-Empty"] = []string{""}
		resp := w.do(t, req)
		if got, want := resp.Header["X-Back"], []string{"0one", "1two", "2one", "3a, b"}; !slices.Equal(got, want) {
			t.Errorf("X-Many came as %q, want %q", got, want)
		}
		if got := resp.Header["Set-Cookie"]; !slices.Equal(got, []string{"a=1", "b=2"}) {
			t.Errorf("Set-Cookie came as %q", got)
		}
		if v, ok := resp.Header["X-Empty"]; !ok || v[0] != "" {
			t.Errorf("the empty field came as %q", v)
		}
		if got := resp.Header.Get("X-Target"); !strings.HasSuffix(got, "/a%2Fb/c%20d?x=%20y&z=1+2&x=3") {
			t.Errorf("the target came as %q", got)
		}
	})
}

func TestLargeHeadsPass(t *testing.T) {
	eachWay(t, func(t *testing.T, w way) {
		url := w.on(t, func(rw http.ResponseWriter, r *http.Request) {
			rw.Header().Set("X-Large", r.Header.Get("X-Large"))
			for i := range 60 {
				name := fmt.Sprintf("X-Field-%d", i)
				rw.Header().Set(name, r.Header.Get(name))
			}
		})
		req := newRequest(t, "GET", url, nil)
		large := string(text(48 << 10))
		req.Header.Set("X-Large", large)
		for i := range 60 {
			req.Header.Set(fmt.Sprintf("X-Field-%d", i), fmt.Sprint("value ", i))
		}
		resp := w.do(t, req)
		if resp.StatusCode != 200 || resp.Header.Get("X-Large") != large || resp.Header.Get("X-Field-59") != "value 59" {
			t.Errorf("status %d, and of the large field %d of %d bytes came back", resp.StatusCode, len(resp.Header.Get("X-Large")), len(large))
		}
	})
}

func TestAHeadThatIsTooLargeIsRefusedAndNothingElse(t *testing.T) {
	eachWay(t, func(t *testing.T, w way) {
		url := w.on(t, func(http.ResponseWriter, *http.Request) { t.Error("the application saw it") })
		req := newRequest(t, "GET", url, nil)
		req.Header.Set("X-Large", string(text(100<<10)))
		resp, err := w.client.Do(req)
		if err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
				t.Errorf("the answer is %s", resp.Status)
			}
		} else if !w.two { // net/http looks at SETTINGS_MAX_HEADER_LIST_SIZE itself
			t.Error(err)
		}
	})
}

// TestWhatBelongsToOneConnectionStaysThere is RFC 9110, section 7.6.1, in both
// directions.
func TestWhatBelongsToOneConnectionStaysThere(t *testing.T) {
	t.Parallel()
	eachMesh(t, func(t *testing.T, m *mesh) {
		heads := make(chan string, 1)
		path := m.raw.add(t, func(c *rawCall) {
			heads <- c.head
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nConnection: X-Hop-Back, close\r\nX-Hop-Back: 1\r\nKeep-Alive: timeout=5\r\n"+
				"Proxy-Authenticate: Basic\r\nX-KEPT-Back: yes\r\nContent-Length: 2\r\n\r\nok")
		})
		c := m.dialRaw(t)
		_, _ = fmt.Fprintf(c, "GET /v1.0/invoke/raw/method%s HTTP/1.1\r\nHost: a\r\nConnection: X-Hop, keep-alive, x-other\r\nX-Hop: 1\r\nx-other: 2\r\n"+
			"Keep-Alive: timeout=9\r\nProxy-Connection: keep-alive\r\nProxy-Authorization: Basic x\r\nTE: gzip;q=1, trailers\r\nUpgrade: none\r\nX-KEPT: yes\r\n\r\n", path)
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := string(readAll(t, resp.Body)); got != "ok" {
			t.Errorf("the content is %q", got)
		}
		got := fields(wait(t, heads, "request"))
		for _, name := range []string{"x-hop", "x-other", "keep-alive", "proxy-connection", "proxy-authorization", "upgrade"} {
			if v, ok := got[name]; ok {
				t.Errorf("the application saw %s: %s", name, v)
			}
		}
		if got["x-kept"] != "yes" || got["te"] != "trailers" {
			t.Errorf("the application saw %v", got)
		}
		for _, name := range []string{"X-Hop-Back", "Keep-Alive", "Proxy-Authenticate", "Connection"} {
			if v := resp.Header.Get(name); v != "" {
				t.Errorf("the client saw %s: %s", name, v)
			}
		}
		if resp.Header.Get("X-Kept-Back") != "yes" {
			t.Errorf("the client saw %v", resp.Header)
		}
	})
}

// fields returns the fields of a head, by their names in lower case.
func fields(head string) map[string]string {
	out := map[string]string{}
	for _, line := range strings.Split(head, "\r\n")[1:] {
		if name, value, ok := strings.Cut(line, ": "); ok {
			out[strings.ToLower(name)] = value
		}
	}
	return out
}

// TestTheSpellingOfNamesStaysWithinHTTP1 asks an application through its own
// sidecar: between two sidecars is HTTP/2, where all names are in lower case.
func TestTheSpellingOfNamesStaysWithinHTTP1(t *testing.T) {
	t.Parallel()
	eachMesh(t, func(t *testing.T, m *mesh) {
		heads := make(chan string, 1)
		path := m.raw.add(t, func(c *rawCall) {
			heads <- c.head
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nX-bAcK: One\r\nx-BaCk: Two\r\nContent-Length: 0\r\n\r\n")
		})
		c := (&mesh{front: m.beside}).dialRaw(t)
		_, _ = fmt.Fprintf(c, "GET /v1.0/invoke/raw/method%s HTTP/1.1\r\nHost: a\r\nX-oDD: 1\r\nx-Odd: 2\r\nConnection: close\r\n\r\n", path)
		answer := string(readAll(t, c))
		head := wait(t, heads, "request")
		for text, wants := range map[string][]string{head: {"\r\nX-oDD: 1\r\n", "\r\nx-Odd: 2\r\n"}, answer: {"\r\nX-bAcK: One\r\n", "\r\nx-BaCk: Two\r\n"}} {
			before := 0
			for _, want := range wants {
				at := strings.Index(text, want)
				if at < before {
					t.Errorf("%q is not there, or not in order, in %q", want, text)
				}
				before = max(before, at)
			}
		}
	})
}

// TestWhoCallsIsSaidByTheSidecarAlone has a client claim to be somebody else.
func TestWhoCallsIsSaidByTheSidecarAlone(t *testing.T) {
	eachWay(t, func(t *testing.T, w way) {
		seen := make(chan http.Header, 1)
		url := w.on(t, func(_ http.ResponseWriter, r *http.Request) { seen <- r.Header.Clone() })
		req := newRequest(t, "GET", url, nil)
		for name, value := range map[string]string{
			"dapr-caller-app-id": "admin", "dapr-caller-namespace": "elsewhere", "dapr-callee-app-id": "other", "dapr-api-token": "x",
			"proa-fault": "internal", "X-Forwarded-For": "192.0.2.1", "Via": "1.1 before",
		} {
			req.Header.Set(name, value)
		}
		w.do(t, req)
		h := wait(t, seen, "request")
		for name, want := range map[string]string{
			"Dapr-Caller-App-Id": "front", "Dapr-Caller-Namespace": "default", "Dapr-Callee-App-Id": w.app.id, "Dapr-Api-Token": "", "Proa-Fault": "",
			"Via": "1.1 before",
		} {
			if got := strings.Join(h.Values(name), ","); got != want {
				t.Errorf("%s: %q, want %q", name, got, want)
			}
		}
		if v := h.Values("X-Forwarded-For"); len(v) != 2 || v[0] != "192.0.2.1" || h.Get("Forwarded") == "" || h.Get("X-Forwarded-Host") == "" {
			t.Errorf("X-Forwarded-For is %q of %v", v, h)
		}
	})
}
