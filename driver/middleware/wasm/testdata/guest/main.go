// Guest is a middleware for the tests, written against the HTTP handler ABI of
// http-wasm. What it does is in the path of a request; which features it asks
// for is in its configuration.
package main

import (
	"bytes"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"
	"unsafe"
)

//go:wasmimport http_handler enable_features
func enableFeatures(features uint32) uint32

//go:wasmimport http_handler get_config
func getConfig(buf unsafe.Pointer, limit uint32) uint32

//go:wasmimport http_handler log_enabled
func logEnabled(level int32) uint32

//go:wasmimport http_handler log
func logMessage(level int32, message unsafe.Pointer, length uint32)

//go:wasmimport http_handler get_method
func getMethod(buf unsafe.Pointer, limit uint32) uint32

//go:wasmimport http_handler set_method
func setMethod(text unsafe.Pointer, length uint32)

//go:wasmimport http_handler get_uri
func getURI(buf unsafe.Pointer, limit uint32) uint32

//go:wasmimport http_handler set_uri
func setURI(text unsafe.Pointer, length uint32)

//go:wasmimport http_handler get_protocol_version
func getProtocolVersion(buf unsafe.Pointer, limit uint32) uint32

//go:wasmimport http_handler get_source_addr
func getSourceAddr(buf unsafe.Pointer, limit uint32) uint32

//go:wasmimport http_handler get_header_names
func getHeaderNames(kind uint32, buf unsafe.Pointer, limit uint32) uint64

//go:wasmimport http_handler get_header_values
func getHeaderValues(kind uint32, name unsafe.Pointer, length uint32, buf unsafe.Pointer, limit uint32) uint64

//go:wasmimport http_handler set_header_value
func setHeaderValue(kind uint32, name unsafe.Pointer, nameLength uint32, value unsafe.Pointer, valueLength uint32)

//go:wasmimport http_handler add_header_value
func addHeaderValue(kind uint32, name unsafe.Pointer, nameLength uint32, value unsafe.Pointer, valueLength uint32)

//go:wasmimport http_handler remove_header
func removeHeader(kind uint32, name unsafe.Pointer, length uint32)

//go:wasmimport http_handler read_body
func readBody(kind uint32, buf unsafe.Pointer, limit uint32) uint64

//go:wasmimport http_handler write_body
func writeBody(kind uint32, body unsafe.Pointer, length uint32)

//go:wasmimport http_handler get_status_code
func getStatusCode() uint32

//go:wasmimport http_handler set_status_code
func setStatusCode(status uint32)

const (
	request  = 0
	response = 1
)

// text is a piece of memory to hand over.
type text struct {
	at     unsafe.Pointer
	length uint32
}

func of(s string) text {
	b := append([]byte(s), 0) // so that there is a first byte
	return text{unsafe.Pointer(&b[0]), uint32(len(s))}
}

// fill returns what a function of the host writes, which says how long it is.
func fill(get func(unsafe.Pointer, uint32) uint32) string {
	b := make([]byte, 16)
	for {
		n := get(unsafe.Pointer(&b[0]), uint32(len(b)))
		if int(n) <= len(b) {
			return string(b[:n])
		}
		b = make([]byte, n)
	}
}

// list returns what a function of the host writes, ended by NUL each.
func list(get func(unsafe.Pointer, uint32) uint64) []string {
	b := make([]byte, 4096)
	r := get(unsafe.Pointer(&b[0]), uint32(len(b)))
	if r>>32 == 0 {
		return nil
	}
	return strings.Split(strings.TrimSuffix(string(b[:uint32(r)]), "\x00"), "\x00")
}

func set(kind uint32, name, value string) {
	n, v := of(name), of(value)
	setHeaderValue(kind, n.at, n.length, v.at, v.length)
}

func body(kind uint32) []byte {
	var all []byte
	b := make([]byte, 1000)
	for {
		r := readBody(kind, unsafe.Pointer(&b[0]), uint32(len(b)))
		all = append(all, b[:uint32(r)]...)
		if r>>32 == 1 {
			return all
		}
	}
}

func write(kind uint32, s string) {
	t := of(s)
	writeBody(kind, t.at, t.length)
}

func config() string { return fill(getConfig) }

func init() {
	if strings.Contains(config(), "buffer_request") {
		enableFeatures(1)
	}
	if strings.Contains(config(), "buffer_response") {
		enableFeatures(2)
	}
}

var (
	calls int
	eaten [][]byte
)

const next = 1

//go:wasmexport handle_request
func handleRequest() uint64 {
	calls++
	uri := fill(getURI)
	path, _, _ := strings.Cut(uri, "?")
	switch path {
	case "/headers":
		set(request, "X-Guest", config())
		n, v := of("X-Many"), of("two")
		addHeaderValue(request, n.at, n.length, v.at, v.length)
		set(request, "X-Values", strings.Join(list(func(b unsafe.Pointer, l uint32) uint64 {
			return getHeaderValues(request, n.at, n.length, b, l)
		}), "+"))
		set(request, "X-Names", strings.Join(list(func(b unsafe.Pointer, l uint32) uint64 { return getHeaderNames(request, b, l) }), "+"))
		gone := of("X-Secret")
		removeHeader(request, gone.at, gone.length)
		set(request, "X-Seen", fill(getMethod)+" "+uri+" "+fill(getProtocolVersion)+" "+fill(getSourceAddr))
		set(response, "X-Answered", "by the guest")
	case "/rewrite":
		t := of("/rewritten?by=guest")
		setURI(t.at, t.length)
		t = of("PUT")
		setMethod(t.at, t.length)
	case "/deny":
		setStatusCode(403)
		set(response, "Content-Type", "text/plain")
		write(response, "denied ")
		write(response, "by the guest")
		return 0
	case "/log":
		for level, s := range []string{"at info", "at warn", "at error"} {
			t := of(s)
			if logEnabled(int32(level)) == 1 {
				logMessage(int32(level), t.at, t.length)
			}
		}
		os.Stdout.WriteString("printed\n")
	case "/read":
		set(request, "X-Body", string(bytes.ToUpper(body(request))))
	case "/replace":
		write(request, "another ")
		write(request, "body")
	case "/loop":
		for {
			calls++
		}
	case "/trap":
		panic("as it was told to")
	case "/exit":
		os.Exit(3)
	case "/eat":
		for {
			eaten = append(eaten, make([]byte, 1<<20))
		}
	case "/bad":
		setHeaderValue(request, unsafe.Pointer(uintptr(0xfffffff0)), 100, nil, 0)
	case "/crlf":
		set(request, "X-Evil", "a\r\nX-Other: b")
	case "/clock":
		set(request, "X-Year", strconv.Itoa(time.Now().Year()))
	}
	runtime.KeepAlive(calls)
	return 7<<32 | next
}

//go:wasmexport handle_response
func handleResponse(ctx uint32, failed uint32) {
	if !strings.Contains(config(), "buffer_response") {
		return
	}
	uri := fill(getURI)
	if strings.HasPrefix(uri, "/trap-after") {
		panic("as it was told to, afterwards")
	}
	if failed != 0 || ctx != 7 {
		return
	}
	old := getStatusCode()
	text := strings.ToUpper(string(body(response)))
	setStatusCode(old + 1)
	set(response, "X-After", "yes")
	gone := of("X-Gone")
	removeHeader(response, gone.at, gone.length)
	write(response, text)
}

func main() {}
