package rabbitmq

import (
	"cmp"
	"context"
	"crypto/rand"
	"net/url"
	"strconv"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/proa-io/proa/block/binding"
	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
)

// BindingConfig configures a binding to a queue of RabbitMQ. The queue is made
// if it is not there, as Dapr's component of the same name makes it.
type BindingConfig struct {
	// Host names the server: "amqp://user:password@host:5672/vhost", or
	// "amqps://..." with TLS.
	Host component.Secret `setting:"host,required"`
	// QueueName names the queue.
	QueueName string `setting:"queueName,required"`
	// Durable queues survive a restart of the server.
	Durable bool `setting:"durable"`
	// DeleteWhenUnused deletes the queue, with the messages in it, when its
	// last consumer is gone, be it for a moment.
	DeleteWhenUnused bool `setting:"deleteWhenUnused"`
	// Exclusive keeps the queue to the connection that made it. It is deleted
	// with the connection.
	Exclusive bool `setting:"exclusive"`
	// TTL is how long messages live in the queue that have no ttlInSeconds
	// themselves; 0 for ever.
	TTL component.Duration `setting:"ttlInSeconds"`
	// MaxPriority makes the queue one with so many priorities, up to 255.
	MaxPriority int `setting:"maxPriority"`
	// ContentType is that of messages whose metadata say nothing of it.
	ContentType string `setting:"contentType"`
	// PrefetchCount bounds how many messages are here, processed or waiting; 0
	// for 16. They are processed one after the other.
	PrefetchCount int `setting:"prefetchCount"`
	// CACert holds the certificates (PEM) that the server's is verified with;
	// the system's when empty.
	CACert component.Secret `setting:"caCert"`
	// ClientCert is the certificate (PEM) that the client shows.
	ClientCert component.Secret `setting:"clientCert"`
	// ClientKey is the key (PEM) of clientCert.
	ClientKey component.Secret `setting:"clientKey"`
	// SaslExternal lets the server take the user from clientCert.
	SaslExternal bool `setting:"saslExternal,externalSasl"`
	// ReconnectWait has no effect because the connection is made again when it
	// is needed.
	ReconnectWait string `setting:"reconnectWaitInSeconds"`
}

// defaultPrefetch is how many messages a binding has here when nothing else
// says so.
const defaultPrefetch = 16

func bindingDefaults() BindingConfig { return BindingConfig{ContentType: "text/plain"} }

// Validate reports settings that can never work.
func (c BindingConfig) Validate() error {
	switch {
	case c.QueueName == "" || len(c.QueueName) > maxName:
		return component.Invalid("queueName", "wants a name of 1 to %d bytes", maxName)
	case c.TTL < 0:
		return component.Invalid("ttlInSeconds", "must not be negative")
	case c.MaxPriority < 0 || c.MaxPriority > 255:
		return component.Invalid("maxPriority", "wants a number from 1 to 255")
	case c.PrefetchCount < 0 || c.PrefetchCount > maxPrefetch:
		return component.Invalid("prefetchCount", "wants a number from 0 to %d", maxPrefetch)
	}
	_, err := c.target("")
	return err
}

// target returns the server, for an application.
func (c BindingConfig) target(appID string) (target, error) {
	uri, err := parseURI("host", c.Host)
	if err != nil {
		return target{}, err
	}
	tls, err := certificates{c.CACert, c.ClientCert, c.ClientKey, c.SaslExternal}.tls()
	if err != nil {
		return target{}, err
	}
	if tls != nil && uri.Scheme != "amqps" {
		return target{}, component.Invalid("host", "must begin with amqps:// with caCert or clientCert")
	}
	return target{uri: c.Host, tls: tls, external: c.SaslExternal, name: appID}, nil
}

// declare makes the queue.
func (c *BindingConfig) declare(ch *amqp.Channel) error {
	args := amqp.Table{}
	if c.TTL > 0 {
		args[argMessageTTL] = max(1, c.TTL.Std().Milliseconds())
	}
	if c.MaxPriority > 0 {
		args[argMaxPriority] = uint8(c.MaxPriority) //nolint:gosec // Validate bounds it
	}
	_, err := ch.QueueDeclare(c.QueueName, c.Durable, c.DeleteWhenUnused, c.Exclusive, false, args)
	return err
}

// Binding is a binding.Output and a binding.Input.
type Binding struct {
	cfg       BindingConfig
	publisher *publisher
	consumers *link

	closing sync.Once
	closed  chan struct{}
}

