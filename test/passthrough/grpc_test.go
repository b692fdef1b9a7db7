package passthrough_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// kinds are the four kinds of gRPC calls.
var kinds = []struct {
	name           string
	client, server bool // who streams
}{{"unary", false, false}, {"client streams", true, false}, {"server streams", false, true}, {"both stream", true, true}}

// reverse answers every message with its bytes reversed, at once if it may, and
// otherwise all of them in one.
func reverse(many bool) func(grpc.ServerStream) error {
	return func(s grpc.ServerStream) error {
		md, _ := metadata.FromIncomingContext(s.Context())
		_ = s.SetHeader(metadata.Pairs("x-head", strings.Join(md["x-ask"], "+"), "x-head-bin", "\x00\xff"))
		s.SetTrailer(metadata.Pairs("x-trail", "one", "x-trail", "two", "x-trail-bin", "\x01\xfe"))
		var all []byte
		for {
			m := message(nil)
			err := s.RecvMsg(m)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return err
			}
			back := bytes.Clone(m.GetValue())
			for i, j := 0, len(back)-1; i < j; i, j = i+1, j-1 {
				back[i], back[j] = back[j], back[i]
			}
			if !many {
				all = append(all, back...)
				continue
			}
			if err := s.SendMsg(message(back)); err != nil {
				return err
			}
		}
		if !many {
			return s.SendMsg(message(all))
		}
		return nil
	}
}

func TestGRPCOfAllKinds(t *testing.T) {
	t.Parallel()
	eachMesh(t, func(t *testing.T, m *mesh) {
		cc := m.dialGRPC(t)
		for _, kind := range kinds {
			t.Run(kind.name, func(t *testing.T) {
				method := m.grpc.on(t, reverse(kind.server))
				s, err := cc.NewStream(toApp(t, "x-ask", "a", "x-ask", "b"), &grpc.StreamDesc{ClientStreams: kind.client, ServerStreams: kind.server}, method)
				if err != nil {
					t.Fatal(err)
				}
				sent, want := [][]byte{[]byte("abc")}, [][]byte{[]byte("cba")}
				if kind.client {
					sent = append(sent, nil, bytes.Repeat([]byte("xy"), 500_000))
					want = append(want, nil, bytes.Repeat([]byte("yx"), 500_000))
				}
				if !kind.server {
					want = [][]byte{bytes.Join(want, nil)}
				}
				var got [][]byte
				for _, b := range sent {
					if err := s.SendMsg(message(b)); err != nil {
						t.Fatal(err)
					}
					if kind.client && kind.server { // each is answered before the next is sent
						got = append(got, receive(t, s))
					}
				}
				if err := s.CloseSend(); err != nil {
					t.Fatal(err)
				}
				for len(got) < len(want) {
					got = append(got, receive(t, s))
				}
				for i := range want {
					if !bytes.Equal(got[i], want[i]) {
						t.Errorf("answer %d is %s, want %s", i, sum(got[i]), sum(want[i]))
					}
				}
				if kind.server {
					if err := s.RecvMsg(message(nil)); !errors.Is(err, io.EOF) {
						t.Errorf("after the last answer comes %v", err)
					}
				}
				head, _ := s.Header()
				if fmt.Sprint(head["x-head"]) != "[a+b]" || fmt.Sprint(head["x-head-bin"]) != "[\x00\xff]" {
					t.Errorf("the header is %q", head)
				}
				if trail := s.Trailer(); fmt.Sprint(trail["x-trail"]) != "[one two]" || fmt.Sprint(trail["x-trail-bin"]) != "[\x01\xfe]" {
					t.Errorf("the trailer is %q", trail)
				}
			})
		}
	})
}

func receive(t *testing.T, s grpc.ClientStream) []byte {
	t.Helper()
	m := new(wrapperspb.BytesValue)
	if err := s.RecvMsg(m); err != nil {
		t.Fatal(err)
	}
	return m.GetValue()
}

