package pubsub

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/proa-io/proa/component"
)

// SubscriptionType tells where a subscription comes from.
type SubscriptionType uint8

// The types, in the order of the metadata API.
const (
	Declarative  SubscriptionType = iota + 1 // a resource file
	Programmatic                             // the application was asked for it
	Streaming                                // a stream that the application opened
)

// String returns the type as the metadata API writes it.
func (t SubscriptionType) String() string {
	return [...]string{"UNKNOWN", "DECLARATIVE", "PROGRAMMATIC", "STREAMING"}[t]
}

// SubscriptionSpec is one subscription of the application, as it is written
// down.
type SubscriptionSpec struct {
	Type SubscriptionType
	// Name is the resource's, for texts; "" when there is none.
	Name string
	// Pos is where the resource stands.
	Pos component.Position
	// PubSub names the component.
	PubSub string
	Topic  string
	// Rules choose the route of each event; the first that matches counts.
	Rules []Rule
	// DefaultRoute is where an event goes that no rule matches. When it is
	// empty such an event is dropped, unless there are no rules: then every
	// event goes to the route "".
	DefaultRoute string
	// DeadLetterTopic gets the messages that cannot be processed; "" for none.
	DeadLetterTopic string
	Bulk            BulkSpec
	// RawPayload takes messages for bare payloads instead of envelopes. The
	// metadata entry rawPayload says the same.
	RawPayload bool
	// Metadata goes to the driver. May be nil.
	Metadata map[string]string
	// Scopes are the ids of the applications that have the subscription;
	// empty for all.
	Scopes []string
}

// Rule sends the events that match to a path of the application.
type Rule struct {
	// Match is a CEL expression over event, the envelope: `event.type ==
	// "order"`. An empty one matches every event.
	Match string
	Path  string
	// Pos is where the rule stands.
	Pos component.Position
}

// BulkSpec asks for events in batches.
type BulkSpec struct {
	Enabled bool
	// MaxMessages bounds a batch; 100 when not positive, at most 10,000.
	MaxMessages int
	// MaxAwait is how long a batch waits for more; 1 s when not positive.
	MaxAwait time.Duration
}

// Bounds and defaults of BulkSpec.
const (
	defaultBulkMessages = 100
	maxBulkMessages     = 10_000
	defaultBulkAwait    = time.Second
)

func (b BulkSpec) withDefaults() BulkSpec {
	if b.MaxMessages <= 0 {
		b.MaxMessages = defaultBulkMessages
	}
	b.MaxMessages = min(b.MaxMessages, maxBulkMessages)
	if b.MaxAwait <= 0 {
		b.MaxAwait = defaultBulkAwait
	}
	return b
}

// String names the subscription for texts.
func (s *SubscriptionSpec) String() string {
	about := fmt.Sprintf("subscription to topic %q of %q", s.Topic, s.PubSub)
	if s.Name != "" {
		about = fmt.Sprintf("subscription %q (topic %q of %q)", s.Name, s.Topic, s.PubSub)
	}
	if p := s.Pos.String(); p != "" {
		about = p + ": " + about
	}
	return about
}

// raw reports whether messages are bare payloads.
func (s *SubscriptionSpec) raw() (bool, error) {
	text, ok := lookup(s.Metadata, metaRawPayload)
	if !ok || text == "" {
		return s.RawPayload, nil
	}
	raw, err := strconv.ParseBool(text)
	if err != nil {
		return false, fmt.Errorf("metadata %s wants true or false, not %q", metaRawPayload, text)
	}
	return raw || s.RawPayload, nil
}

// Merge returns the subscriptions of one application: the declarative ones
// that are scoped to it and the programmatic ones. Of two declarative ones for
// the same topic both stay when their names differ; a programmatic one
// replaces every declarative one for its topic, and an earlier programmatic
// one. Each warning tells of one that was replaced.
func Merge(appID string, declarative, programmatic []SubscriptionSpec) (merged []SubscriptionSpec, warnings []string) {
	type key struct{ pubsub, topic, name string }
	at := map[key]int{}
	add := func(k key, s SubscriptionSpec) {
		if i, dup := at[k]; dup {
			warnings = append(warnings, fmt.Sprintf("%s replaces the %s", &s, &merged[i]))
			merged[i] = s
			return
		}
		at[k] = len(merged)
		merged = append(merged, s)
	}
	byApp := map[key]bool{}
	for _, s := range programmatic {
		s.Type = cmp.Or(s.Type, Programmatic)
		add(key{s.PubSub, s.Topic, ""}, s)
		byApp[key{s.PubSub, s.Topic, ""}] = true
	}
	for _, s := range declarative {
		s.Type = cmp.Or(s.Type, Declarative)
		if len(s.Scopes) > 0 && !slices.Contains(s.Scopes, appID) {
			continue
		}
		if byApp[key{s.PubSub, s.Topic, ""}] {
			warnings = append(warnings, fmt.Sprintf("%s is not used: the application subscribes to the same topic itself", &s))
			continue
		}
		add(key{s.PubSub, s.Topic, cmp.Or(s.Name, " ")}, s)
	}
	return merged, warnings
}
