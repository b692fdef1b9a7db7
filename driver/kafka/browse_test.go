package kafka

import (
	"crypto/rand"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/proa-io/proa/block/pubsub"
)

// pages browses a topic to its end and returns the data of all messages.
func pages(t *testing.T, p *PubSub, topic string, limit int) (texts, ids []string) {
	t.Helper()
	for after := ""; ; {
		page, err := p.Browse(t.Context(), topic, after, limit)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			return texts, ids
		}
		for _, d := range page {
			texts, ids = append(texts, string(d.Data)), append(ids, d.ID)
		}
		after = page[len(page)-1].ID
	}
}

// The clocks of those who publish differ, so the times in a partition may go
// back.
func TestPagesShowEveryMessageOnceWhateverTheClocksSay(t *testing.T) {
	t.Parallel()
	cfg := testConfig(server.Get(t).Addr())
	cfg.NumPartitions = 3
	p, topic := mustOpen(t, cfg, nearby()), rand.Text()
	began := time.Now().Add(-3 * time.Second)
	var want []string
	for i := range 60 {
		text := fmt.Sprintf("%02d", i)
		want = append(want, text)
		skew := time.Duration(i*37%11) * 100 * time.Millisecond // back and forth
		_, err := p.out.publish(t.Context(), topic, func(name string) (*kgo.Record, error) {
			at := began.Add(time.Duration(i)*10*time.Millisecond - skew)
			return &kgo.Record{Topic: name, Partition: int32(i * 7 % 3), Value: []byte(text), Timestamp: at}, nil //nolint:gosec // small
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, limit := range []int{1, 7, 60, 1000} {
		got, _ := pages(t, p, topic, limit)
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("pages of %d show %v", limit, got)
		}
	}
}

func TestWhatIsAheadOfARemovedMessageStays(t *testing.T) {
	t.Parallel()
	cfg := testConfig(server.Get(t).Addr())
	cfg.NumPartitions = 1
	p, topic := mustOpen(t, cfg, nearby()), rand.Text()
	for _, text := range strings.Fields("a b c d e") {
		err := p.Publish(t.Context(), &pubsub.Message{Topic: topic, Data: []byte(text), Key: "k" + text, Metadata: map[string]string{"m": text}})
		if err != nil {
			t.Fatal(err)
		}
	}
	_, ids := pages(t, p, topic, 10)
	if err := p.Remove(t.Context(), topic, []string{ids[0], ids[3], "nonsense", "7-7-7"}); err != nil {
		t.Fatal(err)
	}
	list, err := p.Browse(t.Context(), topic, "", 10)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, d := range list {
		if d.Metadata["m"] != string(d.Data) || d.Key != "k"+string(d.Data) {
			t.Errorf("message %q has the key %q and metadata %v", d.Data, d.Key, d.Metadata)
		}
		got = append(got, string(d.Data))
	}
	if want := []string{"e", "b", "c"}; !slices.Equal(got, want) {
		t.Errorf("left are %v, want %v", got, want)
	}
	if err := p.Remove(t.Context(), topic, ids); err != nil {
		t.Fatal(err)
	}
	if got, _ := pages(t, p, topic, 10); !slices.Equal(got, []string{"b", "c"}) {
		t.Errorf("left are %v: what was written anew has the id of what was removed", got)
	}
}

func TestIDsOfMessagesAreReadStrictly(t *testing.T) {
	for _, id := range []string{"", "1", "1-2", "1-2-", "a-b-c", "1-2-3-4", " 1-2-3", "01-2-3", "-1-2-3", "1-2-3 "} {
		if s, ok := parseSpot(id); ok {
			t.Errorf("%q is taken for %v", id, s)
		}
	}
	if s, ok := parseSpot("1-2-3"); !ok || s != (spot{millis: 3, partition: 1, offset: 2}) {
		t.Errorf("1-2-3 is read as %v, %v", s, ok)
	}
}