// OpenBinding connects to RabbitMQ and makes the queue.
func OpenBinding(ctx context.Context, cfg BindingConfig, env component.Env) (*Binding, error) {
	t, err := cfg.target(env.AppID)
	if err != nil {
		return nil, err
	}
	b := &Binding{cfg: cfg, closed: make(chan struct{})}
	b.publisher = newPublisher(publisher{
		link: newLink(t), confirms: true, mandatory: true,
		declare: func(ch *amqp.Channel, _ *parcel) error { return b.cfg.declare(ch) },
	})
	b.consumers = b.publisher.link
	if !cfg.Exclusive {
		// The server makes connections wait that publish too much.
		b.consumers = newLink(t)
	}
	c, err := b.publisher.link.get(ctx)
	if err == nil {
		err = c.onChannel(ctx, b.cfg.declare)
	}
	if err != nil {
		b.publisher.link.close()
		return nil, err
	}
	return b, nil
}

// Close implements io.Closer.
func (b *Binding) Close() error {
	b.closing.Do(func() {
		close(b.closed)
		b.publisher.link.close()
		b.consumers.close()
	})
	return nil
}

// opCreate publishes a message.
const opCreate = "create"

// Operations implements binding.Output.
func (b *Binding) Operations() []string { return []string{opCreate} }

// Invoke implements binding.Output. The metadata arrives as headers of the
// message; contentType, ttlInSeconds and priority also set what they say.
func (b *Binding) Invoke(ctx context.Context, r binding.Request) (binding.Response, error) {
	if r.Operation != opCreate {
		return binding.Response{}, fault.New(fault.InvalidArgument, "there is no operation %q; there is %s", r.Operation, opCreate)
	}
	m := parcel{key: b.cfg.QueueName, message: amqp.Publishing{
		// The id tells messages apart that come back.
		MessageId: rand.Text(), DeliveryMode: amqp.Persistent, Body: r.Data,
		ContentType: cmp.Or(lookup(r.Metadata, metaContentType), b.cfg.ContentType), Headers: make(amqp.Table, len(r.Metadata)),
	}}
	for k, v := range r.Metadata {
		m.message.Headers[k] = v
	}
	if text := lookup(r.Metadata, metaTTL); text != "" {
		seconds, err := strconv.ParseInt(text, 10, 32)
		if err != nil || seconds <= 0 {
			return binding.Response{}, invalid(metaTTL, "wants a positive number, not %q", text)
		}
		m.message.Expiration = expiration(time.Duration(seconds) * time.Second)
	}
	var err error
	if m.message.Priority, err = priorityOf(r.Metadata); err != nil {
		return binding.Response{}, err
	}
	return binding.Response{}, b.publisher.publish(ctx, &m)
}

// metaTTL is how long a message lives, in seconds.
const metaTTL = "ttlInSeconds"

// Back-off between deliveries of an event that fails.
const (
	firstRedelivery = 500 * time.Millisecond
	lastRedelivery  = 10 * time.Second
)

// Listen implements binding.Input. Headers that are text arrive as metadata, in
// the form of a URL query, as with Dapr. An event that fails is delivered again
// later, while others go on.
func (b *Binding) Listen(ctx context.Context, handle binding.Handler) error {
	prefetch := cmp.Or(b.cfg.PrefetchCount, defaultPrefetch)
	c := newConsumer(source{
		queue: b.cfg.QueueName, declare: b.cfg.declare, decode: eventOf,
		rejects: func(error) bool { return false }, keepFor: keepFor, closed: b.closed,
	})
	c.ctx, c.limit, c.prefetch = context.WithoutCancel(ctx), 1, prefetch
	c.handle = func(ctx context.Context, d *pubsub.Delivery) error {
		err := handle(ctx, binding.Event{Data: d.Data, Metadata: d.Metadata})
		if err == nil {
			return nil
		}
		wait := min(firstRedelivery<<min(d.Attempt-1, 10), lastRedelivery)
		return fault.Wrap(err, fault.Unavailable, "the event").WithRetryAfter(max(wait, fault.RetryAfterOf(err)))
	}
	err := c.begin(ctx, b.consumers)
	if err == nil {
		err = c.run(ctx)
	}
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case b.isClosed():
		return errClosed()
	}
	return err
}

func (b *Binding) isClosed() bool {
	select {
	case <-b.closed:
		return true
	default:
		return false
	}
}

// eventOf turns a message into what the handler gets.
func eventOf(d *amqp.Delivery) *pubsub.Delivery {
	out := &pubsub.Delivery{Attempt: attemptOf(d)}
	out.Data, out.Metadata = d.Body, make(map[string]string, len(d.Headers))
	for k, v := range d.Headers {
		if text, ok := v.(string); ok {
			out.Metadata[url.QueryEscape(k)] = url.QueryEscape(text)
		}
	}
	return out
}
