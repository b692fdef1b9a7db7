package postgres

import (
	"context"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/proa-io/proa/component"
)

// Config says how to reach the database. It is the same for all blocks.
type Config struct {
	// ConnectionString names the database, as keywords,
	// "host=db.example user=me password=secret port=5432 database=things", or
	// as a URL, "postgres://me:secret@db.example:5432/things". What it leaves
	// out comes from the other settings and from the environment (PGHOST,
	// PGUSER, ...). Connecting takes 5 seconds at most unless it has a
	// connect_timeout.
	ConnectionString component.Secret `setting:"connectionString,url"`
	// Host of the server, in place of the one in connectionString.
	Host string `setting:"host"`
	// HostAddr is the IP address of the host, which then is not looked up.
	HostAddr string `setting:"hostaddr"`
	// Port of the server, in place of the one in connectionString.
	Port int `setting:"port"`
	// Database is its name, in place of the one in connectionString.
	Database string `setting:"database"`
	// User is who to log in as, in place of the one in connectionString.
	User string `setting:"user"`
	// Password of the user, in place of the one in connectionString.
	Password component.Secret `setting:"password"`
	// SSLRootCert is the path of the certificates (PEM) that the server is
	// verified with, in place of the one in connectionString.
	SSLRootCert string `setting:"sslRootCert"`

	// Timeout bounds each call of the database.
	Timeout component.Duration `setting:"timeout,timeoutInSeconds"`
	// MaxConns is how many connections there are at most. With 0 or less it is
	// 4 or the number of processors, whichever is more.
	MaxConns int `setting:"maxConns"`
	// ConnectionMaxIdleTime is after how long without use a connection is
	// closed; 30 minutes when 0.
	ConnectionMaxIdleTime component.Duration `setting:"connectionMaxIdleTime,connMaxIdleTime"`
	// QueryExecMode is how statements are sent: "cache_statement" prepares
	// each once per connection, "cache_describe" only learns their types once,
	// "describe_exec" does so each time, "exec" and "simple_protocol" need no
	// second trip and nothing of the session. A proxy such as PgBouncer may
	// want one of the last two.
	QueryExecMode string `setting:"queryExecMode"`

	// UseAzureAD is not supported: it must be false.
	UseAzureAD bool `setting:"useAzureAD"`
	// UseAWSIAM is not supported: it must be false.
	UseAWSIAM bool `setting:"useAWSIAM"`
}

const (
	defaultTimeout        = component.Duration(20 * time.Second)
	defaultConnectTimeout = 5 * time.Second
)

func defaults() Config { return Config{Timeout: defaultTimeout} }

// Validate reports settings that can never work.
func (c Config) Validate() error {
	switch {
	case c.UseAzureAD:
		return component.Invalid("useAzureAD", "is not supported by this version of proa: log in with a password or a client certificate")
	case c.UseAWSIAM:
		return component.Invalid("useAWSIAM", "is not supported by this version of proa: log in with a password or a client certificate")
	case !c.ConnectionString.IsSet() && c.Host == "" && c.HostAddr == "":
		return component.Invalid("connectionString", `is required: "host=... user=... password=... database=..." or "postgres://user:password@host/database"`)
	case c.Timeout.Std() < time.Second:
		return component.Invalid("timeout", "must be 1s at least")
	case c.Port < 0 || c.Port > 65535:
		return component.Invalid("port", "wants a number from 1 to 65535")
	}
	_, err := c.pool()
	return err
}

