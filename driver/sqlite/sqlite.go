// Package sqlite keeps the promises of the building blocks in a SQLite
// database: a file that processes of one machine share, or the memory of one.
package sqlite

import (
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/component"
)

// Specs lists what this package offers to the building blocks.
func Specs() []component.Spec {
	return []component.Spec{
		state.Spec(component.Description{
			Name: "sqlite", Aliases: []string{"sqlite3"},
			Summary: "Keeps items in a SQLite database, in the format that Dapr's component of the same name reads and writes. The first watch adds triggers and a table of changes.",
		}, stateDefaults(), OpenState),
	}
}

// Config says which database, and how to use it.
type Config struct {
	// ConnectionString is the path of the database's file, "data.db", or a URI,
	// "file:data.db?mode=rw", with parameters of SQLite (mode, cache,
	// immutable) and "_pragma", as in "?_pragma=synchronous(NORMAL)". The file
	// is created if it is not there. ":memory:" is a database of this component
	// alone, which is gone when it closes.
	ConnectionString component.Secret `setting:"connectionString,url,required"`
	// Timeout bounds each call.
	Timeout component.Duration `setting:"timeout,timeoutInSeconds"`
	// BusyTimeout is how long a write waits for other processes that write.
	BusyTimeout component.Duration `setting:"busyTimeout"`
	// DisableWAL writes to the file in place of a log beside it. A file on a
	// network file system needs that; readers and writers then wait for each
	// other.
	DisableWAL bool `setting:"disableWAL"`
}

func defaults() Config {
	return Config{Timeout: component.Duration(20 * time.Second), BusyTimeout: component.Duration(2 * time.Second)}
}

// Validate reports settings that can never work.
func (c Config) Validate() error {
	if c.Timeout.Std() < time.Second {
		return component.Invalid("timeout", "must be 1s at least")
	}
	_, err := c.source()
	return err
}

// source is a database as the client library names it.
type source struct {
	name   string
	memory bool // it lives as long as its connection
}

// source returns the database with all parameters.
func (c Config) source() (source, error) {
	text := c.ConnectionString.Reveal()
	path, query, _ := strings.Cut(text, "?")
	if path == "" {
		return source{}, component.Invalid("connectionString", `wants the path of a file, a URI such as "file:data.db", or ":memory:"`)
	}
	q, err := url.ParseQuery(query)
	if err != nil {
		return source{}, component.Invalid("connectionString", "has parameters after its ? that are not of the form name=value&name=value")
	}
	for _, p := range q["_pragma"] {
		for name, setting := range map[string]string{"busy_timeout": "busyTimeout", "journal_mode": "disableWAL"} {
			if strings.HasPrefix(strings.ToLower(strings.TrimSpace(p)), name) {
				return source{}, component.Invalid("connectionString", "must not set the pragma %s: the setting %s is for that", name, setting)
			}
		}
	}
	if slices.Contains(q["mode"], "ro") || slices.Contains(q["immutable"], "1") {
		return source{}, component.Invalid("connectionString", "asks for a database that cannot be written to")
	}
	s := source{memory: isMemory(path) || slices.Contains(q["mode"], "memory")}
	journal := "WAL"
	switch {
	case s.memory:
		journal = "MEMORY"
	case c.DisableWAL:
		journal = "DELETE"
	}
	if busy := c.BusyTimeout.Std().Milliseconds(); busy > 0 {
		q.Add("_pragma", "busy_timeout("+strconv.FormatInt(busy, 10)+")")
	}
	q.Add("_pragma", "journal_mode("+journal+")")
	if q.Get("_txlock") == "" {
		q.Set("_txlock", "immediate")
	}
	s.name = path + "?" + q.Encode()
	return s, nil
}

func isMemory(path string) bool {
	path = strings.ToLower(path)
	return path == ":memory:" || strings.HasPrefix(path, "file::memory:")
}

// checkTable refuses what is no name of a table.
func checkTable(setting, name string) error {
	if ok, err := regexp.MatchString(`^[A-Za-z0-9_]+$`, name); err != nil || !ok {
		return component.Invalid(setting, "wants the name of a table, of letters, digits and underscores")
	}
	return nil
}

// quoted returns a name as it stands in a statement.
func quoted(name string) string { return fmt.Sprintf("%q", name) }
