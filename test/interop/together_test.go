package interop_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/proa-io/proa/internal/fastloop"
	"github.com/proa-io/proa/internal/freeport"
	"github.com/proa-io/proa/test/interop/harness"
)

// A kind is an application of one SDK that is called over one protocol.
type kind struct {
	name     string
	sdk      func(*testing.T) sdk
	protocol string
}

func kinds() []kind {
	return []kind{
		{"js-http", javascript, "http"}, {"js-grpc", javascript, "grpc"},
		{"go-http", golang, "http"}, {"go-grpc", golang, "grpc"},
		{"python-http", python, "http"}, {"python-grpc", python, "grpc"},
		{"java-http", java, "http"}, {"java-grpc", java, "grpc"},
	}
}

// TestApplicationsOfAllSDKsWorkTogether runs an application of every kind, each
// with its sidecar, on one engine that the sidecars share.
func TestApplicationsOfAllSDKsWorkTogether(t *testing.T) {
	fastloop.Skip(t, "runs other programs")
	t.Parallel()
	home := harness.TempDir(t)
	var sidecars []*harness.Sidecar
	for _, k := range kinds() {
		s := k.sdk(t)
		sidecars = append(sidecars, proa.Get(t).Run(t, harness.Options{
			AppID: k.name, AppProtocol: k.protocol, Home: home, Env: s.env, App: s.app("peer", k.protocol),
		}))
	}
	for _, s := range sidecars {
		s.WaitReady()
	}
	for _, from := range sidecars {
		for _, to := range sidecars {
			t.Run(from.AppID+" invokes "+to.AppID, func(t *testing.T) { called(t, from, to.AppID) })
		}
	}
	publish(t, sidecars[0], "declared", `{"n":1}`)
	for _, s := range sidecars {
		t.Run("an event of "+sidecars[0].AppID+" reaches "+s.AppID, func(t *testing.T) {
			received(t, s, "received", `[{"n":1}]`)
		})
	}
}

// TestApplicationsOutliveTheirSidecars starts an application of every kind before
// there is a sidecar, and kills that while the application runs.
func TestApplicationsOutliveTheirSidecars(t *testing.T) {
	fastloop.Skip(t, "runs other programs")
	t.Parallel()
	for _, k := range kinds() {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			outlive(t, k)
		})
	}
}

func outlive(t *testing.T, k kind) {
	o := harness.Options{AppID: k.name, AppProtocol: k.protocol, Home: harness.TempDir(t)}
	for _, port := range []*int{&o.AppPort, &o.HTTPPort, &o.GRPCPort} {
		var err error
		if *port, err = freeport.Pick(); err != nil {
			t.Fatal(err)
		}
	}
	s, program := k.sdk(t), proa.Get(t) // which may take its time, while no application waits for it
	waiting := make(chan struct{})
	app := harness.Start(t, harness.Command{
		Name: k.name, Args: s.app("peer", k.protocol),
		Env: append([]string{
			"APP_ID=" + k.name, "APP_PORT=" + strconv.Itoa(o.AppPort),
			"DAPR_HTTP_PORT=" + strconv.Itoa(o.HTTPPort), "DAPR_GRPC_PORT=" + strconv.Itoa(o.GRPCPort),
			"DAPR_CLIENT_TIMEOUT_SECONDS=60", // which the Go SDK takes for how long to wait
		}, s.env...),
		OnLine: func(line string) {
			if line == "waiting for the sidecar" {
				close(waiting)
			}
		},
	})
	select {
	case <-waiting:
	case <-app.Done():
		t.Fatal("the application ended before there was a sidecar")
	case <-time.After(time.Minute):
		t.Fatal("the application does not get as far as to wait for its sidecar")
	}

	sidecar := program.Run(t, o)
	sidecar.WaitReady()
	use(t, k, sidecar, 1)

	sidecar.Kill()
	sidecar = program.Run(t, o)
	sidecar.WaitReady()
	use(t, k, sidecar, 2)
}

// use has the application called, call, and receive the n-th event.
func use(t *testing.T, k kind, s *harness.Sidecar, n int) {
	event := fmt.Sprintf(`{"n":%d}`, n)
	called(t, s, k.name)
	publish(t, s, "declared", event)
	arrived(t, s, "received", event)
	if strings.HasPrefix(k.name, "python") { // the one SDK that opens a stream again by itself
		publish(t, s, "streamed", event)
		arrived(t, s, "streamed", event)
	}
}

// called has one application call another, and wants to see the answer.
func called(t *testing.T, from *harness.Sidecar, to string) {
	t.Helper()
	var got struct {
		By     string
		Answer struct {
			By, ContentType string
			Body            struct{ From string }
		}
	}
	text := post(t, from, "/v1.0/invoke/"+from.AppID+"/method/call", `{"target":"`+to+`"}`)
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatalf("%s answers %q: %v", from.AppID, text, err)
	}
	want := got
	want.By, want.Answer.By, want.Answer.ContentType, want.Answer.Body.From = from.AppID, to, "application/json", from.AppID
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func publish(t *testing.T, s *harness.Sidecar, topic, event string) {
	t.Helper()
	post(t, s, "/v1.0/publish/pubsub/"+topic, event)
}

// received waits until the application has got exactly these events.
func received(t *testing.T, s *harness.Sidecar, method, want string) {
	t.Helper()
	eventually(t, s, method, func(events []string) bool { return "["+strings.Join(events, ",")+"]" == want }, want)
}

// arrived waits until the event is among those that the application has got.
func arrived(t *testing.T, s *harness.Sidecar, method, event string) {
	t.Helper()
	eventually(t, s, method, func(events []string) bool { return slices.Contains(events, event) }, event)
}

func eventually(t *testing.T, s *harness.Sidecar, method string, done func([]string) bool, want string) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		var events []json.RawMessage
		text := post(t, s, "/v1.0/invoke/"+s.AppID+"/method/"+method, "")
		if err := json.Unmarshal(text, &events); err != nil {
			t.Fatalf("%s answers %q: %v", s.AppID, text, err)
		}
		var compact []string
		for _, e := range events {
			var b bytes.Buffer
			if err := json.Compact(&b, e); err != nil {
				t.Fatal(err)
			}
			compact = append(compact, b.String())
		}
		if done(compact) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s has got %s, want %s", s.AppID, compact, want)
		}
	}
}

// post sends JSON to the HTTP API of a sidecar and returns the answer.
func post(t *testing.T, s *harness.Sidecar, path, body string) []byte {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL(path), strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode > 299 {
		t.Fatalf("POST %s answers %s: %s", path, resp.Status, text)
	}
	return text
}
