package state

import (
	"context"
	"slices"

	"github.com/proa-io/proa/fault"
)

// Rows are items in a store that belong to the program itself. Applications can
// neither name nor see them: a key of theirs has no "||" in it. Rows cross no
// policies, have no time to live and errors of theirs do not name the store.
type Rows struct {
	store  *Store
	prefix string
}

// Row is one of Rows.
type Row struct {
	Name  string
	Value []byte
	ETag  string
	Found bool
}

// rows returns the rows of a part of the program, by name, for one component of
// one application.
func (s *Store) rows(part, namespace, appID string) *Rows {
	owner := appID
	if namespace != "" {
		owner = namespace + "." + appID
	}
	return &Rows{s, s.prefix + part + separator + owner + separator + s.name + separator}
}

// rowParallelism is how many rows are read or deleted at a time in a store that
// cannot take many at once.
const rowParallelism = 50

// Read returns one row for each name, in the order of the names, as they are
// after every write that was acknowledged.
func (r *Rows) Read(ctx context.Context, names []string) ([]Row, error) {
	d, ring, err := r.store.driver(ctx)
	if err != nil {
		return nil, err
	}
	keys := make([]string, len(names))
	for i, n := range names {
		keys[i] = r.prefix + n
	}
	opt := GetOptions{Consistency: Strong}
	var results []GetResult
	if bg, ok := d.(BulkGetter); ok && len(keys) > 1 {
		results = bg.BulkGet(ctx, keys, opt)
	} else {
		results = make([]GetResult, len(keys))
		fanOut(placesOf(keys), rowParallelism, func(i int) {
			g := &results[i]
			g.Item, g.Found, g.Err = d.Get(ctx, keys[i], opt)
		})
	}
	out := make([]Row, len(names))
	for i, g := range results {
		if err := ring.result(keys[i], &g.Item, g.Found, g.Err); err != nil {
			return nil, err
		}
		out[i] = Row{Name: names[i], Value: g.Item.Value, ETag: g.Item.ETag, Found: g.Found}
	}
	return out, nil
}

func placesOf[T any](list []T) []int {
	out := make([]int, len(list))
	for i := range out {
		out[i] = i
	}
	return out
}

// Write stores a row if the present one has the given etag or, when that is
// empty, if there is none; else it fails with ErrETagMismatch. It returns the
// new etag, or "" when the store does not tell.
func (r *Rows) Write(ctx context.Context, name string, value []byte, etag string) (string, error) {
	return r.put(ctx, name, value, PutOptions{ETag: etag, FirstWrite: etag == ""})
}

// Put stores a row whatever there is.
func (r *Rows) Put(ctx context.Context, name string, value []byte) error {
	_, err := r.put(ctx, name, value, PutOptions{})
	return err
}

func (r *Rows) put(ctx context.Context, name string, value []byte, opt PutOptions) (string, error) {
	d, keys, err := r.store.driver(ctx)
	if err != nil {
		return "", err
	}
	put, err := keys.put(PutOp{r.prefix + name, value, opt})
	if err != nil {
		return "", err
	}
	return d.Put(ctx, put.Key, put.Value, put.PutOptions)
}

// maxRowDeletes is how many rows one transaction deletes.
const maxRowDeletes = 500

// Delete removes rows, not atomically. One with an etag that is not the present
// one's is left alone. Only Name and ETag count.
func (r *Rows) Delete(ctx context.Context, rows []Row) error {
	d, _, err := r.store.driver(ctx)
	if err != nil {
		return err
	}
	conditions := slices.ContainsFunc(rows, func(row Row) bool { return row.ETag != "" })
	bulk, ok := d.(BulkDeleter)
	tx, transacts := d.(Transactor)
	switch {
	case len(rows) == 1:
	case ok && !conditions:
		ops := make([]DeleteOp, len(rows))
		for i, row := range rows {
			ops[i].Key = r.prefix + row.Name
		}
		for _, err := range bulk.BulkDelete(ctx, ops) {
			if err != nil {
				return err
			}
		}
		return nil
	case transacts:
		return r.deleteTogether(ctx, d, tx, rows)
	}
	return r.deleteEach(ctx, d, rows)
}

// deleteTogether removes rows by transactions, which are cheaper than one by
// one.
func (r *Rows) deleteTogether(ctx context.Context, d Driver, tx Transactor, rows []Row) error {
	size := maxRowDeletes
	if limit := tx.MaxTransaction(); limit > 0 {
		size = min(size, limit)
	}
	for chunk := range slices.Chunk(rows, size) {
		ops := make([]Op, len(chunk))
		for i, row := range chunk {
			ops[i] = Op{Key: r.prefix + row.Name, Delete: true, PutOptions: PutOptions{ETag: row.ETag}}
		}
		err := tx.Transact(ctx, ops, TransactOptions{})
		if err != nil && (fault.ReasonOf(err) == ReasonETagMismatch || fault.Is(err, fault.Unimplemented)) {
			err = r.deleteEach(ctx, d, chunk)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *Rows) deleteEach(ctx context.Context, d Driver, rows []Row) error {
	errs := make([]error, len(rows))
	fanOut(placesOf(rows), rowParallelism, func(i int) {
		errs[i] = d.Delete(ctx, r.prefix+rows[i].Name, DeleteOptions{ETag: rows[i].ETag})
	})
	for _, err := range errs {
		if err != nil && fault.ReasonOf(err) != ReasonETagMismatch {
			return err
		}
	}
	return nil
}
