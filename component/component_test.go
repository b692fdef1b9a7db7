package component

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proa-io/proa/fault"
)

type config struct {
	Host     string            `setting:"host,redisHost"`
	Password Secret            `setting:"password"`
	DB       int               `setting:"db"`
	TLS      bool              `setting:"enableTLS"`
	Wait     Duration          `setting:"wait"`
	Poll     Millis            `setting:"poll"`
	Max      Size              `setting:"max"`
	Topics   []string          `setting:"topics"`
	Labels   map[string]string `setting:"labels"`
	Need     string            `setting:"need,required"`
}

func (c *config) Validate() error {
	if c.DB > 15 {
		return Invalid("db", "wants 0 to 15, not %d", c.DB)
	}
	return nil
}

type blockConfig struct {
	KeyPrefix string `setting:"keyPrefix"`
}

func at(line int) Position { return Position{File: "c.yaml", Line: line} }

func TestDecodeReadsEveryType(t *testing.T) {
	c, b := config{Wait: Duration(time.Hour)}, blockConfig{KeyPrefix: "appid"}
	err := Settings{
		{Name: "REDISHOST", Value: "h:1"}, {Name: "password", Value: "pw"}, {Name: "db", Value: "3"},
		{Name: "enableTLS", Value: "yes"}, {Name: "poll", Value: "20"}, {Name: "max", Value: "4Mi"},
		{Name: "topics", Value: "a, b,"}, {Name: "labels", Value: `{"x":"y"}`}, {Name: "need", Value: "n"},
		{Name: "keyprefix", Value: "name"},
	}.Decode(&c, &b)
	if err != nil {
		t.Fatal(err)
	}
	if c.Host != "h:1" || c.Password.Reveal() != "pw" || c.DB != 3 || !c.TLS || c.Poll.Std() != 20*time.Millisecond ||
		c.Max != 4<<20 || fmt.Sprint(c.Topics) != "[a b]" || c.Labels["x"] != "y" || b.KeyPrefix != "name" {
		t.Errorf("decoded %+v %+v", c, b)
	}
	if c.Wait.Std() != time.Hour {
		t.Errorf("a setting that was not given lost its default: %v", c.Wait)
	}
}

func TestDecodeReportsAllProblemsWithTheirPlace(t *testing.T) {
	err := Settings{
		{Name: "hosst", Value: "h", Pos: at(3)}, {Name: "db", Value: "many", Pos: at(4)},
		{Name: "db", Value: "1", Pos: at(5)}, {Name: "wait", Value: "soon", Pos: at(6)},
		{Name: "max", Value: "-1", Pos: at(7)}, {Name: "labels", Value: "secret-in-error", Pos: at(8), Secret: true},
	}.Decode(&config{})
	for _, want := range []string{
		`c.yaml:3: "hosst": there is no such setting; did you mean "host"?`,
		`c.yaml:4: "db": wants a whole number, not "many"`,
		`c.yaml:5: "db": is set twice; first at c.yaml:4`,
		`c.yaml:6: "wait": wants a duration such as "500ms", "5s" or "1h30m", not "soon"`,
		`c.yaml:7: "max": wants a size such as "64Ki", "4Mi" or a number of bytes, not "-1"`,
		`c.yaml:8: "labels": wants a JSON object of strings`,
		`c.yaml: "need": is required`,
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("without %s:\n%v", want, err)
		}
	}
	if strings.Contains(err.Error(), "secret-in-error") {
		t.Error("a secret is quoted in the error")
	}
}

func TestValidateErrorsGetTheirPlace(t *testing.T) {
	err := Settings{{Name: "need", Value: "x"}, {Name: "DB", Value: "99", Pos: at(9)}}.Decode(&config{})
	if err == nil || err.Error() != `c.yaml:9: "db": wants 0 to 15, not 99` {
		t.Errorf("error is %v", err)
	}
}

func TestSettingsThatAreNotKnownYetAreOnlyChecked(t *testing.T) {
	c := config{}
	err := Settings{{Name: "need", Unresolved: true}, {Name: "db", Value: "99"}}.Decode(&c)
	if err != nil || c.Need != "" {
		t.Errorf("Decode = %v, %+v", err, c)
	}
	if err := (Settings{{Name: "nede", Unresolved: true}, {Name: "need", Value: "x"}}).Decode(&c); err == nil {
		t.Error("a setting that does not exist was accepted")
	}
}

func TestSecretsDoNotShowThemselves(t *testing.T) {
	s := NewSecret("hunter2")
	b, err := json.Marshal(map[string]any{"s": s})
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "s", s)
	if all := fmt.Sprintf("%v %+v %#v %s %s %s", s, s, s, s, b, log.String()); strings.Contains(all, "hunter2") {
		t.Errorf("the secret shows in %s", all)
	}
}

