package proa

import (
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	proav1 "github.com/proa-io/proa/api/gen/proa/v1"
	"github.com/proa-io/proa/block/pubsub"
)

// letters makes dead letters with the given ids in the topic "dead" of bus.
func letters(t *testing.T, w *world, ids ...string) {
	t.Helper()
	b := w.brokers["bus"]
	for _, id := range ids {
		if err := b.Publish(t.Context(), &pubsub.PublishRequest{Topic: "dead", Data: []byte("data of " + id), Metadata: map[string]string{
			"cloudevent.id": id, "cloudevent.deadlettertopic": "orders", "cloudevent.deadletterreason": "why " + id,
			"cloudevent.deadletterattempts": "3", "cloudevent.deadletterlasttime": "2026-01-02T03:04:05Z",
		}}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestDeadLettersOverGRPC(t *testing.T) {
	w := newWorld(t)
	letters(t, w, "a", "b", "c")
	client := proav1.NewDeadLettersClient(dial(t, serve(t, New(Options{Blocks: w}))))
	page, err := client.List(t.Context(), &proav1.DeadLettersListRequest{PubsubName: "bus", Topic: "dead", PageSize: 2})
	if err != nil || len(page.GetLetters()) != 2 || page.GetNextPageToken() == "" {
		t.Fatalf("List = %v, %v", page, err)
	}
	first := page.GetLetters()[0]
	if first.GetId() != "a" || first.GetMessageId() == "" || first.GetTopic() != "orders" || first.GetCause() != "why a" || first.GetAttempts() != 3 ||
		first.GetFirstTime() != nil || first.GetLastTime().AsTime().Year() != 2026 || first.GetData() != nil || first.GetMetadata() != nil {
		t.Errorf("the first letter is %v", first)
	}
	page, err = client.List(t.Context(), &proav1.DeadLettersListRequest{PubsubName: "bus", Topic: "dead", PageToken: page.GetNextPageToken(), Data: true})
	if err != nil || len(page.GetLetters()) != 1 || page.GetNextPageToken() != "" ||
		!strings.Contains(string(page.GetLetters()[0].GetData()), "data of c") || page.GetLetters()[0].GetMetadata()["cloudevent.id"] != "c" {
		t.Fatalf("List = %v, %v", page, err)
	}
	done, err := client.Redrive(t.Context(), &proav1.DeadLettersRedriveRequest{PubsubName: "bus", Topic: "dead", Ids: []string{"b", "x"}})
	if err != nil || len(done.GetRedriven()) != 1 || done.GetRedriven()[0].GetId() != "b" || len(done.GetFailed()) != 1 ||
		done.GetFailed()[0].GetId() != "x" || !strings.Contains(done.GetFailed()[0].GetError(), "there is no message") {
		t.Fatalf("Redrive = %v, %v", done, err)
	}
	done, err = client.Redrive(t.Context(), &proav1.DeadLettersRedriveRequest{PubsubName: "bus", Topic: "dead", Limit: 1, ToTopic: "elsewhere"})
	if err != nil || len(done.GetRedriven()) != 1 || done.GetRedriven()[0].GetTopic() != "elsewhere" || !done.GetMore() {
		t.Fatalf("Redrive = %v, %v", done, err)
	}
}

func TestDeadLettersThatCannotBeShown(t *testing.T) {
	client := proav1.NewDeadLettersClient(dial(t, serve(t, New(Options{Blocks: newWorld(t)}))))
	for _, tc := range []struct {
		name string
		in   *proav1.DeadLettersListRequest
		want codes.Code
	}{
		{"no such broker", &proav1.DeadLettersListRequest{PubsubName: "nowhere", Topic: "dead"}, codes.NotFound},
		{"no topic", &proav1.DeadLettersListRequest{PubsubName: "bus"}, codes.InvalidArgument},
		{"no such page", &proav1.DeadLettersListRequest{PubsubName: "bus", Topic: "dead", PageToken: "nonsense"}, codes.InvalidArgument},
		{"a broker that shows nothing", &proav1.DeadLettersListRequest{PubsubName: "plain", Topic: "dead"}, codes.Unimplemented},
	} {
		if _, err := client.List(t.Context(), tc.in); status.Code(err) != tc.want {
			t.Errorf("%s: %v, want %v", tc.name, err, tc.want)
		}
	}
	_, err := client.Redrive(t.Context(), &proav1.DeadLettersRedriveRequest{PubsubName: "bus", Topic: "dead", Ids: make([]string, 1001)})
	if status.Code(err) != codes.InvalidArgument {
		t.Errorf("too many ids: %v", err)
	}
}

func TestDeadLettersOverHTTP(t *testing.T) {
	w := newWorld(t)
	letters(t, w, "a")
	addr := serve(t, New(Options{Blocks: w}))
	post := func(method, body string) (int, string) {
		code, _, answer := post(t, "http://"+addr+"/proa.v1.DeadLetters/"+method, body)
		return code, answer
	}
	if code, body := post("List", `{"pubsubName":"bus","topic":"dead"}`); code != 200 || !strings.Contains(body, `"cause":"why a"`) {
		t.Errorf("%d %s", code, body)
	}
	if code, body := post("Redrive", `{"pubsubName":"bus","topic":"dead"}`); code != 200 || !strings.Contains(body, `"topic":"orders"`) {
		t.Errorf("%d %s", code, body)
	}
	if code, body := post("List", `{"pubsubName":"plain","topic":"dead"}`); code != 501 || !strings.Contains(body, "pubsub.browse_not_supported") {
		t.Errorf("%d %s", code, body)
	}
}
