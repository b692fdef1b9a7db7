package postgres

import (
	"net"
	"strings"
	"testing"
	"time"

	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/leak"
	"github.com/proa-io/proa/internal/testserver"
)

func TestSettingsSayWhatIsWrongWithThem(t *testing.T) {
	const good = "host=localhost user=me password=open-sesame"
	for _, tc := range []struct {
		name, value string
		want        string // "" when there is nothing wrong
	}{
		{"connectionString", good, ""},
		{"url", "postgres://me:open-sesame@localhost:5432/things?sslmode=disable", ""},
		{"connectionString", "host=a,b user=me target_session_attrs=read-write", ""},
		{"connectionString", "", "connectionString"},
		{"connectionString", "open-sesame", "connectionString"},
		{"connectionString", "host=x password='open-sesame", "connectionString"},
		{"connectionString", "postgres://me:open-sesame%zz@localhost/x", "connectionString"},
		{"connectionString", "postgres://me:open-sesame/x@localhost:port/x", "connectionString"},
		{"connectionString", good + " sslmode=sometimes", "its sslmode is not understood"},
		{"connectionString", good + " port=99999999", "its port is not understood"},
		{"timeout", "0.5s", "must be 1s at least"},
		{"timeoutInSeconds", "30", ""},
		{"cleanupInterval", "-1", ""},
		{"cleanupIntervalInSeconds", "1800", ""},
		{"tableName", "public.state", ""},
		{"tableName", `"My table"`, ""},
		{"tableName", "state; DROP TABLE x", "tableName"},
		{"tableName", `a"b`, "tableName"},
		{"tableName", "", "tableName"},
		{"metadataTableName", "a.b.c", "metadataTableName"},
		{"maxConns", "7", ""},
		{"connectionMaxIdleTime", "5m", ""},
		{"queryExecMode", "exec", ""},
		{"queryExecMode", "magic", "queryExecMode"},
		{"useAzureAD", "false", ""},
		{"useAzureAD", "true", "is not supported"},
		{"useAWSIAM", "true", "is not supported"},
		{"port", "70000", "port"},
		{"host", "db.example", ""},
	} {
		settings := component.Settings{{Name: tc.name, Value: tc.value}}
		if tc.name != "connectionString" && tc.name != "url" {
			settings = append(settings, component.Setting{Name: "connectionString", Value: good})
		}
		cfg := stateV1Defaults()
		err := settings.Decode(&cfg)
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%s %q: %v, want %q", tc.name, tc.value, err, tc.want)
		}
		if err != nil && strings.Contains(err.Error(), "open-sesame") {
			t.Errorf("%s: the error %q shows a password", tc.name, err)
		}
	}
	v2 := stateV2Defaults()
	if err := (component.Settings{{Name: "connectionString", Value: good}, {Name: "tablePrefix", Value: "a-"}}).Decode(&v2); err == nil {
		t.Error("a prefix that makes no name is accepted")
	}
}

func TestSettingsTakePrecedenceOverTheConnectionString(t *testing.T) {
	for _, text := range []string{
		"", "host=h user=u password=p port=1 dbname=d sslmode=disable", "postgres://u:p@h:1/d?sslmode=disable",
	} {
		cfg := configOf(text)
		cfg.Host, cfg.Port, cfg.Database, cfg.User, cfg.Password = "db.example", 5433, "it's", `b\ob`, component.NewSecret("p 'w\\")
		cfg.MaxConns = 3
		pool, err := cfg.pool()
		if err != nil {
			t.Fatal(err)
		}
		c := pool.ConnConfig
		if c.Host != "db.example" || c.Port != 5433 || c.Database != "it's" || c.User != `b\ob` || c.Password != "p 'w\\" || pool.MaxConns != 3 {
			t.Errorf("%q gives host %q, port %d, database %q, user %q, password %q", text, c.Host, c.Port, c.Database, c.User, c.Password)
		}
	}
	cfg := configOf("")
	cfg.HostAddr = "127.0.0.2"
	pool, err := cfg.pool()
	if err != nil {
		t.Fatal(err)
	}
	if addrs, err := pool.ConnConfig.LookupFunc(t.Context(), "anything"); err != nil || len(addrs) != 1 || addrs[0] != "127.0.0.2" {
		t.Errorf("the host's addresses are %q, %v", addrs, err)
	}
}

func TestCredentialsAreChecked(t *testing.T) {
	t.Parallel()
	srv := testserver.Postgres(t, testserver.PostgresOptions{Password: "open sesame"})
	root := func(database string) Config {
		cfg := configOf(srv.URL(database))
		return cfg
	}
	s, err := OpenStateV2(t.Context(), StateV2Config{StateConfig: StateConfig{Config: root("postgres"), MetadataTableName: "m"}}, component.Env{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	put(t, s, "k", "v", state.PutOptions{})
	adminOf(t, srv.URL("postgres")).run(t, `CREATE USER reader PASSWORD 'pw'; GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO reader`)
	for _, tc := range []struct {
		user, password, database, prefix string
		want                             fault.Code
	}{
		{"postgres", "wrong-secret", "postgres", "", fault.Unauthenticated},
		{"nobody", "wrong-secret", "postgres", "", fault.Unauthenticated},
		{"postgres", "open sesame", "nowhere", "", fault.FailedPrecondition},
		{"reader", "pw", "postgres", "other_", fault.PermissionDenied},
	} {
		cfg := root(tc.database)
		cfg.User, cfg.Password = tc.user, component.NewSecret(tc.password)
		_, err := OpenStateV2(t.Context(), StateV2Config{StateConfig: StateConfig{Config: cfg, MetadataTableName: "m"}, TablePrefix: tc.prefix}, component.Env{})
		if !fault.Is(err, tc.want) || strings.Contains(err.Error(), "wrong-secret") {
			t.Errorf("user %q with password %q: %v, want %v", tc.user, tc.password, err, tc.want)
		}
	}
	cfg := root("postgres")
	cfg.User, cfg.Password = "reader", component.NewSecret("pw")
	limited, err := OpenStateV2(t.Context(), StateV2Config{StateConfig: StateConfig{Config: cfg, MetadataTableName: "m"}}, component.Env{})
	if err != nil {
		t.Fatalf("a user without the right to change tables that are as they must be: %v", err)
	}
	defer limited.Close()
	put(t, limited, "k", "w", state.PutOptions{})
}

// A server that never answers must not keep a driver from closing.
func TestCloseDoesNotWaitForASilentServer(t *testing.T) {
	leak.Check(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	cfg := configOf("postgres://u@" + l.Addr().String() + "/d?sslmode=disable")
	cfg.Timeout = component.Duration(time.Second)
	_, err = connect(t.Context(), cfg)
	if !fault.Is(err, fault.DeadlineExceeded) && !fault.Is(err, fault.Unavailable) {
		t.Errorf("connect: %v", err)
	}
}

func TestNothingIsLeftAfterClose(t *testing.T) {
	url := database(t, "")
	leak.Check(t)
	for kind := range kinds {
		s, err := kinds[kind](t.Context(), url, "left_"+kind)
		if err != nil {
			t.Fatal(err)
		}
		put(t, s, "k", "v", state.PutOptions{})
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}