func TestNearestFindsSlipsOnly(t *testing.T) {
	for name, want := range map[string]string{"redisHots": "redisHost", "rediswost": "redisHost", "elephant": "", "reids": ""} {
		if got := Nearest(name, []string{"redisHost", "password"}); got != want {
			t.Errorf("Nearest(%q) = %q, want %q", name, got, want)
		}
	}
}

type driver struct{ closed *bool }

func (d driver) Close() error { *d.closed = true; return nil }

func TestCatalogFindsByTypeAliasAndVersion(t *testing.T) {
	open := func(context.Context, config, Env) (driver, error) { return driver{}, nil }
	c, err := NewCatalog(
		NewSpec("state", Description{Name: "redis", Aliases: []string{"kv"}}, config{}, nil, nil, open),
		NewSpec("state", Description{Name: "redis", Version: "v2"}, config{}, nil, nil, open))
	if err != nil {
		t.Fatal(err)
	}
	for _, q := range [][3]string{{"state.redis", "", "v1"}, {"State.KV", "v1", "v1"}, {"state.redis", "v2", "v2"}} {
		if s, err := c.Lookup(q[0], q[1]); err != nil || s.VersionOrDefault() != q[2] {
			t.Errorf("Lookup(%q, %q) = %s, %v", q[0], q[1], s.VersionOrDefault(), err)
		}
	}
	if _, err := c.Lookup("state.rediss", ""); err == nil || !strings.Contains(err.Error(), `did you mean "state.redis"?`) {
		t.Errorf("Lookup of a slip: %v", err)
	}
	if _, err := NewCatalog(c.specs[0], c.specs[0]); err == nil {
		t.Error("a spec listed twice was accepted")
	}
}

func TestAComponentThatSomebodyWaitsForIsTriedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var up atomic.Bool
		h := NewHandle(HandleOptions{}, func(context.Context) (driver, error) {
			if !up.Load() {
				return driver{}, errors.New("refused")
			}
			return driver{new(bool)}, nil
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- h.Run(ctx) }()
		time.Sleep(2 * time.Minute) // delays have grown
		up.Store(true)
		before := time.Now()
		if _, err := h.Get(t.Context()); err != nil || time.Since(before) > wantedDelay {
			t.Errorf("Get = %v after %v, want no more than %v", err, time.Since(before), wantedDelay)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestHandleOpensInTheBackgroundAndSaysWhyNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		closed := false
		var fail atomic.Bool
		fail.Store(true)
		h := NewHandle(HandleOptions{Name: "statestore", Type: "state.redis"}, func(context.Context) (driver, error) {
			if fail.Load() {
				return driver{}, errors.New("dial tcp 127.0.0.1:6379: connection refused")
			}
			return driver{&closed}, nil
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- h.Run(ctx) }()

		before := time.Now()
		_, err := h.Get(t.Context())
		if !fault.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), `component "statestore" (state.redis) is not ready after`) ||
			!strings.Contains(err.Error(), "connection refused") || fault.ReasonOf(err) != ReasonNotReady {
			t.Errorf("Get of a component that cannot open: %v", err)
		}
		if waited := time.Since(before); waited != 5*time.Second {
			t.Errorf("Get waited %v, want 5s", waited)
		}
		short, stop := context.WithTimeout(t.Context(), time.Second)
		defer stop()
		if _, err := h.Get(short); !fault.Is(err, fault.Unavailable) {
			t.Errorf("Get with a deadline: %v", err)
		}
		fail.Store(false)
		time.Sleep(time.Minute)
		if _, err := h.Get(t.Context()); err != nil || h.Status().State != Ready {
			t.Errorf("Get after recovery: %v, %v", err, h.Status())
		}
		cancel()
		if err := <-done; err != nil || !closed || h.Status().State != Closed {
			t.Errorf("Run = %v, closed = %v", err, closed)
		}
		if _, err := h.Get(t.Context()); !fault.Is(err, fault.Unavailable) {
			t.Errorf("Get after close: %v", err)
		}
	})
}

func TestAPrefixTakesAllItsSettings(t *testing.T) {
	var c struct {
		URL     string            `setting:"url"`
		Headers map[string]Secret `setting:"header:*"`
	}
	settings := Settings{{Name: "url", Value: "u"}, {Name: "Header:X-Key", Value: "hunter2"}, {Name: "header:later", Unresolved: true}}
	if err := settings.Decode(&c); err != nil {
		t.Fatal(err)
	}
	if len(c.Headers) != 1 || c.Headers["X-Key"].Reveal() != "hunter2" || strings.Contains(fmt.Sprint(c.Headers), "hunter2") {
		t.Errorf("headers %v", c.Headers)
	}
	if err := (Settings{{Name: "url", Value: "u"}}).Decode(&c); err != nil || len(c.Headers) != 0 {
		t.Errorf("headers %v, %v, want none left over", c.Headers, err)
	}
	for _, name := range []string{"header:", "headers"} {
		if err := (Settings{{Name: name}}).Decode(&c); err == nil || !strings.Contains(err.Error(), "there is no such setting") {
			t.Errorf("%q: %v", name, err)
		}
	}
}
