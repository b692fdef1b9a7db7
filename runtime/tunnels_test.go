package runtime

import "testing"

func TestForwardsAreRead(t *testing.T) {
	for text, want := range map[string]Forward{
		"127.0.0.1:5432=orders":     {"127.0.0.1:5432", "orders", 5432},
		"5432=orders":               {"127.0.0.1:5432", "orders", 5432},
		"5432=orders:6432":          {"127.0.0.1:5432", "orders", 6432},
		"[::1]:5432=orders.prod:99": {"[::1]:5432", "orders.prod", 99},
		"0=orders:6432":             {"127.0.0.1:0", "orders", 6432},
	} {
		if got, err := ParseForward(text); err != nil || got != want {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "5432", "=orders", "5432=", "x=orders", "0=orders", "5432=orders:0", "5432=orders:x", "70000=orders", "127.0.0.1=orders"} {
		if got, err := ParseForward(text); err == nil {
			t.Errorf("%q is read as %+v", text, got)
		}
	}
}
