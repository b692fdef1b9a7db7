package redis

import (
	"context"

	"github.com/redis/rueidis"

	"github.com/proa-io/proa/fault"
)

// A script runs on the server, where nothing comes between its commands. It is
// called by its hash; a server that does not know it is sent the text.
type script struct{ text, sha string }

// newScript loads a script and returns it. In a cluster the nodes that do not
// know it yet learn it when they are asked.
func newScript(ctx context.Context, c *client, text string) (script, error) {
	res, err := c.do(ctx, c.build().ScriptLoad().Script(text).Build())
	if err != nil {
		return script{}, err
	}
	sha, err := res.ToString()
	return script{text, sha}, classify(ctx, err)
}

// A scriptCall is one call of a script. Its arguments are copied when a command
// is built of it, and so may be used again.
type scriptCall struct{ keys, args []string }

func (s script) command(c *client, call scriptCall) rueidis.Completed {
	return c.build().Evalsha().Sha1(s.sha).Numkeys(int64(len(call.keys))).Key(call.keys...).Arg(call.args...).Build()
}

func (s script) full(c *client, call scriptCall) rueidis.Completed {
	return c.build().Eval().Script(s.text).Numkeys(int64(len(call.keys))).Key(call.keys...).Arg(call.args...).Build()
}

// run calls the script once.
func (s script) run(ctx context.Context, c *client, call scriptCall) (rueidis.RedisResult, error) {
	res, err := c.do(ctx, s.command(c, call))
	if err == nil && unknownScript(res) {
		res, err = c.do(ctx, s.full(c, call))
	}
	return res, err
}

// runMulti calls the script several times in one go and returns a result for
// each.
func (s script) runMulti(ctx context.Context, c *client, calls []scriptCall) ([]rueidis.RedisResult, error) {
	cmds := make([]rueidis.Completed, len(calls))
	for i, call := range calls {
		cmds[i] = s.command(c, call)
	}
	res, err := c.doMulti(ctx, cmds...)
	if err != nil {
		return nil, err
	}
	for i := range res {
		if unknownScript(res[i]) {
			if res[i], err = c.do(ctx, s.full(c, calls[i])); err != nil {
				return nil, err
			}
		}
	}
	return res, nil
}

func unknownScript(res rueidis.RedisResult) bool {
	re, ok := rueidis.IsRedisErr(res.Error())
	return ok && re.IsNoScript()
}

// Answers of the scripts that are no version.
const (
	answerMismatch = -1
	answerExists   = -2
	answerForeign  = -3 // the key holds something that is no item
)

// errForeign tells that a key holds data that we must not overwrite.
func errForeign() error {
	return fault.New(fault.FailedPrecondition, "redis holds something else at this key, which is left alone")
}

// The scripts keep items as Dapr does: a hash with the fields "data" and
// "version", which counts writes, and "first-write" (0) once an item was
// written with first-write-wins. Two things are stricter here. An etag must
// match even if there is no item, as it must in every other store. And a write
// without an etag overwrites whatever "first-write" says, because the caller of
// one write cannot know how another was made.

// luaItem holds the functions that the scripts share. Old versions of Dapr kept
// items in plain strings; they count as items without an etag.
const luaItem = `
local function failed(r, how) return type(r) == 'table' and string.find(r.err or '', how, 1, true) ~= nil end
local function is(key, t) return redis.call('TYPE', key)['ok'] == t end
-- the answer to a write that must not happen, or 0
local function conflict(key, etag, first)
  local v = redis.pcall('HGET', key, 'version')
  if failed(v, 'WRONGTYPE') and not is(key, 'string') then return -3 end
  if type(v) == 'string' and not string.match(v, '^%d+$') then return -3 end
  if etag ~= '' and v ~= etag then return -1 end
  if etag == '' and first == '1' and redis.call('EXISTS', key) == 1 then return -2 end
  return 0
end
local function put(key, data, first, ttl)
  local v = redis.pcall('HINCRBY', key, 'version', 1)
  if failed(v, 'WRONGTYPE') and is(key, 'string') then
    redis.call('DEL', key)
    v = redis.call('HINCRBY', key, 'version', 1)
  end
  if failed(v, 'WRONGTYPE') or failed(v, 'not an integer') then return -3 end
  if type(v) == 'table' then return v end
  if first == '1' then
    redis.call('HSET', key, 'data', data, 'first-write', '0')
  else
    redis.call('HSET', key, 'data', data)
  end
  if ttl ~= '0' then redis.call('EXPIRE', key, ttl) else redis.call('PERSIST', key) end
  return v
end
`

// luaPut stores KEYS[1]. ARGV: data, etag, first, ttl. It returns the new
// version, or one of the answers above.
const luaPut = luaItem + `
if ARGV[2] ~= '' or ARGV[3] == '1' then
  local c = conflict(KEYS[1], ARGV[2], ARGV[3])
  if c ~= 0 then return c end
end
return put(KEYS[1], ARGV[1], ARGV[3], ARGV[4])`

// luaDelete removes KEYS[1] if its etag is ARGV[1]. It returns 1, or one of the
// answers above.
const luaDelete = luaItem + `
local c = conflict(KEYS[1], ARGV[1], '')
if c ~= 0 then return c end
redis.call('DEL', KEYS[1])
return 1`

// luaTransact carries out one operation per key, or none. ARGV holds five
// values per operation: "put", "delete", or a check ("exists", "absent",
// "etag"); data, etag, first, ttl. It returns 0,
// or one of the answers above and the number of the operation to blame. After
// the conflicts only a full server can make a write fail, and a server lets a
// script go on that has written once, so it is the first write or none.
const luaTransact = luaItem + `
for i, key in ipairs(KEYS) do
  local a = (i - 1) * 5
  local kind, c = ARGV[a + 1], 0
  if kind == 'exists' or kind == 'absent' then
    if (redis.call('EXISTS', key) == 1) ~= (kind == 'exists') then c = -1 end
  else
    c = conflict(key, ARGV[a + 3], ARGV[a + 4])
  end
  if c ~= 0 then return {c, i} end
end
for i, key in ipairs(KEYS) do
  local a = (i - 1) * 5
  if ARGV[a + 1] == 'delete' then
    redis.call('DEL', key)
  elseif ARGV[a + 1] == 'put' then
    local r = put(key, ARGV[a + 2], ARGV[a + 4], ARGV[a + 5])
    if type(r) == 'table' then return r end
  end
end
return {0, 0}`
