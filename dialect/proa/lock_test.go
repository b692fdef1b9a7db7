package proa

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	proav1 "github.com/proa-io/proa/api/gen/proa/v1"
)

func acquire(owner string, wait time.Duration) *proav1.LockAcquireRequest {
	in := &proav1.LockAcquireRequest{StoreName: "store", ResourceId: "r", LockOwner: owner, Ttl: durationpb.New(time.Hour)}
	if wait > 0 {
		in.Wait = durationpb.New(wait)
	}
	return in
}

func release(owner string) *proav1.LockReleaseRequest {
	return &proav1.LockReleaseRequest{StoreName: "store", ResourceId: "r", LockOwner: owner}
}

func TestLocksOverGRPC(t *testing.T) {
	client := proav1.NewLockClient(dial(t, serve(t, New(Options{Blocks: newWorld(t)}))))
	begun := time.Now()
	first, err := client.Acquire(t.Context(), acquire("a", 0))
	if err != nil || !first.GetAcquired() || first.GetFencingToken() == 0 {
		t.Fatalf("Acquire = %v, %v", first, err)
	}
	if at := first.GetExpireTime().AsTime(); at.Before(begun.Add(time.Hour)) || at.After(time.Now().Add(time.Hour)) {
		t.Errorf("the lock ends at %v", at)
	}
	held, err := client.Acquire(t.Context(), acquire("b", 0))
	if err != nil || held.GetAcquired() || held.GetFencingToken() != 0 || held.GetExpireTime() != nil {
		t.Errorf("Acquire of a held lock = %v, %v", held, err)
	}
	renewal := &proav1.LockRenewRequest{StoreName: "store", ResourceId: "r", LockOwner: "a", Ttl: durationpb.New(2 * time.Hour)}
	renewed, err := client.Renew(t.Context(), renewal)
	if err != nil || renewed.GetFencingToken() != first.GetFencingToken() || !renewed.GetExpireTime().AsTime().After(first.GetExpireTime().AsTime()) {
		t.Errorf("Renew = %v, %v", renewed, err)
	}
	var waiting sync.WaitGroup
	waiting.Go(func() {
		next, err := client.Acquire(t.Context(), acquire("b", time.Minute))
		if err != nil || !next.GetAcquired() || next.GetFencingToken() <= first.GetFencingToken() {
			t.Errorf("Acquire with a wait = %v, %v", next, err)
		}
	})
	if _, err := client.Release(t.Context(), release("a")); err != nil {
		t.Fatal(err)
	}
	waiting.Wait()
	renewal.LockOwner = "a"
	if _, err := client.Renew(t.Context(), renewal); status.Code(err) != codes.PermissionDenied {
		t.Errorf("Renew of a lost lock: %v", err)
	}
}

func TestLocksOverHTTP(t *testing.T) {
	url := "http://" + serve(t, New(Options{Blocks: newWorld(t)})) + "/proa.v1.Lock/"
	code, _, body := post(t, url+"Acquire", `{"storeName":"store","resourceId":"r","lockOwner":"a","ttl":"60s"}`)
	var got struct {
		Acquired     bool
		FencingToken string // 64 bits, and so a string
		ExpireTime   time.Time
	}
	if err := json.Unmarshal([]byte(body), &got); err != nil || code != 200 || !got.Acquired || got.FencingToken != "1" ||
		time.Until(got.ExpireTime) < 50*time.Second {
		t.Errorf("Acquire: %d %s", code, body)
	}
	for _, c := range []struct {
		method, body string
		status       int
		want         string
	}{
		{"Acquire", `{"storeName":"store","resourceId":"r","lockOwner":"b","ttl":"60s"}`, 200, `{}`},
		{"Acquire", `{"storeName":"store","resourceId":"r","lockOwner":"b","ttl":"60s","wait":"0.05s"}`, 200, `{}`},
		{"Renew", `{"storeName":"store","resourceId":"r","lockOwner":"a","ttl":"90s"}`, 200, `{"fencingToken":"1","expireTime":"`},
		{"Renew", `{"storeName":"store","resourceId":"r","lockOwner":"b","ttl":"90s"}`, 403,
			`{"code":"permission_denied","message":"renew lock \"r\" of store \"store\": another owner holds the lock"}`},
		{"Renew", `{"storeName":"store","resourceId":"x","lockOwner":"b","ttl":"90s"}`, 404,
			`{"code":"not_found","message":"renew lock \"x\" of store \"store\": nobody holds the lock"}`},
		{"Renew", `{"storeName":"plain","resourceId":"r","lockOwner":"a","ttl":"90s"}`, 501,
			`{"code":"unimplemented","message":"lock store \"plain\" () cannot renew locks","reason":"lock.cannot_renew"}`},
		{"Release", `{"storeName":"store","resourceId":"r","lockOwner":"b"}`, 403,
			`{"code":"permission_denied","message":"release lock \"r\" of store \"store\": another owner holds the lock"}`},
		{"Release", `{"storeName":"store","resourceId":"r","lockOwner":"a"}`, 200, `{}`},
		{"Release", `{"storeName":"store","resourceId":"r","lockOwner":"a"}`, 404,
			`{"code":"not_found","message":"release lock \"r\" of store \"store\": nobody holds the lock"}`},
		{"Acquire", `{"storeName":"store","resourceId":"r","lockOwner":"a"}`, 400,
			`{"code":"invalid_argument","message":"lock store \"store\": the expiry must be positive, not 0s","reason":"lock.bad_ttl"}`},
		{"Acquire", `{"storeName":"store","resourceId":"r","lockOwner":"a","ttl":"400000000s"}`, 400, `"ttl is no duration, or longer than 87600h0m0s","reason":"lock.bad_ttl"`},
		{"Acquire", `{"storeName":"store","resourceId":"r","lockOwner":"a","ttl":"1s","wait":"-1s"}`, 400, `"reason":"lock.bad_wait"`},
		{"Acquire", `{"storeName":"store","resourceId":"r","ttl":"1s"}`, 400, `"reason":"lock.no_owner"`},
		{"Acquire", `{"storeName":"store","lockOwner":"a","ttl":"1s"}`, 400, `"reason":"lock.no_resource"`},
		{"Acquire", `{"storeName":"store","resourceId":"a||b","lockOwner":"a","ttl":"1s"}`, 400, `"reason":"lock.illegal_resource"`},
		{"Renew", `{"storeName":"store","resourceId":"r","lockOwner":"a","ttl":"-1s"}`, 400, `"reason":"lock.bad_ttl"`},
		{"Acquire", `{"storeName":"none"}`, 404, `{"code":"not_found","message":"there is no lock component \"none\"","reason":"dapr.not_found"}`},
		{"Renew", `{}`, 404, `there is no lock component`},
		{"Release", `{}`, 404, `there is no lock component`},
	} {
		if code, _, body := post(t, url+c.method, c.body); code != c.status || !strings.Contains(body, c.want) {
			t.Errorf("%s %s\nanswers %d %s\nwant    %d %s", c.method, c.body, code, body, c.status, c.want)
		}
	}
}

