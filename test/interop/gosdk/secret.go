package main

import "context"

func (a *app) checkSecret() {
	a.check("secret: one is read from the environment", func(ctx context.Context, t *t) {
		got, err := a.client.GetSecret(ctx, "secretstore", "INTEROP_SECRET", nil)
		t.ok(err)
		t.equal(got, map[string]string{"INTEROP_SECRET": "from the environment"}, "secret")
	})
	a.check("secret: all are read at once", func(ctx context.Context, t *t) {
		got, err := a.client.GetBulkSecret(ctx, "secretfile", nil)
		t.ok(err)
		t.equal(got, map[string]map[string]string{
			"database:password": {"database:password": "from a file"},
			"key":               {"key": "value"},
		}, "secrets")
	})
	a.check("secret: what does not exist is refused", func(ctx context.Context, t *t) {
		_, err := a.client.GetSecret(ctx, "nosecrets", "key", nil)
		t.refused(err, "code = InvalidArgument", "nosecrets")
		_, err = a.client.GetSecret(ctx, "secretfile", "no-such-secret", nil)
		t.refused(err, "no-such-secret")
	})
}
