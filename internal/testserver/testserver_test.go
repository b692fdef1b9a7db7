package testserver

import (
	"bufio"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// server is what all kinds of server have.
type server interface {
	Addr() string
	Port() int
	Dir() string
	Pid() int
	Running() bool
	Kill()
	Stop()
	Restart()
	Output() string
	Version() string
}

var kinds = map[string]func(TB) server{
	"etcd":      func(tb TB) server { return Etcd(tb) },
	"postgres":  func(tb TB) server { return Postgres(tb, PostgresOptions{}) },
	"mariadb":   func(tb TB) server { return MariaDB(tb, MariaDBOptions{}) },
	"redis":     func(tb TB) server { return Redis(tb, RedisOptions{}) },
	"memcached": func(tb TB) server { return Memcached(tb) },
	"nats":      func(tb TB) server { return NATS(tb, NATSOptions{}) },
	"kafka":     func(tb TB) server { return Kafka(tb, KafkaOptions{}) },
	"installed nats without JetStream": func(tb TB) server {
		return NATS(tb, NATSOptions{Installed: true, NoJetStream: true})
	},
}

func TestServersAnswerUntilDownAndAgainAfterRestart(t *testing.T) {
	for name, start := range kinds {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := start(t)
			addr, first := srv.Addr(), srv.Pid()
			mustAnswer(t, addr)
			if v := srv.Version(); !strings.Contains(v, ".") || strings.Trim(v, "0123456789.") != "" {
				t.Errorf("version is %q", v)
			}

			srv.Kill()
			mustRefuse(t, srv)
			srv.Restart()
			mustAnswer(t, addr)

			srv.Stop()
			mustRefuse(t, srv)
			srv.Stop() // of what is down
			srv.Kill()
			srv.Restart()
			mustAnswer(t, addr)

			srv.Restart() // of what is up
			mustAnswer(t, addr)
			if srv.Addr() != addr || srv.Pid() == first {
				t.Errorf("addr %s pid %d became addr %s pid %d", addr, first, srv.Addr(), srv.Pid())
			}
		})
	}
}

func mustAnswer(t *testing.T, addr string) {
	t.Helper()
	conn, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
}

func mustRefuse(t *testing.T, srv server) {
	t.Helper()
	if srv.Running() {
		t.Error("the server says that it runs")
	}
	if conn, err := net.DialTimeout("tcp", srv.Addr(), 5*time.Second); err == nil {
		_ = conn.Close()
		t.Fatal("a server that is down accepts connections")
	}
}

func TestCleanupStopsTheServerAndRemovesItsDirectory(t *testing.T) {
	for name, start := range kinds {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var srv server
			t.Run("inner", func(t *testing.T) { srv = start(t) })
			mustRefuse(t, srv)
			if _, err := os.Stat(srv.Dir()); !os.IsNotExist(err) {
				t.Errorf("directory %s: %v", srv.Dir(), err)
			}
		})
	}
}

func TestAppendOnlyRedisKeepsAnsweredWritesOverKill(t *testing.T) {
	srv := Redis(t, RedisOptions{AppendOnly: true, Password: "p w\"'", UnixSocket: true,
		Config: []string{"notify-keyspace-events KEA", "maxmemory 64mb"}})
	if want := fmt.Sprintf("redis://:p%%20w%%22%%27@%s/0", srv.Addr()); srv.URL() != want {
		t.Errorf("URL is %s, want %s", srv.URL(), want)
	}
	redisDo(t, srv, "tcp", srv.Addr(), "SET", "k", "v")
	srv.Kill()
	srv.Restart()
	if got := redisDo(t, srv, "unix", srv.Socket(), "GET", "k"); got != "v" {
		t.Errorf("after the kill, k is %q", got)
	}
	info := redisDo(t, srv, "tcp", srv.Addr(), "INFO", "memory")
	if !strings.Contains(info, "maxmemory:67108864") {
		t.Errorf("extra configuration did not arrive: %s", info)
	}
}

