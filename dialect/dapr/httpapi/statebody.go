package httpapi

import (
	"errors"

	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/dialect/dapr"
)

// describeBody tells of a body that cannot be read, by how, unless the error
// is told already.
func describeBody(err error, how func(error) *dapr.Error) *dapr.Error {
	if e, ok := errors.AsType[*dapr.Error](err); ok {
		return e
	}
	return how(err)
}

// parseItems reads the body of a save, a list of items, and appends them to
// dst. The values are parts of the body.
func parseItems(body []byte, dst []state.SetRequest) ([]state.SetRequest, error) {
	s := scanner{b: body}
	s.document()
	if s.open(kindArray, "the request") {
		for first := true; s.more(']', first); first = false {
			at := s.i
			dst = append(dst, state.SetRequest{})
			item := &dst[len(dst)-1]
			s.item(item)
			if item.Key == "" && s.err == nil {
				return dst, dapr.Invalid(`"key" is a required field (item %d, at %s)`, len(dst), position(body, at))
			}
		}
	}
	return dst, s.end()
}

// null is the value of an item that has none.
const null = "null"

// item reads an item to be saved. Its names are not case-sensitive; unknown
// ones are ignored, and of several the last counts.
func (s *scanner) item(r *state.SetRequest) {
	if !s.open(kindObject, "an item") {
		return
	}
	for first := true; s.more('}', first); first = false {
		name := s.name()
		switch {
		case isNamed(name, "key"):
			r.Key = s.text(`"key"`)
		case isNamed(name, "value"):
			r.Value = s.value()
		case isNamed(name, "etag"):
			r.ETag = s.scalar(`"etag"`)
		case isNamed(name, "metadata"):
			r.Metadata = s.stringMap(`"metadata"`)
		case isNamed(name, "options"):
			s.options(r)
		default:
			s.value()
		}
	}
	if r.Value == nil {
		r.Value = []byte(null)
	}
}

func (s *scanner) options(r *state.SetRequest) {
	if !s.open(kindObject, `"options"`) {
		return
	}
	for first := true; s.more('}', first); first = false {
		name := s.name()
		s.space()
		at := s.i
		var err error
		switch {
		case isNamed(name, "concurrency"):
			r.Concurrency, err = state.ParseConcurrency(s.text(`"concurrency"`))
		case isNamed(name, "consistency"):
			r.Consistency, err = state.ParseConsistency(s.text(`"consistency"`))
		default:
			s.value()
		}
		if err != nil {
			s.fail(at, "%v", err)
		}
	}
}

// parseTransaction reads the body of a transaction. The values are parts of the
// body.
func parseTransaction(body []byte) (r state.TransactRequest, err error) {
	s := scanner{b: body}
	s.document()
	if s.open(kindObject, "the request") {
		for first := true; s.more('}', first); first = false {
			name := s.name()
			switch {
			case isNamed(name, "operations"):
				if r.Operations, err = s.operations(); err != nil {
					return r, err
				}
			case isNamed(name, "metadata"):
				r.Metadata = s.stringMap(`"metadata"`)
			default:
				s.value()
			}
		}
	}
	return r, s.end()
}

// operations reads the operations of a transaction. It returns only errors that
// are not about the form of the JSON.
func (s *scanner) operations() (ops []state.Operation, err error) {
	if !s.open(kindArray, `"operations"`) {
		return nil, nil
	}
	for first := true; s.more(']', first); first = false {
		var op state.Operation
		kind := s.operation(&op)
		if s.err != nil {
			return nil, nil
		}
		if op.Delete, err = state.ParseOperation(kind); err != nil {
			return nil, dapr.Describe(dapr.StateTransaction, dapr.Subject{Operation: kind}, err)
		}
		ops = append(ops, op)
	}
	return ops, nil
}

// operation reads one operation and returns its kind.
func (s *scanner) operation(op *state.Operation) (kind string) {
	if !s.open(kindObject, "an operation") {
		return ""
	}
	for first := true; s.more('}', first); first = false {
		name := s.name()
		switch {
		case isNamed(name, "operation"):
			kind = s.text(`"operation"`)
		case isNamed(name, "request"):
			op.SetRequest = state.SetRequest{}
			s.item(&op.SetRequest)
			op.JSON = true
		default:
			s.value()
		}
	}
	return kind
}
