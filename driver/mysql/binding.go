package mysql

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/proa-io/proa/block/binding"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
)

// BindingConfig configures an output binding to MySQL or MariaDB.
type BindingConfig struct {
	// URL names the server and the database:
	// "user:password@tcp(localhost:3306)/orders?tls=custom". The parameters
	// after the ? are those of github.com/go-sql-driver/mysql.
	URL component.Secret `setting:"url,required"`
	// PEMPath is the path of the certificates (PEM) that the server is verified
	// with. The URL then ends with "tls=custom".
	PEMPath string `setting:"pemPath"`
	// MaxIdleConns bounds the connections that are kept for the next call.
	MaxIdleConns int `setting:"maxIdleConns"`
	// MaxOpenConns bounds the connections. Further calls wait for one.
	MaxOpenConns int `setting:"maxOpenConns"`
	// ConnMaxLifetime is how long a connection is used at most; 0 for no end.
	ConnMaxLifetime component.Duration `setting:"connMaxLifetime"`
	// ConnMaxIdleTime is how long a connection that nobody uses is kept at
	// most; 0 for no end.
	ConnMaxIdleTime component.Duration `setting:"connMaxIdleTime"`
}

func bindingDefaults() BindingConfig {
	return BindingConfig{MaxIdleConns: 2, MaxOpenConns: maxConns}
}

// Validate reports settings that can never work.
func (c BindingConfig) Validate() error {
	for _, s := range []struct {
		name string
		low  bool
	}{
		{"maxIdleConns", c.MaxIdleConns < 0}, {"maxOpenConns", c.MaxOpenConns < 0},
		{"connMaxLifetime", c.ConnMaxLifetime < 0}, {"connMaxIdleTime", c.ConnMaxIdleTime < 0},
	} {
		if s.low {
			return component.Invalid(s.name, "must not be negative")
		}
	}
	if !c.URL.IsSet() {
		return component.Invalid("url", `is required: "user:password@tcp(host:3306)/database"`)
	}
	_, err := c.parse()
	return err
}

func (c BindingConfig) parse() (*mysql.Config, error) {
	cfg, err := PEM{PEMPath: c.PEMPath}.parse("url", c.URL.Reveal())
	if err == nil {
		cfg.ParseTime = true
	}
	return cfg, err
}

// The operations of a Binding.
const (
	operationExec  = "exec"
	operationQuery = "query"
	operationClose = "close"
)

// Metadata of requests.
const (
	metadataSQL    = "sql"
	metadataParams = "params"
)

// Binding is a binding.Output that carries out statements of SQL.
//
// The statement is in the metadata "sql" of a request, what takes the place of
// its question marks in "params", an array of JSON. The operation "exec" answers
// with the number of rows in the metadata "rows-affected", "query" with an array
// of JSON that has one object for each row, with its columns by name but for
// those that are NULL, and "close" ends the connections for good. Binary columns
// are in Base64, decimal numbers are texts.
type Binding struct{ db *sql.DB }

// OpenBinding connects to the server.
func OpenBinding(ctx context.Context, cfg BindingConfig, _ component.Env) (*Binding, error) {
	parsed, err := cfg.parse()
	if err != nil {
		return nil, err
	}
	db, err := connect(ctx, parsed)
	if err != nil {
		return nil, err
	}
	db.SetMaxIdleConns(cfg.MaxIdleConns)
	db.SetMaxOpenConns(cfg.MaxOpenConns)
	db.SetConnMaxLifetime(cfg.ConnMaxLifetime.Std())
	db.SetConnMaxIdleTime(cfg.ConnMaxIdleTime.Std())
	return &Binding{db: db}, nil
}

// Operations implements binding.Output.
func (b *Binding) Operations() []string {
	return []string{operationExec, operationQuery, operationClose}
}

// Close implements io.Closer.
func (b *Binding) Close() error { return b.db.Close() }

