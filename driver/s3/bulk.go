package s3

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"unicode/utf8"

	"github.com/minio/minio-go/v7"

	"github.com/proa-io/proa/fault"
)

// Bounds of bulk operations.
const (
	maxItems           = 10_000
	maxConcurrency     = 100
	defaultConcurrency = 10
)

// A bulk is what a bulk operation is asked for, and a result what became of one
// of its items: one that fails does not keep others from being done.
type bulk struct {
	Items       []item   `json:"items"`
	Keys        []string `json:"keys"` // of bulkDelete
	Concurrency int      `json:"concurrency"`
}

type item struct {
	Key          string  `json:"key"`
	Data         *string `json:"data"`
	FilePath     string  `json:"filePath"`
	ContentType  string  `json:"contentType"`
	StorageClass string  `json:"storageClass"`
}

type result struct {
	Key       string  `json:"key"`
	Data      *string `json:"data,omitempty"`
	FilePath  string  `json:"filePath,omitempty"`
	Location  string  `json:"location,omitempty"`
	VersionID *string `json:"versionID,omitempty"`
	Error     string  `json:"error,omitempty"`
}

// parseBulk reads what is asked for; keys are as good as items.
func parseBulk(data []byte, want string) (bulk, error) {
	var ask bulk
	if json.Unmarshal(data, &ask) != nil {
		return ask, fault.New(fault.InvalidArgument, "the data want a JSON object with %s", want)
	}
	for _, key := range ask.Keys {
		ask.Items = append(ask.Items, item{Key: key})
	}
	switch {
	case len(ask.Items) == 0:
		return ask, fault.New(fault.InvalidArgument, "the data want a JSON object with %s, one at least", want)
	case len(ask.Items) > maxItems:
		return ask, fault.New(fault.InvalidArgument, "%d objects are too many for one request: at most %d", len(ask.Items), maxItems)
	case ask.Concurrency < 0:
		return ask, fault.New(fault.InvalidArgument, `"concurrency" must not be negative`)
	case ask.Concurrency == 0:
		ask.Concurrency = defaultConcurrency
	}
	ask.Concurrency = min(ask.Concurrency, maxConcurrency, len(ask.Items))
	for i, one := range ask.Items {
		if one.Key == "" {
			return ask, fault.New(fault.InvalidArgument, `item %d has no "key"`, i)
		}
	}
	return ask, nil
}

// each does something with every item, several at a time.
func (k bulk) each(do func(item) (result, error)) []result {
	out := make([]result, len(k.Items))
	next := make(chan int)
	var wg sync.WaitGroup
	for range k.Concurrency {
		wg.Go(func() {
			for i := range next {
				r, err := do(k.Items[i])
				if err != nil {
					r = result{Error: fault.Message(err)}
				}
				r.Key = k.Items[i].Key
				out[i] = r
			}
		})
	}
	for i := range k.Items {
		next <- i
	}
	close(next)
	wg.Wait()
	return out
}

// bulkGet gets objects, into files or into the answer.
func (b *Binding) bulkGet(ctx context.Context, data []byte, o options) ([]result, error) {
	ask, err := parseBulk(data, `"items", each with "key" and maybe "filePath"`)
	if err != nil {
		return nil, err
	}
	room := &budget{left: maxObject}
	out := ask.each(func(one item) (result, error) {
		if one.FilePath != "" {
			return result{FilePath: one.FilePath}, b.getFile(ctx, one.Key, one.FilePath)
		}
		each := o
		each.key, each.encode = one.Key, false
		data, err := b.get(ctx, each)
		if err != nil {
			return result{}, err
		}
		if !room.take(len(data)) {
			return result{}, fault.New(fault.ResourceExhausted, "there is no room for it: together, objects in an answer are at most %d MiB", maxObject>>20)
		}
		if o.encode {
			text := base64.StdEncoding.EncodeToString(data)
			return result{Data: &text}, nil
		}
		if !utf8.Valid(data) {
			return result{}, fault.New(fault.InvalidArgument, "it is no text: ask for encodeBase64")
		}
		text := string(data)
		return result{Data: &text}, nil
	})
	return out, ctx.Err()
}

// A budget is room that several share.
type budget struct {
	mu   sync.Mutex
	left int
}

func (b *budget) take(n int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if n > b.left {
		return false
	}
	b.left -= n
	return true
}

// getFile writes an object into a file, which is there when all of it is.
func (b *Binding) getFile(ctx context.Context, key, path string) (err error) {
	body, _, _, err := b.core.GetObject(ctx, b.cfg.Bucket, key, minio.GetObjectOptions{})
	if err != nil {
		return classify(ctx, err, key)
	}
	defer body.Close() //nolint:errcheck // it is read
	f, err := os.CreateTemp(filepath.Dir(path), ".proa-writing-*")
	if err != nil {
		return fileError(err, fmt.Sprintf("the file %q cannot be written", path))
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(f.Name())
		}
	}()
	source := &checkedReader{r: body}
	if _, err := io.Copy(f, source); err != nil {
		if source.err != nil {
			return classify(ctx, source.err, key)
		}
		return fileError(err, fmt.Sprintf("the file %q cannot be written", path))
	}
	if err := f.Close(); err != nil {
		return fileError(err, fmt.Sprintf("the file %q cannot be written", path))
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return fileError(err, fmt.Sprintf("the file %q cannot be written", path))
	}
	return nil
}

// bulkCreate makes objects of files or of texts.
func (b *Binding) bulkCreate(ctx context.Context, data []byte, o options) ([]result, error) {
	ask, err := parseBulk(data, `"items", each with "key" and "data" or "filePath"`)
	if err != nil {
		return nil, err
	}
	out := ask.each(func(one item) (result, error) {
		each := o
		each.key, each.file = one.Key, one.FilePath
		if one.ContentType != "" {
			each.contentType = one.ContentType
		}
		if one.StorageClass != "" {
			each.storageClass = one.StorageClass
		}
		if (one.Data == nil) == (one.FilePath == "") {
			return result{}, fault.New(fault.InvalidArgument, `it wants either "data" or "filePath"`)
		}
		var content []byte
		if one.Data != nil {
			content = []byte(*one.Data)
		}
		c, err := b.put(ctx, content, each)
		return result{Location: c.Location, VersionID: c.VersionID}, err
	})
	return out, ctx.Err()
}

// bulkDelete deletes objects. One that does not exist is deleted already.
func (b *Binding) bulkDelete(ctx context.Context, data []byte) ([]result, error) {
	ask, err := parseBulk(data, `"keys"`)
	if err != nil {
		return nil, err
	}
	names := func(yield func(minio.ObjectInfo) bool) {
		for _, one := range ask.Items {
			if !yield(minio.ObjectInfo{Key: one.Key}) {
				return
			}
		}
	}
	results, err := b.client.RemoveObjectsWithIter(ctx, b.cfg.Bucket, names, minio.RemoveObjectsOptions{})
	if err != nil {
		return nil, classify(ctx, err, "")
	}
	failed := map[string]string{}
	for r := range results {
		if r.Err == nil {
			continue
		}
		err := classify(ctx, r.Err, r.ObjectName)
		if r.ObjectName == "" { // it is about all of them
			return nil, err
		}
		failed[r.ObjectName] = fault.Message(err)
	}
	out := make([]result, len(ask.Items))
	for i, one := range ask.Items {
		out[i] = result{Key: one.Key, Error: failed[one.Key]}
	}
	return out, ctx.Err()
}