func redisDo(t *testing.T, srv *RedisServer, network, addr string, args ...string) string {
	t.Helper()
	conn, err := net.Dial(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	r := bufio.NewReader(conn)
	if _, err := redisCommand(conn, r, "PING"); err == nil {
		t.Error("the server asks for no password")
	}
	if _, err := redisCommand(conn, r, "AUTH", srv.Password()); err != nil {
		t.Fatal(err)
	}
	out, err := redisCommand(conn, r, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestMemcachedTakesFurtherArguments(t *testing.T) {
	srv := Memcached(t, "-I", "2m")
	conn, err := net.Dial("tcp", srv.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "stats settings\r\nquit\r\n"); err != nil {
		t.Fatal(err)
	}
	if out, _ := io.ReadAll(conn); !strings.Contains(string(out), "item_size_max 2097152") {
		t.Errorf("settings: %s", out)
	}
}

func TestJetStreamKeepsAcknowledgedMessagesOverKill(t *testing.T) {
	for _, installed := range []bool{false, true} {
		srv := NATS(t, NATSOptions{Installed: installed, User: "u", Password: "p"})
		conn, err := nats.Connect(srv.URL(), nats.MaxReconnects(-1), nats.ReconnectWait(10*time.Millisecond))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		js, err := jetstream.New(conn)
		if err != nil {
			t.Fatal(err)
		}
		stream, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := js.Publish(t.Context(), "s", []byte("kept")); err != nil {
			t.Fatal(err)
		}
		srv.Kill()
		srv.Restart()
		msg, err := stream.GetMsg(t.Context(), 1)
		if err != nil || string(msg.Data) != "kept" {
			t.Errorf("installed %t: after the kill, got %+v, %v", installed, msg, err)
		}
	}
}

func TestNATSWithUserRefusesStrangers(t *testing.T) {
	srv := NATS(t, NATSOptions{User: "u", Password: "p/?", NoJetStream: true, Config: []string{"max_payload: 12345"}})
	if want := "nats://u:p%2F%3F@" + srv.Addr(); srv.URL() != want {
		t.Errorf("URL is %s, want %s", srv.URL(), want)
	}
	conn, err := net.Dial("tcp", srv.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "CONNECT {}\r\nPING\r\n"); err != nil {
		t.Fatal(err)
	}
	out, _ := io.ReadAll(conn)
	for _, want := range []string{`"auth_required":true`, `"max_payload":12345`, "Authorization Violation"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("no %s in %s", want, out)
		}
	}
}

func TestNATSVersionIsTheOneInGoMod(t *testing.T) {
	srv := NATS(t, NATSOptions{})
	root, err := moduleRoot()
	if err != nil {
		t.Fatal(err)
	}
	mod, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	if want := natsModule + " v" + srv.Version(); !strings.Contains(string(mod), want) {
		t.Errorf("go.mod has no %s", want)
	}
}

func TestAPortTakenByAnotherServerIsGivenUp(t *testing.T) {
	squatter := Redis(t, RedisOptions{}) // answers the probe as well as the right one would
	ports := []int{squatter.Port()}
	for range 2 {
		l, err := net.Listen("tcp", "127.0.0.1:0") // answers nothing
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	free := 0
	s := &RedisServer{}
	program, err := lookPath("redis-server")
	if err != nil {
		t.Fatal(err)
	}
	p := start(t, spec{program: program, args: s.configure, probe: s.probe, pickPort: func() (int, error) {
		if len(ports) > 0 {
			port := ports[0]
			ports = ports[1:]
			return port, nil
		}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return 0, err
		}
		free = l.Addr().(*net.TCPAddr).Port
		return free, l.Close()
	}})
	if p.Port() != free || len(ports) != 0 {
		t.Errorf("got port %d, want %d; ports left: %v", p.Port(), free, ports)
	}
}

func TestAServerThatCannotStartFailsWithWhatItPrinted(t *testing.T) {
	var s scope
	defer s.cleanup()
	s.run(func() { Redis(&s, RedisOptions{Config: []string{"no-such-directive yes"}}) })
	for _, want := range []string{"redis-server on 127.0.0.1:", "ended before it answered", "no-such-directive"} {
		if !strings.Contains(s.failed, want) {
			t.Errorf("no %q in %q", want, s.failed)
		}
	}
}

func TestAMissingProgramSkipsLocallyAndFailsInCI(t *testing.T) {
	for ci, fails := range map[string]bool{"": false, "false": false, "0": false, "true": true, "1": true} {
		t.Setenv("CI", ci)
		var s scope
		s.run(func() { missing(&s, "redis-server", "not found") })
		text, other := s.skipped, s.failed
		if fails {
			text, other = other, text
		}
		if !strings.Contains(text, "redis-server: not found") || !strings.Contains(text, "make test-deps") || other != "" {
			t.Errorf("CI=%q: skipped with %q, failed with %q", ci, s.skipped, s.failed)
		}
	}
}

func TestASharedServerStartsOnceAndStopsWithThePackage(t *testing.T) {
	starts := 0
	shared := Share(func(tb TB) *MemcachedServer {
		starts++
		return Memcached(tb)
	})
	shared.Stop() // nobody asked yet
	var got [2]*MemcachedServer
	for i := range got {
		t.Run("asks", func(t *testing.T) { got[i] = shared.Get(t) })
	}
	if starts != 1 || got[0] != got[1] {
		t.Errorf("started %d times: %p %p", starts, got[0], got[1])
	}
	mustAnswer(t, got[0].Addr())
	shared.Stop()
	mustRefuse(t, got[0])
}

func TestASharedServerThatCannotStartEndsEveryTestThatAsks(t *testing.T) {
	starts := 0
	skips := Share(func(tb TB) int { starts++; tb.Skipf("no program"); return 1 })
	fails := Share(func(tb TB) int { starts++; tb.Fatalf("bad options"); return 1 })
	for range 2 {
		var a, b scope
		a.run(func() { skips.Get(&a) })
		b.run(func() { fails.Get(&b) })
		if a.skipped != "no program" || a.failed != "" || b.failed != "bad options" || b.skipped != "" {
			t.Errorf("got %+v and %+v", a, b)
		}
	}
	if starts != 2 {
		t.Errorf("tried %d times, want once each", starts)
	}
}

func TestNoServerStartsInTheFastLoop(t *testing.T) {
	short := flag.Lookup("test.short").Value
	before := short.String()
	t.Cleanup(func() { _ = short.Set(before) })
	if err := short.Set("true"); err != nil {
		t.Fatal(err)
	}
	for name, start := range kinds {
		var s scope
		s.run(func() { start(&s) })
		s.cleanup()
		if !strings.Contains(s.skipped, "-short") || s.failed != "" {
			t.Errorf("%s: skipped with %q, failed with %q", name, s.skipped, s.failed)
		}
	}
}
