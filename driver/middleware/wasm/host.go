package wasm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"github.com/tetratelabs/wazero/api"

	"github.com/proa-io/proa/mesh/proxy"
)

const i32, i64 = api.ValueTypeI32, api.ValueTypeI64

// The kinds of header fields, as guests count them.
const (
	requestHeader = iota
	responseHeader
	requestTrailer
	responseTrailer
)

// The kinds of contents, as guests count them.
const (
	requestBody = iota
	responseBody
)

// export makes the functions that guests import from http_handler. One that is
// used wrongly panics, which ends the guest.
func (m *Middleware) export(ctx context.Context) error {
	b := m.runtime.NewHostModuleBuilder("http_handler")
	for _, f := range []struct {
		name    string
		params  int // all of type i32
		results []api.ValueType
		do      func(ctx context.Context, memory api.Memory, stack []uint64)
	}{
		{"enable_features", 1, []api.ValueType{i32}, m.enableFeatures},
		{"get_config", 2, []api.ValueType{i32}, m.getConfig},
		{"log_enabled", 1, []api.ValueType{i32}, m.logEnabled},
		{"log", 3, nil, m.logMessage},
		{"get_method", 2, []api.ValueType{i32}, getText(func(x *exchange) string { return x.Request().Method })},
		{"set_method", 2, nil, setMethod},
		{"get_uri", 2, []api.ValueType{i32}, getText(func(x *exchange) string { return x.Request().Target })},
		{"set_uri", 2, nil, setURI},
		{"get_protocol_version", 2, []api.ValueType{i32}, getText(func(*exchange) string { return "HTTP/1.1" })},
		{"get_source_addr", 2, []api.ValueType{i32}, getText(sourceAddr)},
		{"get_header_names", 3, []api.ValueType{i64}, getHeaderNames},
		{"get_header_values", 5, []api.ValueType{i64}, getHeaderValues},
		{"set_header_value", 5, nil, setHeaderValue},
		{"add_header_value", 5, nil, addHeaderValue},
		{"remove_header", 3, nil, removeHeader},
		{"read_body", 3, []api.ValueType{i64}, readBody},
		{"write_body", 3, nil, writeBody},
		{"get_status_code", 0, []api.ValueType{i32}, getStatusCode},
		{"set_status_code", 1, nil, setStatusCode},
	} {
		params := make([]api.ValueType, f.params)
		for i := range params {
			params[i] = i32
		}
		b = b.NewFunctionBuilder().WithGoModuleFunction(api.GoModuleFunc(func(ctx context.Context, mod api.Module, stack []uint64) {
			for i := range f.params {
				stack[i] = uint64(uint32(stack[i])) //nolint:gosec // the upper half of an i32 means nothing
			}
			f.do(ctx, mod.Memory(), stack)
		}), params, f.results).Export(f.name)
	}
	_, err := b.Instantiate(ctx)
	return err
}

// of returns the exchange that a guest works on. There is none while it is being
// started.
func of(ctx context.Context) *exchange {
	x, _ := ctx.Value(exchangeKey{}).(*exchange)
	if x == nil {
		panic(errors.New("there is no request"))
	}
	return x
}

// at returns a piece of a guest's memory.
func at(memory api.Memory, offset, length uint64) []byte {
	b, ok := memory.Read(uint32(offset), uint32(length)) //nolint:gosec // both are of type i32
	if !ok {
		panic(fmt.Errorf("%d bytes at %d are not in the memory", uint32(length), uint32(offset))) //nolint:gosec // as above
	}
	return b
}

func textAt(memory api.Memory, offset, length uint64) string {
	return string(at(memory, offset, length))
}

// put writes text into a guest's memory, if it is not longer than the limit, and
// returns how long it is.
func put(memory api.Memory, offset, limit uint64, text string) uint64 {
	if n := uint64(len(text)); n <= uint64(uint32(limit)) && n > 0 { //nolint:gosec // of type i32
		copy(at(memory, offset, n), text)
	}
	return uint64(len(text))
}

// putList is put for several texts, each ended by NUL. It returns how many there
// are, and how long they are together.
func putList(memory api.Memory, offset, limit uint64, list []string) uint64 {
	if len(list) == 0 {
		return 0
	}
	text := strings.Join(list, "\x00") + "\x00"
	return uint64(len(list))<<32 | put(memory, offset, limit, text)
}

