package azure

import (
	"context"
	"encoding/base64"
	"encoding/xml"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/proa-io/proa/block/binding"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
)

// QueueConfig configures a binding to a queue of Queue Storage.
type QueueConfig struct {
	IdentityConfig
	// AccountName is the storage account.
	AccountName string `setting:"accountName,storageAccount,required"`
	// AccountKey is a key of the account. Without one, an identity of Microsoft
	// Entra ID is who asks.
	AccountKey component.Secret `setting:"accountKey,storageAccessKey"`
	// QueueName is the queue, which is created unless it is there.
	QueueName string `setting:"queueName,queue,required"`
	// QueueEndpoint is the URL of a service that stands in for Azure's, or has a
	// name of its own. The account is put behind it as its path when the URL is
	// one of a number or of localhost: "http://127.0.0.1:10001".
	QueueEndpoint string `setting:"queueEndpoint,endpoint"`
	// PollingInterval is how long to wait before an empty queue is asked again.
	PollingInterval component.Duration `setting:"pollingInterval"`
	// TTL is how long a message is kept that is not processed; the metadata
	// ttlInSeconds of a request says so for one message.
	TTL component.Duration `setting:"ttl,ttlInSeconds"`
	// DecodeBase64 says that messages taken from the queue are Base64, and what
	// that stands for is the event.
	DecodeBase64 bool `setting:"decodeBase64"`
	// EncodeBase64 says that data are to be sent as Base64: messages are text.
	EncodeBase64 bool `setting:"encodeBase64"`
	// VisibilityTimeout is how long a message that has been taken is hidden from
	// others; one that was not processed comes again then.
	VisibilityTimeout component.Duration `setting:"visibilityTimeout"`
}

func queueDefaults() QueueConfig {
	return QueueConfig{
		PollingInterval: component.Duration(10 * time.Second), TTL: component.Duration(10 * time.Minute),
		VisibilityTimeout: component.Duration(30 * time.Second),
	}
}

// Validate reports settings that can never work.
func (c QueueConfig) Validate() error {
	const longest = 7 * 24 * time.Hour
	switch {
	case c.AccountName == "":
		return component.Invalid("accountName", "is required")
	case c.QueueName == "" || strings.Trim(c.QueueName, "abcdefghijklmnopqrstuvwxyz0123456789-") != "":
		return component.Invalid("queueName", "wants a name of lower case letters, digits and hyphens")
	case c.PollingInterval <= 0:
		return component.Invalid("pollingInterval", "must be positive")
	case c.TTL.Std() < time.Second:
		return component.Invalid("ttl", "must be a second at least")
	case c.VisibilityTimeout.Std() < time.Second || c.VisibilityTimeout.Std() > longest:
		return component.Invalid("visibilityTimeout", "must be from 1s to 168h")
	}
	if _, err := base64.StdEncoding.DecodeString(c.AccountKey.Reveal()); err != nil {
		return component.Invalid("accountKey", "is not in base64")
	}
	if u, err := url.Parse(c.address()); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return component.Invalid("queueEndpoint", `wants a URL such as "http://127.0.0.1:10001"`)
	}
	return c.IdentityConfig.Validate()
}

// address returns the URL of the account, without a slash at its end.
func (c QueueConfig) address() string {
	at, _ := cloudOf(c.AzureEnvironment)
	return accountURL(c.QueueEndpoint, c.AccountName, "queue."+at.storage)
}

// Queue is a binding.Output and a binding.Input.
//
// Its operation is create: the data become a message, which is text. Events are
// messages, one at a time; one that the application has not acknowledged comes
// again when its visibility timeout is over.
type Queue struct {
	cfg     QueueConfig
	storage *storage
}

// OpenQueue opens a binding to a queue and creates the queue unless it is there.
func OpenQueue(ctx context.Context, cfg QueueConfig, _ component.Env) (*Queue, error) {
	s, err := dial(ctx, cfg.IdentityConfig, credential{cfg.AccountName, cfg.AccountKey}, cfg.address()+"/"+cfg.QueueName)
	if err != nil {
		return nil, err
	}
	a, err := s.do(ctx, request{method: http.MethodPut})
	exists := a.Status == http.StatusConflict && a.Header.Get("x-ms-error-code") == "QueueAlreadyExists"
	if err == nil && a.Status != http.StatusCreated && a.Status != http.StatusNoContent && !exists {
		err = a.Err(place)
	}
	if err != nil {
		s.client.Close()
		return nil, err
	}
	return &Queue{cfg, s}, nil
}

// Close implements io.Closer.
func (q *Queue) Close() error {
	q.storage.client.Close()
	return nil
}

// Operations implements binding.Output.
func (q *Queue) Operations() []string { return []string{opCreate} }

// message is a message on its way to the queue.
type message struct {
	XMLName xml.Name `xml:"QueueMessage"`
	Text    string   `xml:"MessageText"`
}

