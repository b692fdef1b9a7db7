package postgres

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/proa-io/proa/block/binding"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
)

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
// The statement is in the metadata "sql" of a request, its arguments $1, $2 ...
// in "params", an array of JSON. The operation "exec" answers with the number of
// rows in the metadata "rows-affected", "query" with an array of JSON that has
// one for each row, and "close" ends the connections for good.
type Binding struct{ client *client }

// OpenBinding connects to PostgreSQL.
func OpenBinding(ctx context.Context, cfg Config, _ component.Env) (*Binding, error) {
	c, err := connect(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return &Binding{client: c}, nil
}

// Operations implements binding.Output.
func (b *Binding) Operations() []string {
	return []string{operationExec, operationQuery, operationClose}
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
	if r.Operation == operationClose {
		b.client.close()
		return binding.Response{}, nil
	}
	sql := r.Metadata[metadataSQL]
	if sql == "" {
		return binding.Response{}, fault.New(fault.InvalidArgument, "the metadata %q is missing: it holds the statement", metadataSQL)
	}
	args, err := arguments(r.Metadata[metadataParams])
	if err != nil {
		return binding.Response{}, err
	}
	began := time.Now()
	out := binding.Response{Metadata: map[string]string{
		"operation": r.Operation, metadataSQL: sql, "start-time": began.UTC().Format(time.RFC3339Nano),
	}}
	switch r.Operation {
	case operationExec:
		err = b.exec(ctx, sql, args, &out)
	case operationQuery:
		out.Data, err = b.query(ctx, sql, args)
	default:
		return binding.Response{}, fault.New(fault.InvalidArgument, "there is no operation %q: there are exec, query and close", r.Operation)
	}
	if err != nil {
		return binding.Response{}, explainStatement(err)
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
	wrong := fault.New(fault.InvalidArgument, "the metadata %q wants an array of JSON with the arguments of the statement", metadataParams)
	d := json.NewDecoder(bytes.NewReader([]byte(text)))
	d.UseNumber()
	var args []any
	if err := d.Decode(&args); err != nil {
		return nil, wrong
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, wrong
	}
	for i, a := range args {
		n, ok := a.(json.Number)
		if !ok {
			continue
		}
		if whole, err := n.Int64(); err == nil {
			args[i] = whole
		} else if f, err := n.Float64(); err == nil {
			args[i] = f
		} else {
			return nil, wrong
		}
	}
	return args, nil
}

// exec is carried out once: what it does when repeated is not known.
func (b *Binding) exec(ctx context.Context, sql string, args []any, out *binding.Response) error {
	return b.client.once(ctx, func(ctx context.Context) error {
		tag, err := b.client.pool.Exec(ctx, sql, args...)
		out.Metadata["rows-affected"] = strconv.FormatInt(tag.RowsAffected(), 10)
		return err
	})
}

func (b *Binding) query(ctx context.Context, sql string, args []any) (data []byte, err error) {
	rows := [][]any{}
	err = b.client.each(ctx, sql, args, func(row pgx.CollectableRow) error {
		values, err := row.Values()
		rows = append(rows, values)
		return err
	})
	if err != nil {
		return nil, err
	}
	if data, err = json.Marshal(rows); err != nil {
		return nil, fault.Wrap(err, fault.Internal, "a value of the answer cannot be written as JSON")
	}
	return data, nil
}

// explainStatement adds what the server says of a statement: it is the caller's
// own.
func explainStatement(err error) error {
	pe, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		return err
	}
	code := fault.CodeOf(err)
	switch pe.Code[:min(2, len(pe.Code))] {
	case "42", "23":
		code = fault.InvalidArgument
	}
	return fault.Wrap(err, code, "the database answers: %s (SQLSTATE %s)", pe.Message, pe.Code)
}
