package redis

import (
	"context"
	"strconv"
	"strings"

	"github.com/redis/rueidis"

	"github.com/proa-io/proa/block/binding"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
)

// The operations of a Binding.
const (
	operationCreate    = "create"
	operationGet       = "get"
	operationDelete    = "delete"
	operationIncrement = "increment"
)

// Metadata of requests.
const (
	metadataKey    = "key"
	metadataDelete = "delete"
	metadataTTL    = "ttlInSeconds"
)

// BindingConfig configures an output binding to Redis.
type BindingConfig struct {
	Config
}

// Binding is a binding.Output on the strings of a Redis database.
//
// The metadata "key" of a request names the string, as it is: two applications
// with the same database see the same keys. The operation "create" sets it to
// the data of the request, "get" answers with it, "delete" deletes it, and
// "increment" adds one to the number that it holds. What is not there is got as
// nothing, and counts from zero. The metadata "ttlInSeconds" has "create" and
// "increment" give the key that long to live, and "delete" with the value "true"
// has "get" delete what it answers with.
type Binding struct {
	client    *client
	increment script
}

// KEYS: the number. ARGV: seconds to live.
const luaIncrement = `
redis.call('INCR', KEYS[1])
redis.call('EXPIRE', KEYS[1], ARGV[1])
return 0`

// OpenBinding connects to Redis.
func OpenBinding(ctx context.Context, cfg BindingConfig, _ component.Env) (*Binding, error) {
	c, err := connect(ctx, cfg.Config)
	if err != nil {
		return nil, err
	}
	return &Binding{client: c, increment: namedScript(luaIncrement)}, nil
}

// Operations implements binding.Output.
func (b *Binding) Operations() []string {
	return []string{operationCreate, operationDelete, operationGet, operationIncrement}
}

// Repeatable implements binding.Repeatable. To get may also delete.
func (b *Binding) Repeatable(operation string) bool {
	return operation == operationCreate || operation == operationDelete
}

// Close implements io.Closer.
func (b *Binding) Close() error {
	b.client.close()
	return nil
}

// Invoke implements binding.Output.
func (b *Binding) Invoke(ctx context.Context, r binding.Request) (binding.Response, error) {
	if err := ctx.Err(); err != nil {
		return binding.Response{}, err
	}
	key := r.Metadata[metadataKey]
	if key == "" {
		return binding.Response{}, fault.New(fault.InvalidArgument, "the metadata %q is missing: it names what to %s", metadataKey, r.Operation)
	}
	seconds, err := timeToLive(r.Metadata)
	if err != nil {
		return binding.Response{}, err
	}
	switch build := b.client.build(); r.Operation {
	case operationCreate:
		set := build.Set().Key(key).Value(string(r.Data))
		if seconds > 0 {
			return b.done(b.client.do(ctx, set.ExSeconds(seconds).Build()))
		}
		return b.done(b.client.do(ctx, set.Build()))
	case operationGet:
		if r.Metadata[metadataDelete] == "true" {
			return b.answer(b.client.do(ctx, build.Getdel().Key(key).Build()))
		}
		return b.answer(b.client.do(ctx, build.Get().Key(key).Build()))
	case operationDelete:
		return b.done(b.client.do(ctx, build.Del().Key(key).Build()))
	case operationIncrement:
		if seconds > 0 {
			return b.done(b.increment.run(ctx, b.client, scriptCall{[]string{key}, []string{strconv.FormatInt(seconds, 10)}}))
		}
		return b.done(b.client.do(ctx, build.Incr().Key(key).Build()))
	}
	return binding.Response{}, fault.New(fault.InvalidArgument, "there is no operation %q: there are create, delete, get and increment", r.Operation)
}

// timeToLive returns the seconds that a request gives to a key, 0 for no end.
func timeToLive(metadata map[string]string) (int64, error) {
	text := metadata[metadataTTL]
	if text == "" {
		return 0, nil
	}
	seconds, err := strconv.ParseInt(text, 10, 32)
	if err != nil || seconds <= 0 {
		return 0, fault.New(fault.InvalidArgument, "the metadata %q wants a whole number of seconds, 1 at least, not %q", metadataTTL, text)
	}
	return seconds, nil
}

// answer makes a response of the reply to "get".
func (b *Binding) answer(reply rueidis.RedisResult, err error) (binding.Response, error) {
	if err != nil {
		return binding.Response{}, err
	}
	data, err := reply.AsBytes()
	switch {
	case rueidis.IsRedisNil(err):
		return binding.Response{}, nil
	case err != nil:
		return binding.Response{}, classifyReplyError(err)
	}
	return binding.Response{Data: data}, nil
}

// done makes a response of the reply to what only has to be done.
func (b *Binding) done(reply rueidis.RedisResult, err error) (binding.Response, error) {
	if err == nil {
		err = classifyReplyError(reply.Error())
	}
	return binding.Response{}, err
}

// classifyReplyError names an error reply. What only "increment" meets has no
// kind of its own on the server.
func classifyReplyError(err error) error {
	if err == nil {
		return nil
	}
	if text := err.Error(); strings.Contains(text, "not an integer") || strings.Contains(text, "would overflow") {
		return fault.Wrap(err, fault.FailedPrecondition, "the value at this key is no whole number that one can be added to")
	}
	return classify(context.Background(), err)
}
