package rabbitmq

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/fault"
)

// Arguments of declarations, as the server names them.
const (
	argDeadLetterExchange = "x-dead-letter-exchange"
	argMaxLength          = "x-max-length"
	argMaxLengthBytes     = "x-max-length-bytes"
	argMaxPriority        = "x-max-priority"
	argMessageTTL         = "x-message-ttl"
	argQueueMode          = "x-queue-mode"
	argSingleActive       = "x-single-active-consumer"
)

// maxName is the longest name that the protocol has room for, in bytes.
const maxName = 255

// nameOf returns the name of an exchange or queue: the text itself unless the
// protocol has no room for it, or the server would cut line ends off.
func nameOf(text string) string {
	if len(text) <= maxName && !strings.ContainsAny(text, "\r\n") {
		return text
	}
	sum := sha256.Sum256([]byte(text))
	short := strings.NewReplacer("\r", "", "\n", "").Replace(text)
	short = strings.ToValidUTF8(short[:min(len(short), 150)], "")
	return short + "-" + hex.EncodeToString(sum[:])
}

// exchange is how a topic's exchange is declared.
func (c *PubSubConfig) declareExchange(ch *amqp.Channel, name string) error {
	if strings.EqualFold(c.ExchangeDeclareMode, passiveExchanges) {
		return ch.ExchangeDeclarePassive(name, c.ExchangeKind, c.Durable, c.DeletedWhenUnused, false, false, nil)
	}
	return ch.ExchangeDeclare(name, c.ExchangeKind, c.Durable, c.DeletedWhenUnused, false, false, nil)
}

// place is a group's place in a topic: a queue and what binds it.
type place struct {
	exchange    string
	queue       string
	routingKeys []string
	args        amqp.Table
	// ordered says that order matters more than that a message which failed
	// holds back none.
	ordered bool
}

// The metadata of a subscription that this driver reads.
const (
	metaQueueName    = "queueName"
	metaRoutingKey   = "routingKey"
	metaQueueType    = "queueType"
	metaSingleActive = "singleActiveConsumer"
	metaMaxPriority  = "maxPriority"
	metaMaxLen       = "maxLen"
	metaMaxLenBytes  = "maxLenBytes"
)

// placeOf reads what a subscription asks for.
func (c *PubSubConfig) placeOf(s pubsub.Subscription) (place, error) {
	p := place{exchange: nameOf(s.Topic), routingKeys: strings.Split(lookup(s.Metadata, metaRoutingKey), ",")}
	p.queue = nameOf(s.Group + "-" + s.Topic)
	if name := lookup(s.Metadata, metaQueueName); name != "" {
		p.queue = nameOf(name)
	}
	for _, key := range p.routingKeys {
		if len(key) > maxName {
			return place{}, invalid(metaRoutingKey, "has a key of %d bytes; %d are the most", len(key), maxName)
		}
	}
	p.args = c.queueArgs()
	if c.EnableDeadLetter {
		p.args[argDeadLetterExchange] = p.deadLetterExchange()
	}
	return p, c.readQueueSettings(&p, s.Metadata)
}

func (p *place) deadLetterExchange() string { return nameOf("dlx-" + p.queue) }
func (p *place) deadLetterQueue() string    { return nameOf("dlq-" + p.queue) }

// queueArgs are the arguments of a queue and of its dead letter queue.
func (c *PubSubConfig) queueArgs() amqp.Table {
	args := amqp.Table{}
	if c.MaxLen > 0 {
		args[argMaxLength] = c.MaxLen
	}
	if c.MaxLenBytes > 0 {
		args[argMaxLengthBytes] = c.MaxLenBytes
	}
	return args
}

// readQueueSettings reads the arguments of a queue that a subscription asks
// for.
func (c *PubSubConfig) readQueueSettings(p *place, metadata map[string]string) error {
	for name, arg := range map[string]string{metaMaxLen: argMaxLength, metaMaxLenBytes: argMaxLengthBytes} {
		if text := lookup(metadata, name); text != "" {
			n, err := strconv.ParseInt(text, 10, 64)
			if err != nil || n < 0 {
				return invalid(name, "wants a number that is not negative, not %q", text)
			}
			p.args[arg] = n
		}
	}
	if text := lookup(metadata, metaMaxPriority); text != "" {
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil || n == 0 {
			return invalid(metaMaxPriority, "wants a number from 1 to 255, not %q", text)
		}
		p.args[argMaxPriority] = uint8(min(n, 255)) //nolint:gosec // it is not more
	}
	if text := lookup(metadata, metaSingleActive); text != "" {
		on, err := strconv.ParseBool(text)
		if err != nil {
			return invalid(metaSingleActive, "wants true or false, not %q", text)
		}
		if p.ordered = on; on {
			p.args[argSingleActive] = true
		}
	}
	return c.readQueueType(p, lookup(metadata, metaQueueType))
}

func (c *PubSubConfig) readQueueType(p *place, text string) error {
	switch text {
	case "", amqp.QueueTypeClassic:
		p.args[amqp.QueueTypeArg] = amqp.QueueTypeClassic
		return nil
	case amqp.QueueTypeQuorum:
		p.args[amqp.QueueTypeArg] = amqp.QueueTypeQuorum
		if !c.Durable || c.DeletedWhenUnused {
			return invalid(metaQueueType, "%q wants durable true and deletedWhenUnused false in the component", text)
		}
		if p.args[argMaxPriority] != nil {
			return invalid(metaMaxPriority, "is for queues of type %q", amqp.QueueTypeClassic)
		}
		return nil
	}
	return invalid(metaQueueType, "wants %q or %q, not %q", amqp.QueueTypeClassic, amqp.QueueTypeQuorum, text)
}

// invalid is an error about the metadata of a subscription or a message.
func invalid(name, format string, args ...any) error {
	return fault.New(fault.InvalidArgument, "metadata %s %s", name, fmt.Sprintf(format, args...))
}

// declare makes the place, as far as it is not there.
func (c *PubSubConfig) declare(ch *amqp.Channel, p *place) error {
	if err := c.declareExchange(ch, p.exchange); err != nil {
		return err
	}
	if c.EnableDeadLetter {
		if err := c.declareDeadLetters(ch, p); err != nil {
			return err
		}
	}
	if _, err := ch.QueueDeclare(p.queue, c.Durable, c.DeletedWhenUnused, false, false, p.args); err != nil {
		return err
	}
	for _, key := range p.routingKeys {
		if err := ch.QueueBind(p.queue, key, p.exchange, false, nil); err != nil {
			return err
		}
	}
	return nil
}

// declareDeadLetters makes where the dead letters go: an exchange and a queue
// that are durable always.
func (c *PubSubConfig) declareDeadLetters(ch *amqp.Channel, p *place) error {
	exchange, queue := p.deadLetterExchange(), p.deadLetterQueue()
	if err := ch.ExchangeDeclare(exchange, amqp.ExchangeFanout, true, c.DeletedWhenUnused, false, false, nil); err != nil {
		return err
	}
	args := c.queueArgs()
	args[argQueueMode] = "lazy"
	if _, err := ch.QueueDeclare(queue, true, c.DeletedWhenUnused, false, false, args); err != nil {
		return err
	}
	return ch.QueueBind(queue, "", exchange, false, nil)
}

// lookup finds a metadata entry without regard to the case of its name.
func lookup(metadata map[string]string, name string) string {
	if v, ok := metadata[name]; ok {
		return v
	}
	for k, v := range metadata {
		if strings.EqualFold(k, name) {
			return v
		}
	}
	return ""
}