// Invoke implements binding.Output.
func (b *Binding) Invoke(ctx context.Context, r binding.Request) (binding.Response, error) {
	if err := ctx.Err(); err != nil {
		return binding.Response{}, err
	}
	if r.Operation == operationClose {
		return binding.Response{}, classify(ctx, b.db.Close())
	}
	statement := r.Metadata[metadataSQL]
	if statement == "" {
		return binding.Response{}, fault.New(fault.InvalidArgument, "the metadata %q is missing: it holds the statement", metadataSQL)
	}
	args, err := arguments(r.Metadata[metadataParams])
	if err != nil {
		return binding.Response{}, err
	}
	began := time.Now()
	out := binding.Response{Metadata: map[string]string{
		"operation": r.Operation, metadataSQL: statement, "start-time": began.UTC().Format(time.RFC3339Nano),
	}}
	switch r.Operation {
	case operationExec:
		var affected int64
		if affected, err = b.exec(ctx, statement, args); err == nil {
			out.Metadata["rows-affected"] = strconv.FormatInt(affected, 10)
		}
	case operationQuery:
		out.Data, err = b.query(ctx, statement, args)
	default:
		return binding.Response{}, fault.New(fault.InvalidArgument, "there is no operation %q: there are exec, query and close", r.Operation)
	}
	if err != nil {
		return binding.Response{}, explainStatement(ctx, err)
	}
	end := time.Now()
	out.Metadata["end-time"], out.Metadata["duration"] = end.UTC().Format(time.RFC3339Nano), end.Sub(began).String()
	return out, nil
}

// arguments reads an array of JSON. Whole numbers stay whole.
func arguments(text string) ([]any, error) {
	if text == "" {
		return nil, nil
	}
	wrong := fault.New(fault.InvalidArgument, "the metadata %q wants an array of JSON with texts, numbers, true, false and null", metadataParams)
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	var args []any
	if err := d.Decode(&args); err != nil {
		return nil, wrong
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, wrong
	}
	for i, a := range args {
		switch a := a.(type) {
		case json.Number:
			if whole, err := a.Int64(); err == nil {
				args[i] = whole
			} else if f, err := a.Float64(); err == nil {
				args[i] = f
			} else {
				return nil, wrong
			}
		case []any, map[string]any:
			return nil, wrong
		}
	}
	return args, nil
}

func (b *Binding) exec(ctx context.Context, statement string, args []any) (int64, error) {
	result, err := b.db.ExecContext(ctx, statement, args...)
	if err != nil {
		return 0, err
	}
	return result.RowsAffected()
}

// query returns the rows of a statement as JSON.
func (b *Binding) query(ctx context.Context, statement string, args []any) ([]byte, error) {
	rows, err := b.db.QueryContext(ctx, statement, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close() //nolint:errcheck // Err says what there is to say
	columns, err := rows.ColumnTypes()
	if err != nil {
		return nil, err
	}
	values, into := make([]any, len(columns)), make([]any, len(columns))
	for i := range values {
		into[i] = &values[i]
	}
	out := []map[string]any{}
	for rows.Next() {
		if err := rows.Scan(into...); err != nil {
			return nil, err
		}
		row := make(map[string]any, len(columns))
		for i, column := range columns {
			if values[i] != nil {
				row[column.Name()] = jsonValue(column, values[i])
			}
		}
		out = append(out, row)
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	data, err := json.Marshal(out)
	if err != nil {
		return nil, fault.Wrap(err, fault.Internal, "a value of the answer cannot be written as JSON")
	}
	return data, nil
}

// jsonValue returns a value of a column as it is to be in JSON. What the server
// sent as bytes may stand for something else.
func jsonValue(column *sql.ColumnType, value any) any {
	text, ok := value.([]byte)
	if !ok {
		return value
	}
	switch name := column.DatabaseTypeName(); {
	case name == "JSON" && json.Valid(text):
		return json.RawMessage(bytes.Clone(text))
	case strings.HasSuffix(name, "INT"): // one that no int64 holds
		return json.Number(text)
	case strings.HasSuffix(name, "BLOB"), strings.HasSuffix(name, "BINARY"), name == "BIT", name == "GEOMETRY":
		return bytes.Clone(text)
	}
	return string(text)
}

// explainStatement names an error of a statement, with what the server says of
// it: the statement is the caller's own.
func explainStatement(ctx context.Context, err error) error {
	named := classify(ctx, err)
	me, ok := errors.AsType[*mysql.MySQLError](err)
	if !ok {
		return named
	}
	code := fault.CodeOf(named)
	switch string(me.SQLState[:2]) {
	case "21", "22", "23", "42":
		if code != fault.PermissionDenied {
			code = fault.InvalidArgument
		}
	}
	return fault.Wrap(me, code, "the database answers: %s (error %d)", me.Message, me.Number)
}