func (m *Middleware) enableFeatures(ctx context.Context, _ api.Memory, stack []uint64) {
	asked := uint32(stack[0]) & allFeatures //nolint:gosec // of type i32
	if x, _ := ctx.Value(exchangeKey{}).(*exchange); x != nil {
		x.features |= asked
		stack[0] = uint64(x.features)
		return
	}
	stack[0] = uint64(m.features.Or(asked) | asked)
}

func (m *Middleware) getConfig(_ context.Context, memory api.Memory, stack []uint64) {
	stack[0] = put(memory, stack[0], stack[1], m.cfg.GuestConfig)
}

// levelOf returns the level that a guest calls by a number: -1 is debug.
func levelOf(n uint64) slog.Level {
	switch int32(n) { //nolint:gosec // of type i32
	case -1:
		return slog.LevelDebug
	case 0:
		return slog.LevelInfo
	case 1:
		return slog.LevelWarn
	case 2:
		return slog.LevelError
	}
	return slog.LevelError + 1000 // "none", which is never enabled
}

func (m *Middleware) logEnabled(ctx context.Context, _ api.Memory, stack []uint64) {
	level := levelOf(stack[0])
	stack[0] = 0
	if level <= slog.LevelError && m.log.Enabled(ctx, level) {
		stack[0] = 1
	}
}

func (m *Middleware) logMessage(ctx context.Context, memory api.Memory, stack []uint64) {
	text := at(memory, stack[1], stack[2])
	if level := levelOf(stack[0]); level <= slog.LevelError {
		m.log.Log(ctx, level, "the guest says", "text", strings.ToValidUTF8(string(text[:min(len(text), maxLine)]), "?"))
	}
}

func getText(get func(*exchange) string) func(context.Context, api.Memory, []uint64) {
	return func(ctx context.Context, memory api.Memory, stack []uint64) {
		stack[0] = put(memory, stack[0], stack[1], get(of(ctx)))
	}
}

func sourceAddr(x *exchange) string {
	if a := x.Remote(); a.IsValid() {
		return a.String()
	}
	return ""
}

// before returns the exchange, when its request has not gone on yet.
func before(ctx context.Context, what string) *exchange {
	x := of(ctx)
	if x.passed {
		panic(fmt.Errorf("%s cannot be changed after the request has gone on", what))
	}
	return x
}

// open returns the exchange, when its answer can be seen and changed: before the
// request goes on, or with the feature buffer_response.
func open(ctx context.Context, what string) *exchange {
	x := of(ctx)
	if x.passed && (!x.keeps() || x.answer.sent) {
		panic(fmt.Errorf("%s of an answer that is not buffered: enable the feature buffer_response", what))
	}
	return x
}

func setMethod(ctx context.Context, memory api.Memory, stack []uint64) {
	text := textAt(memory, stack[0], stack[1])
	if !isToken(text) {
		panic(errors.New("a method that is none"))
	}
	before(ctx, "the method").Request().Method = text
}

func setURI(ctx context.Context, memory api.Memory, stack []uint64) {
	text := textAt(memory, stack[0], stack[1])
	if text == "" {
		text = "/"
	}
	if text[0] != '/' || strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		panic(errors.New("a URI that is none: it has to begin with / and must not have blanks"))
	}
	before(ctx, "the URI").Request().Target = text
}

// fields returns the header fields of a kind, to look at or to change. There are
// none of a trailer that has not come yet.
func fields(ctx context.Context, kind uint64, change bool) *proxy.Header {
	switch kind {
	case requestHeader:
		if change {
			before(ctx, "the header")
		}
		return &of(ctx).Request().Header
	case requestTrailer:
		if change {
			before(ctx, "the trailer")
		}
		x := of(ctx)
		if x.request.buffered && x.Request().Trailer != nil {
			return x.Request().Trailer
		}
		return &proxy.Header{}
	case responseHeader:
		return &open(ctx, "the header").answer.header
	case responseTrailer:
		return &open(ctx, "the trailer").answer.trailer
	}
	panic(fmt.Errorf("there are no header fields of the kind %d", kind))
}

func getHeaderNames(ctx context.Context, memory api.Memory, stack []uint64) {
	seen := map[string]bool{}
	var names []string
	for _, f := range *fields(ctx, stack[0], false) {
		if name := strings.ToLower(f.Name); !seen[name] {
			seen[name] = true
			names = append(names, name)
		}
	}
	stack[0] = putList(memory, stack[1], stack[2], names)
}

