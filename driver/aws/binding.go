package aws

import (
	"context"
	"encoding/json"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/proa-io/proa/block/binding"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
)

// opCreate is the operation of both bindings.
const opCreate = "create"

func wantCreate(operation string) error {
	if operation != opCreate {
		return fault.New(fault.InvalidArgument, "there is no operation %q: there is %s", operation, opCreate)
	}
	return nil
}

// QueueConfig configures a binding to a queue of SQS.
type QueueConfig struct {
	Config
	// QueueName is the queue, which is there already.
	QueueName string `setting:"queueName,required"`
}

// Queue is a binding.Output and a binding.Input.
//
// Its operation is create: the data, which are text, become a message. Events
// are messages; one that the application has not acknowledged comes again when
// its visibility timeout is over, and goes to the queue's dead letters as the
// queue says. Of a queue whose name ends with ".fifo" one message is handed over
// at a time, of others up to ten.
type Queue struct {
	client *client
	name   string

	mu  sync.Mutex
	url string // once it is known
}

// OpenQueue opens a binding to a queue. It fails when there is no such queue.
func OpenQueue(ctx context.Context, cfg QueueConfig, _ component.Env) (*Queue, error) {
	c, err := newClient(ctx, service{"sqs", "AmazonSQS.", "application/x-amz-json-1.0"}, cfg.Config)
	if err != nil {
		return nil, err
	}
	q := &Queue{client: c, name: cfg.QueueName}
	if _, err := q.address(ctx); err != nil {
		c.close()
		return nil, err
	}
	return q, nil
}

// Close implements io.Closer.
func (q *Queue) Close() error {
	q.client.close()
	return nil
}

// address returns what the queue is called in requests.
func (q *Queue) address(ctx context.Context) (string, error) {
	q.mu.Lock()
	known := q.url
	q.mu.Unlock()
	if known != "" {
		return known, nil
	}
	var out struct{ QueueUrl string } //nolint:revive // its name there
	if err := q.client.call(ctx, "GetQueueUrl", map[string]string{"QueueName": q.name}, &out); err != nil {
		return "", err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.url = out.QueueUrl
	return q.url, nil
}

// Operations implements binding.Output.
func (q *Queue) Operations() []string { return []string{opCreate} }

// Invoke implements binding.Output.
func (q *Queue) Invoke(ctx context.Context, r binding.Request) (binding.Response, error) {
	if err := wantCreate(r.Operation); err != nil {
		return binding.Response{}, err
	}
	address, err := q.address(ctx)
	if err != nil {
		return binding.Response{}, err
	}
	var out struct{ MessageId string } //nolint:revive // its name there
	err = q.client.call(ctx, "SendMessage", map[string]string{"QueueUrl": address, "MessageBody": string(r.Data)}, &out)
	if err != nil {
		return binding.Response{}, err
	}
	return binding.Response{Metadata: map[string]string{"messageID": out.MessageId}}, nil
}

type message struct {
	MessageId     string //nolint:revive // its name there
	Body          string
	ReceiptHandle string
}

// Listen implements binding.Input.
func (q *Queue) Listen(ctx context.Context, handle binding.Handler) error {
	address, err := q.address(ctx)
	if err != nil {
		return err
	}
	atOnce := 10 // as many as the service gives
	if strings.HasSuffix(q.name, ".fifo") {
		atOnce = 1
	}
	const longest = 20 // seconds that the service waits for a message
	ask := map[string]any{"QueueUrl": address, "MaxNumberOfMessages": atOnce, "WaitTimeSeconds": longest}
	for {
		var out struct{ Messages []message }
		if err := q.client.call(ctx, "ReceiveMessage", ask, &out); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return err
		}
		errs := make([]error, len(out.Messages))
		var work sync.WaitGroup
		for i, m := range out.Messages {
			work.Go(func() { errs[i] = q.hand(ctx, address, m, handle) })
		}
		work.Wait()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		for _, err := range errs {
			if err != nil {
				return err
			}
		}
	}
}

// forgetWithin bounds the removal of a message that has been handled, also when
// no more are wanted.
const forgetWithin = 5 * time.Second

// hand gives a message to the application and removes it when that has taken it.
func (q *Queue) hand(ctx context.Context, address string, m message, handle binding.Handler) error {
	if ctx.Err() != nil {
		return nil // the queue gives it to others
	}
	if handle(ctx, binding.Event{Data: []byte(m.Body), Metadata: map[string]string{"messageID": m.MessageId}}) != nil {
		return nil // the queue gives it out again
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), forgetWithin)
	defer cancel()
	return q.client.call(ctx, "DeleteMessage", map[string]string{"QueueUrl": address, "ReceiptHandle": m.ReceiptHandle}, nil)
}

// TopicConfig configures a binding to a topic of SNS.
type TopicConfig struct {
	Config
	// TopicArn is the name of the topic: "arn:aws:sns:eu-central-1:123456789012:orders".
	TopicArn string `setting:"topicArn,required"` //nolint:revive // as Dapr writes it
}

// Topic is a binding.Output. Its operation is create, whose data are a JSON
// object with a message and, if there is to be one, a subject. What is no string
// is sent as JSON.
type Topic struct {
	client *client
	arn    string
}

// OpenTopic opens a binding to a topic. It asks the service for nothing.
func OpenTopic(ctx context.Context, cfg TopicConfig, _ component.Env) (*Topic, error) {
	c, err := newClient(ctx, service{name: "sns"}, cfg.Config)
	if err != nil {
		return nil, err
	}
	return &Topic{c, cfg.TopicArn}, nil
}

// Close implements io.Closer.
func (t *Topic) Close() error {
	t.client.close()
	return nil
}

// Operations implements binding.Output.
func (t *Topic) Operations() []string { return []string{opCreate} }

// Invoke implements binding.Output.
func (t *Topic) Invoke(ctx context.Context, r binding.Request) (binding.Response, error) {
	if err := wantCreate(r.Operation); err != nil {
		return binding.Response{}, err
	}
	var data struct{ Message, Subject json.RawMessage }
	if err := json.Unmarshal(r.Data, &data); err != nil || len(data.Message) == 0 {
		return binding.Response{}, fault.New(fault.InvalidArgument, `the data must be a JSON object with a message: {"message": "...", "subject": "..."}`)
	}
	values := url.Values{"Action": {"Publish"}, "Version": {"2010-03-31"}, "TopicArn": {t.arn}, "Message": {plain(data.Message)}}
	if subject := plain(data.Subject); subject != "" && subject != "null" {
		values.Set("Subject", subject)
	}
	return binding.Response{}, t.client.form(ctx, values)
}

// plain returns a string for what it says and anything else as JSON.
func plain(v json.RawMessage) string {
	var text string
	if json.Unmarshal(v, &text) == nil && len(v) > 0 && v[0] == '"' {
		return text
	}
	return string(v)
}
