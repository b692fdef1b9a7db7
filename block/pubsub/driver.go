package pubsub

import (
	"context"
	"io"
	"time"
)

// Driver is what a message broker implements; everything else is optional (see
// [BulkPublisher], [TTLer], [KeyOrderer], [Forgetter], [Browser]).
//
// A driver does I/O and names its errors with fault codes. It does not retry
// what the broker itself does not retry, set timeouts on calls, log calls,
// measure, wrap payloads or dead-letter: [Broker] does that for all drivers.
// Methods are safe for concurrent use and return soon after ctx ends. After
// Close they fail with Unavailable.
//
// A topic is any non-empty string of valid UTF-8; one that the protocol cannot
// have is InvalidArgument. Topics come into being by themselves: publishing or
// subscribing to one that does not exist is no error.
type Driver interface {
	// Publish hands m to the broker and returns once the broker answers for
	// it. m and all it refers to belong to the driver from the call on: nobody
	// changes them any more.
	Publish(ctx context.Context, m *Message) error

	// Subscribe receives messages until ctx ends, and returns nil then, or
	// until the subscription breaks, and returns why. Every message of the
	// topic goes to each group, and within a group to one member
	// at a time. A group that subscribes for the first time begins with the
	// oldest message that the broker still keeps; afterwards it goes on where
	// it stopped, whichever process subscribes.
	//
	// Delivery is at least once. handle returns nil to acknowledge. Any error
	// is a negative acknowledgement: the message comes again, to any member of
	// the group, not before fault.RetryAfterOf(err) is over as far as the
	// broker can wait. A message whose handle call does not return because the
	// process dies comes again once the broker notices; a handle call that
	// takes long is not mistaken for a dead process.
	//
	// At most s.MaxInFlight calls of handle run at a time. When ctx ends, or
	// the subscription breaks, the driver takes no further message, waits for
	// the calls that are under way, settles their messages, and only then
	// returns: handle is never called, and never runs, after Subscribe has
	// returned. Messages received but not yet handed to handle are given back.
	//
	// The context given to handle carries the values of ctx but does not end
	// with it; how long a handle call may go on is for handle to decide.
	Subscribe(ctx context.Context, s Subscription, handle Handler) error

	// Close releases what the driver holds and ends every Subscribe that is
	// still running.
	io.Closer
}

// A Handler processes one message. It may keep d, and must not change what d
// refers to.
type Handler func(ctx context.Context, d *Delivery) error

// Message is one message as it goes to a broker.
type Message struct {
	Topic string
	Data  []byte
	// ContentType describes Data for brokers that have a place for it. A
	// driver without one leaves Delivery.ContentType empty.
	ContentType string
	// Key groups messages whose order matters; "" for none. It is also the
	// partition key of brokers with partitions.
	Key string
	// TTL is how long the message is worth delivering; 0 for ever. Only
	// drivers that are TTLers look at it.
	TTL time.Duration
	// Metadata is what the publisher sent along. It arrives as
	// Delivery.Metadata, unless the protocol of the broker has no place for
	// it; a broker may add names of its own, which begin with "__". May be
	// nil.
	Metadata map[string]string
}

// Delivery is one message as it comes from a broker.
type Delivery struct {
	Message
	// ID is the broker's name for the message, for logs.
	ID string
	// Attempt counts the deliveries of this message to this group, from 1; 0
	// when the broker does not know.
	Attempt int
	// Published is when the broker took the message; zero when it does not
	// tell.
	Published time.Time
}

// Subscription says what to receive, and for whom.
type Subscription struct {
	Topic string
	// Group names the consumers that share the messages of the topic. It is
	// never empty.
	Group string
	// MaxInFlight bounds how many calls of the handler run at a time; 0 for
	// the driver's default.
	MaxInFlight int
	// Batch is how many messages the subscriber processes together, when it
	// does; 0 when one by one. A driver that keeps an order by handing over
	// one message at a time hands over that many.
	Batch int
	// Metadata is what the subscriber asked for, for settings that only this
	// kind of broker knows. May be nil.
	Metadata map[string]string
	// Established, when not nil, is called once, before any message is handed
	// over, as soon as the broker has the group: what is published from then
	// on will reach it. Drivers that are not Forgetters need not call it.
	Established func()
}

// BulkPublisher is implemented by drivers that hand over many messages cheaper
// than one by one.
type BulkPublisher interface {
	// BulkPublish carries out each publish as Publish would, not atomically,
	// and returns one error per message, nil where it succeeded. Messages with
	// the same topic and key keep their order.
	BulkPublish(ctx context.Context, messages []*Message) []error
}

// TTLer is implemented by drivers that can make the broker discard a message
// whose TTL is over. For the others the broker block writes the expiry into
// the envelope and drops the message on arrival.
type TTLer interface {
	// DiscardsExpired reports whether the broker at hand does so.
	DiscardsExpired() bool
}

// KeyOrderer is implemented by drivers that keep the order of messages with
// the same topic and key: a message is not handed to a group before the ones
// with its key that were published earlier are acknowledged by that group.
type KeyOrderer interface {
	// OrdersByKey reports whether the broker at hand, as it is configured,
	// does so.
	OrdersByKey() bool
}

// Forgetter is implemented by drivers whose broker may keep nothing for groups
// that have not subscribed yet: what is published before a group is
// established never reaches it.
type Forgetter interface {
	// Forgets reports whether the broker at hand does so.
	Forgets() bool
}

// Browser is implemented by drivers whose broker keeps messages after they were
// delivered and shows them to somebody who is no consumer.
type Browser interface {
	// Browse returns up to limit messages of a topic that the broker keeps,
	// delivered or not, oldest first: those after the one whose ID is after,
	// or the oldest ones when after is empty. A topic that there is not has no
	// messages. What groups are delivered does not change by it. An after that
	// no message can have as its ID is InvalidArgument.
	Browse(ctx context.Context, topic, after string, limit int) ([]*Delivery, error)
	// Remove takes messages out of a topic by their IDs, for all groups: a
	// group to which one has not been handed yet does not get it any more. IDs
	// that there are not are no error.
	Remove(ctx context.Context, topic string, ids []string) error
}