func TestStatusesOfGRPCPass(t *testing.T) {
	t.Parallel()
	eachMesh(t, func(t *testing.T, m *mesh) {
		cc := m.dialGRPC(t)
		for code := codes.Canceled; code <= codes.Unauthenticated; code++ {
			for _, after := range []int{0, 2} { // messages before it
				method := m.grpc.on(t, func(s grpc.ServerStream) error {
					for range after {
						_ = s.SendMsg(message([]byte("x")))
					}
					s.SetTrailer(metadata.Pairs("x-why", "because"))
					return status.Error(code, "a text with ümlaut, % and\nlines")
				})
				s, err := cc.NewStream(toApp(t), &grpc.StreamDesc{ServerStreams: true}, method)
				if err != nil {
					t.Fatal(err)
				}
				_ = s.CloseSend()
				for range after {
					receive(t, s)
				}
				err = s.RecvMsg(message(nil))
				if st := status.Convert(err); st.Code() != code || st.Message() != "a text with ümlaut, % and\nlines" || fmt.Sprint(s.Trailer()["x-why"]) != "[because]" {
					t.Errorf("%v after %d messages: %v with trailer %v", code, after, err, s.Trailer())
				}
			}
		}
	})
}

func TestTheEndOfACallReachesTheApplication(t *testing.T) {
	t.Parallel()
	eachMesh(t, func(t *testing.T, m *mesh) {
		cc := m.dialGRPC(t)
		for _, tc := range []struct {
			name string
			code codes.Code
			ctx  func(context.Context) (context.Context, context.CancelFunc)
		}{
			{"canceled", codes.Canceled, context.WithCancel},
			{"out of time", codes.DeadlineExceeded, func(ctx context.Context) (context.Context, context.CancelFunc) {
				return context.WithTimeout(ctx, 5*time.Second)
			}},
		} {
			t.Run(tc.name, func(t *testing.T) {
				begun, over := make(chan struct{}), make(chan error, 1)
				method := m.grpc.on(t, func(s grpc.ServerStream) error {
					if err := s.SendMsg(message([]byte("begun"))); err != nil {
						return err
					}
					close(begun)
					<-s.Context().Done()
					over <- s.Context().Err()
					return s.Context().Err()
				})
				ctx, cancel := tc.ctx(toApp(t))
				defer cancel()
				s, err := cc.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method)
				if err != nil {
					t.Fatal(err)
				}
				receive(t, s)
				wait(t, begun, "call at the application")
				if tc.code == codes.Canceled {
					cancel()
				}
				if err := s.RecvMsg(message(nil)); status.Code(err) != tc.code {
					t.Errorf("the client sees %v", err)
				}
				if err := wait(t, over, "end at the application"); err == nil {
					t.Error("the application's context has not ended")
				}
			})
		}
	})
}

// TestADeadlineIsTheSameForTheApplication wants what is left of a deadline to
// arrive: not more than there was, and not less than is left.
func TestADeadlineIsTheSameForTheApplication(t *testing.T) {
	t.Parallel()
	eachMesh(t, func(t *testing.T, m *mesh) {
		cc := m.dialGRPC(t)
		until := make(chan time.Time, 1)
		method := m.grpc.on(t, func(s grpc.ServerStream) error {
			by, ok := s.Context().Deadline()
			if !ok {
				return status.Error(codes.Internal, "there is no deadline")
			}
			until <- by
			return s.SendMsg(message(nil))
		})
		before := time.Now()
		ctx, cancel := context.WithTimeout(toApp(t), time.Hour)
		defer cancel()
		if err := cc.Invoke(ctx, method, message(nil), message(nil)); err != nil {
			t.Fatal(err)
		}
		// It travels as a duration, which is rounded, and begins anew on arrival.
		if by := wait(t, until, "deadline"); by.Before(before.Add(time.Hour-time.Minute)) || by.After(time.Now().Add(time.Hour)) {
			t.Errorf("the application has until %v after the call began", by.Sub(before))
		}
		if err := cc.Invoke(toApp(t), method, message(nil), message(nil)); status.Code(err) != codes.Internal {
			t.Errorf("a call without a deadline: %v", err)
		}
	})
}

func TestAClientOfGRPCThatDoesNotReadSlowsDownTheApplication(t *testing.T) {
	t.Parallel()
	eachMesh(t, func(t *testing.T, m *mesh) {
		var sent atomic.Int64
		over := make(chan error, 1)
		method := m.grpc.on(t, func(s grpc.ServerStream) error {
			for {
				if err := s.SendMsg(message(text(64 << 10))); err != nil {
					over <- err
					return err
				}
				sent.Add(64 << 10)
			}
		})
		ctx, cancel := context.WithCancel(toApp(t))
		defer cancel()
		s, err := m.dialGRPC(t).NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method)
		if err != nil {
			t.Fatal(err)
		}
		receive(t, s)
		if n := standstill(t, &sent); n > mostUnread {
			t.Errorf("%d MiB were taken that nobody reads", n>>20)
		}
		cancel()
		wait(t, over, "end at the application")
	})
}