// Invoke implements binding.Output.
func (q *Queue) Invoke(ctx context.Context, r binding.Request) (binding.Response, error) {
	if r.Operation != opCreate {
		return binding.Response{}, fault.New(fault.InvalidArgument, "there is no operation %q: there is %s", r.Operation, opCreate)
	}
	ttl, err := q.ttl(r.Metadata)
	if err != nil {
		return binding.Response{}, err
	}
	data := unquote(r.Data)
	if q.cfg.EncodeBase64 {
		data = base64.StdEncoding.AppendEncode(nil, data)
	}
	if !isText(data) {
		return binding.Response{}, fault.New(fault.InvalidArgument, "the data are no text, and so no message: set encodeBase64")
	}
	body, err := xml.Marshal(message{Text: string(data)})
	if err != nil {
		return binding.Response{}, fault.Wrap(err, fault.Internal, "the message cannot be written")
	}
	a, err := q.storage.do(ctx, request{
		method: http.MethodPost, blob: "messages", query: "messagettl=" + strconv.FormatInt(int64(ttl/time.Second), 10),
		header: http.Header{"Content-Type": {"application/xml"}}, body: body,
	})
	if err == nil && a.Status != http.StatusCreated {
		err = a.Err(place)
	}
	return binding.Response{}, err
}

// ttl returns how long a message is kept.
func (q *Queue) ttl(metadata map[string]string) (time.Duration, error) {
	for _, name := range []string{"ttlInSeconds", "ttl"} {
		text := metadata[name]
		if text == "" {
			continue
		}
		var life component.Duration
		if err := life.UnmarshalText([]byte(text)); err != nil || life.Std() < time.Second {
			return 0, fault.New(fault.InvalidArgument, "the metadata %s want a number of seconds from 1 on, not %q", name, text)
		}
		return life.Std(), nil
	}
	return q.cfg.TTL.Std(), nil
}

// isText reports whether XML can hold data as they are.
func isText(data []byte) bool {
	for len(data) > 0 {
		r, size := utf8.DecodeRune(data)
		if r == utf8.RuneError && size == 1 || r < ' ' && r != '\t' && r != '\n' && r != '\r' || r == 0xfffe || r == 0xffff {
			return false
		}
		data = data[size:]
	}
	return true
}

// taken is a message that is hidden from others.
type taken struct {
	ID      string `xml:"MessageId"`
	Receipt string `xml:"PopReceipt"`
	Text    string `xml:"MessageText"`
}

// take takes a message from the queue, or none from an empty one.
func (q *Queue) take(ctx context.Context) ([]taken, error) {
	a, err := q.storage.do(ctx, request{
		method: http.MethodGet, blob: "messages",
		query: "numofmessages=1&visibilitytimeout=" + strconv.FormatInt(int64(q.cfg.VisibilityTimeout.Std()/time.Second), 10),
	})
	switch {
	case err != nil:
		return nil, err
	case a.Status != http.StatusOK:
		return nil, a.Err(place)
	}
	var out struct {
		Messages []taken `xml:"QueueMessage"`
	}
	if xml.Unmarshal(a.Body, &out) != nil {
		return nil, fault.New(fault.Unavailable, "the answer of the service is not what it should be")
	}
	return out.Messages, nil
}

// Listen implements binding.Input.
func (q *Queue) Listen(ctx context.Context, handle binding.Handler) error {
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-pause.C:
		}
		messages, err := q.take(ctx)
		for _, m := range messages {
			if err == nil && ctx.Err() == nil {
				err = q.hand(ctx, m, handle)
			}
		}
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			return err
		case len(messages) == 0:
			pause.Reset(q.cfg.PollingInterval.Std())
		default:
			pause.Reset(0)
		}
	}
}

// forgetWithin bounds the removal of a message that has been handled, also when
// no more are wanted.
const forgetWithin = 5 * time.Second

// hand gives a message to the application and removes it when that has taken it.
func (q *Queue) hand(ctx context.Context, m taken, handle binding.Handler) error {
	data := []byte(m.Text)
	if q.cfg.DecodeBase64 {
		decoded, err := base64.StdEncoding.DecodeString(m.Text)
		if err != nil {
			return fault.New(fault.FailedPrecondition, "decodeBase64 is set, and message %s is not Base64", m.ID)
		}
		data = decoded
	}
	if handle(ctx, binding.Event{Data: data, Metadata: map[string]string{"messageID": m.ID}}) != nil {
		return nil // the queue gives it out again
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), forgetWithin)
	defer cancel()
	a, err := q.storage.do(ctx, request{method: http.MethodDelete, blob: "messages/" + m.ID, query: url.Values{"popreceipt": {m.Receipt}}.Encode()})
	if err == nil && a.Status != http.StatusNoContent && a.Status != http.StatusNotFound { // others have it, or its time was over
		err = a.Err(place)
	}
	return err
}