func TestWaitEndsWithItsClient(t *testing.T) {
	addr := serve(t, New(Options{Blocks: newWorld(t)}))
	client := proav1.NewLockClient(dial(t, addr))
	if _, err := client.Acquire(t.Context(), acquire("a", 0)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := client.Acquire(ctx, acquire("over gRPC", time.Hour)); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("over gRPC: %v", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+addr+"/proa.v1.Lock/Acquire",
		strings.NewReader(`{"storeName":"store","resourceId":"r","lockOwner":"over HTTP","ttl":"60s","wait":"60s"}`))
	if err != nil {
		t.Fatal(err)
	}
	if res, err := http.DefaultClient.Do(req); err == nil {
		_ = res.Body.Close()
		t.Errorf("over HTTP: %d", res.StatusCode)
	}
	if _, err := client.Release(t.Context(), release("a")); err != nil {
		t.Fatal(err)
	}
	// Neither of them may have it now, nor stand in line before us.
	last, err := client.Acquire(t.Context(), acquire("last", time.Minute))
	if err != nil || !last.GetAcquired() {
		t.Errorf("Acquire = %v, %v", last, err)
	}
}

func TestStoppingEndsWaits(t *testing.T) {
	a := New(Options{Blocks: newWorld(t)})
	client := proav1.NewLockClient(dial(t, serve(t, a)))
	if _, err := client.Acquire(t.Context(), acquire("a", 0)); err != nil {
		t.Fatal(err)
	}
	result := make(chan error, 1)
	go func() {
		_, err := client.Acquire(t.Context(), acquire("b", time.Hour))
		result <- err
	}()
	a.Stop()
	select {
	case err := <-result:
		if status.Code(err) != codes.Unavailable || status.Convert(err).Message() != "the sidecar is shutting down" {
			t.Errorf("Acquire: %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the wait has not ended 20 s after Stop")
	}
}

func TestErrorsOfLocksHaveReasons(t *testing.T) {
	client := proav1.NewLockClient(dial(t, serve(t, New(Options{Blocks: newWorld(t)}))))
	_, err := client.Acquire(t.Context(), &proav1.LockAcquireRequest{StoreName: "store", ResourceId: "r"})
	details := status.Convert(err).Details()
	if status.Code(err) != codes.InvalidArgument || len(details) != 1 || details[0].(*errdetails.ErrorInfo).GetReason() != "lock.no_owner" {
		t.Errorf("%v %v", err, details)
	}
	_, err = client.Acquire(t.Context(), &proav1.LockAcquireRequest{
		StoreName: "store", ResourceId: "r", LockOwner: "a", Ttl: &durationpb.Duration{Seconds: 1, Nanos: -1},
	})
	if status.Code(err) != codes.InvalidArgument {
		t.Errorf("a duration of two signs: %v", err)
	}
}