// pool returns how to connect.
func (c Config) pool() (*pgxpool.Config, error) {
	cfg, err := pgxpool.ParseConfig(c.connection())
	if err != nil {
		return nil, component.Invalid("connectionString", "cannot be used: %s", parseProblem(err))
	}
	if c.MaxConns > 0 {
		cfg.MaxConns = int32(min(c.MaxConns, 10_000))
	}
	if c.ConnectionMaxIdleTime > 0 {
		cfg.MaxConnIdleTime = c.ConnectionMaxIdleTime.Std()
	}
	conn := cfg.ConnConfig
	if conn.ConnectTimeout == 0 {
		conn.ConnectTimeout = defaultConnectTimeout
	}
	if conn.RuntimeParams["application_name"] == "" {
		conn.RuntimeParams["application_name"] = "proa"
	}
	if c.HostAddr != "" {
		conn.LookupFunc = func(context.Context, string) ([]string, error) { return []string{c.HostAddr}, nil }
	}
	if conn.DefaultQueryExecMode, err = c.execMode(conn.DefaultQueryExecMode); err != nil {
		return nil, err
	}
	return cfg, nil
}

func (c Config) execMode(unset pgx.QueryExecMode) (pgx.QueryExecMode, error) {
	switch c.QueryExecMode {
	case "":
		return unset, nil
	case "cache_statement":
		return pgx.QueryExecModeCacheStatement, nil
	case "cache_describe":
		return pgx.QueryExecModeCacheDescribe, nil
	case "describe_exec":
		return pgx.QueryExecModeDescribeExec, nil
	case "exec":
		return pgx.QueryExecModeExec, nil
	case "simple_protocol":
		return pgx.QueryExecModeSimpleProtocol, nil
	}
	return 0, component.Invalid("queryExecMode", "wants cache_statement, cache_describe, describe_exec, exec or simple_protocol")
}

// connection returns the connection string with what the other settings say
// after what it says: the last word counts.
func (c Config) connection() string {
	host, port := c.Host, ""
	if host == "" && !c.ConnectionString.IsSet() {
		host = c.HostAddr
	}
	if c.Port > 0 {
		port = strconv.Itoa(c.Port)
	}
	text := c.ConnectionString.Reveal()
	settings := [][2]string{
		{"host", host}, {"port", port}, {"dbname", c.Database}, {"user", c.User}, {"password", c.Password.Reveal()}, {"sslrootcert", c.SSLRootCert},
	}
	if !strings.HasPrefix(text, "postgres://") && !strings.HasPrefix(text, "postgresql://") {
		quote := strings.NewReplacer(`\`, `\\`, `'`, `\'`)
		for _, s := range settings {
			if s[1] != "" {
				text += " " + s[0] + "='" + quote.Replace(s[1]) + "'"
			}
		}
		return text
	}
	for _, s := range settings {
		if s[1] == "" {
			continue
		}
		mark := "&"
		if !strings.Contains(text, "?") {
			mark = "?"
		}
		text += mark + s[0] + "=" + strings.ReplaceAll(url.QueryEscape(s[1]), "+", "%20")
	}
	return text
}

// parseProblem returns what is wrong with a connection string, without showing
// any of it: the client library's own text cannot be trusted with a password
// that is written wrongly.
func parseProblem(err error) string {
	text := err.Error()
	for _, about := range []string{
		"sslmode", "sslrootcert", "sslcert", "sslkey", "connect_timeout", "port", "target_session_attrs", "service", "pool_max_conns",
		"pool_min_conns", "keyword/value", "URL",
	} {
		if i := strings.LastIndex(text, "`: "); i >= 0 && strings.Contains(text[i:], about) {
			return "its " + about + " is not understood"
		}
	}
	return `it is not of the form "host=... user=... password=... database=..." or "postgres://user:password@host/database"`
}

// identifier is a name as it may stand in a statement.
const identifier = `(?:[A-Za-z_][A-Za-z0-9_$]*|"(?:[^"\x00]|"")+")`

// checkTable refuses what is no name of a table. Names go into statements as
// they are, so that they mean what they mean to Dapr: the database folds those
// without quotes to lower case.
func checkTable(setting, name string) error {
	if !matches(`(?:`+identifier+`\.)?`+identifier, name) {
		return component.Invalid(setting, `wants the name of a table such as "state" or "public.state": letters, digits and underscores, or anything in double quotes`)
	}
	return nil
}

func matches(pattern, text string) bool {
	ok, err := regexp.MatchString("^(?:"+pattern+")$", text)
	return ok && err == nil
}
