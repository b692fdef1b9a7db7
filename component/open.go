package component

import (
	"context"
	"fmt"
	"io"
	"reflect"
)

// Opener returns the function that opens the driver of spec as a D, for
// NewHandle.
func Opener[D io.Closer](spec Spec, settings Settings, env Env) func(context.Context) (D, error) {
	return func(ctx context.Context) (D, error) {
		var none D
		d, err := spec.Open(ctx, settings, env)
		if err != nil {
			return none, err
		}
		if driver, ok := d.(D); ok {
			return driver, nil
		}
		if c, ok := d.(io.Closer); ok {
			_ = c.Close() // what it is matters more than how it ends
		}
		return none, fmt.Errorf("%s is not a %s", spec.Type(), reflect.TypeFor[D]())
	}
}

// BlockConfig decodes settings as Open would, and returns what the block
// itself reads from them: a C, the type of spec.BlockConfig.
func BlockConfig[C any](spec Spec, settings Settings) (C, error) {
	cfg, ok := spec.BlockConfig.(C)
	if !ok {
		return cfg, fmt.Errorf("%s has no %s", spec.Type(), reflect.TypeFor[C]())
	}
	err := settings.Decode(newLike(spec.Config), &cfg)
	return cfg, err
}