func getHeaderValues(ctx context.Context, memory api.Memory, stack []uint64) {
	kind, name := stack[0], textAt(memory, stack[1], stack[2])
	if name == "" {
		panic(errors.New("a header field without a name"))
	}
	values := fields(ctx, kind, false).Values(name)
	if kind == requestHeader && proxy.SameName(name, "Host") {
		values = []string{of(ctx).Request().Authority}
	}
	stack[0] = putList(memory, stack[3], stack[4], values)
}

// field returns the name and the value that a guest names.
func field(memory api.Memory, stack []uint64) (name, value string) {
	name, value = textAt(memory, stack[1], stack[2]), textAt(memory, stack[3], stack[4])
	if !isToken(name) || strings.ContainsAny(value, "\r\n\x00") {
		panic(errors.New("a header field that is none"))
	}
	return name, value
}

func setHeaderValue(ctx context.Context, memory api.Memory, stack []uint64) {
	name, value := field(memory, stack)
	h := fields(ctx, stack[0], true)
	if stack[0] == requestHeader && proxy.SameName(name, "Host") {
		of(ctx).Request().Authority = value
		return
	}
	h.Set(name, value)
}

func addHeaderValue(ctx context.Context, memory api.Memory, stack []uint64) {
	name, value := field(memory, stack)
	fields(ctx, stack[0], true).Add(name, value)
}

func removeHeader(ctx context.Context, memory api.Memory, stack []uint64) {
	fields(ctx, stack[0], true).Del(textAt(memory, stack[1], stack[2]))
}

// isToken reports whether text can be a method or the name of a header field (RFC
// 9110, section 5.6.2).
func isToken(text string) bool {
	return text != "" && !strings.ContainsFunc(text, func(r rune) bool {
		return r <= ' ' || r >= 0x7f || strings.ContainsRune(`"(),/:;<=>?@[\]{}`, r)
	})
}

func readBody(ctx context.Context, memory api.Memory, stack []uint64) {
	if uint32(stack[2]) == 0 { //nolint:gosec // of type i32
		panic(errors.New("a content cannot be read into nothing"))
	}
	var from io.Reader
	switch stack[0] {
	case requestBody:
		x := of(ctx)
		if x.passed && !x.request.buffered {
			panic(errors.New("the content of the request has gone on: enable the feature buffer_request"))
		}
		from = x.requestContent(ctx)
	case responseBody:
		x := open(ctx, "the content")
		if x.answer.read == nil {
			x.answer.read = bytes.NewReader(x.answer.content.Bytes())
		}
		from = x.answer.read
	default:
		panic(fmt.Errorf("there is no content of the kind %d", stack[0]))
	}
	n, err := io.ReadFull(from, at(memory, stack[1], stack[2]))
	switch err {
	case nil:
		stack[0] = uint64(n) //nolint:gosec // not negative
	case io.EOF, io.ErrUnexpectedEOF:
		stack[0] = 1<<32 | uint64(n) //nolint:gosec // as above
	default:
		panic(fmt.Errorf("read a content: %w", err))
	}
}

func writeBody(ctx context.Context, memory api.Memory, stack []uint64) {
	var to **bytes.Buffer
	var x *exchange
	switch stack[0] {
	case requestBody:
		x = before(ctx, "the content")
		to = &x.request.written
	case responseBody:
		x = open(ctx, "the content")
		to = &x.answer.written
	default:
		panic(fmt.Errorf("there is no content of the kind %d", stack[0]))
	}
	if *to == nil {
		*to = &bytes.Buffer{}
	}
	b := at(memory, stack[1], stack[2])
	if int64((*to).Len()+len(b)) > int64(x.m.cfg.MaxBody) {
		panic(errors.New("a content is larger than it may be (maxBodySize)"))
	}
	(*to).Write(b)
}

func getStatusCode(ctx context.Context, _ api.Memory, stack []uint64) {
	x := open(ctx, "the status")
	stack[0] = 200
	if x.answer.status != 0 {
		stack[0] = uint64(x.answer.status) //nolint:gosec // not negative
	}
}

func setStatusCode(ctx context.Context, _ api.Memory, stack []uint64) {
	status := uint32(stack[0]) //nolint:gosec // of type i32
	if status < 200 || status > 599 {
		panic(fmt.Errorf("a status of %d", status))
	}
	open(ctx, "the status").answer.status = int(status)
}
