package pubsub

import (
	"context"
	"strings"
)

// App is the application as deliveries see it. A dialect implements it.
// Methods are called concurrently and return soon after ctx ends.
type App interface {
	// Deliver hands one event to the application at a route, "" or a path from
	// the subscription, and returns what the application made of it. An error
	// means that it is not known to have processed the event: it counts as
	// Retry, or as Drop when its reason is ReasonNoHandler, and is the cause
	// that logs and dead letters quote.
	Deliver(ctx context.Context, route string, e *Event) (Status, error)

	// DeliverBulk hands over several events in one call. The answer has one
	// status per entry that the application named; the others count as Retry.
	// An error stands for all entries, as in Deliver.
	DeliverBulk(ctx context.Context, route string, b *BulkEvent) ([]EntryStatus, error)
}

// Status is what an application answers to an event.
type Status uint8

// The statuses.
const (
	Success Status = iota // processed
	Retry                 // not processed: deliver again
	Drop                  // will never be processed: do not deliver again
)

// String returns the status as the APIs write it.
func (s Status) String() string { return [...]string{"SUCCESS", "RETRY", "DROP"}[s] }

// ParseStatus reads the status of an answer. An empty one is Success for a
// single event, and an unknown one is Retry.
func ParseStatus(text string) Status {
	switch strings.ToUpper(text) {
	case "", "SUCCESS":
		return Success
	case "DROP":
		return Drop
	}
	return Retry
}

// BulkEvent is what an application that subscribes in bulk gets in one call.
type BulkEvent struct {
	ID string // a random UUID
	// Component and Topic are what was subscribed to.
	Component, Topic string
	Entries          []BulkEntry
}

// TypeBulk is the type that the envelope of a BulkEvent has in the APIs.
const TypeBulk = "com.dapr.event.sent.bulk"

// BulkEntry is one event of several.
type BulkEntry struct {
	EntryID string // unique within the BulkEvent
	Event   *Event
	// ContentType describes the entry: of Event.Raw when that is set, else of
	// Event.JSON.
	ContentType string
}

// EntryStatus is what became of one entry.
type EntryStatus struct {
	EntryID string
	Status  Status
}
