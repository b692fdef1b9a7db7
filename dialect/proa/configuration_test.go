package proa

import (
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	proav1 "github.com/proa-io/proa/api/gen/proa/v1"
	"github.com/proa-io/proa/block/config"
)

func TestConfigurationOverGRPC(t *testing.T) {
	w := newWorld(t)
	client := proav1.NewConfigurationClient(dial(t, serve(t, New(Options{Blocks: w}))))
	set, err := client.Set(t.Context(), &proav1.ConfigurationSetRequest{
		StoreName: "store", Items: []*proav1.ConfigurationEntry{{Key: "a", Value: "1"}, {Key: "b", Value: "1", ExpectedAbsent: true}},
	})
	if err != nil {
		t.Fatal(err)
	}
	items, err := w.configs["store"].Get(t.Context(), config.Query{})
	if err != nil || len(items) != 2 || len(set.GetVersions()) != 2 {
		t.Fatalf("Set = %v, and now there is %v, %v", set, items, err)
	}
	for key, item := range items {
		if item.Value != "1" || item.Version == "" || item.Version != set.GetVersions()[key] {
			t.Errorf("%s is %v, Set told of version %q", key, item, set.GetVersions()[key])
		}
	}
	_, err = client.Delete(t.Context(), &proav1.ConfigurationDeleteRequest{
		StoreName: "store", Items: []*proav1.ConfigurationDeletion{{Key: "a"}, {Key: "b", ExpectedVersion: "other"}},
	})
	if status.Code(err) != codes.Aborted {
		t.Errorf("Delete of another version: %v", err)
	}
	_, err = client.Delete(t.Context(), &proav1.ConfigurationDeleteRequest{
		StoreName: "store", Items: []*proav1.ConfigurationDeletion{{Key: "a", ExpectedVersion: set.GetVersions()["a"]}, {Key: "none"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	items, err = w.configs["store"].Get(t.Context(), config.Query{})
	if _, kept := items["b"]; err != nil || len(items) != 1 || !kept {
		t.Errorf("after Delete there is %v, %v", items, err)
	}
}

func TestConfigurationOverHTTP(t *testing.T) {
	url := "http://" + serve(t, New(Options{Blocks: newWorld(t)})) + "/proa.v1.Configuration/"
	for _, c := range []struct {
		method, body string
		status       int
		want         string
	}{
		{"Set", `{"storeName":"store","items":[{"key":"a","value":"1"},{"key":"b","value":"2"}]}`, 200, `{"versions":{"a":"1","b":"2"}}`},
		{"Set", `{"storeName":"store","items":[{"key":"a","value":"3","expectedVersion":"1"}]}`, 200, `{"versions":{"a":"3"}}`},
		{"Set", `{"storeName":"store","items":[{"key":"a","value":"4","expectedVersion":"1"}]}`, 409,
			`{"code":"aborted","message":"write to configuration store \"store\": item \"a\" does not have the version that was expected","reason":"config.conflict"}`},
		{"Set", `{"storeName":"store","items":[{"key":"b","value":"4","expectedAbsent":true}]}`, 409, `"reason":"config.conflict"`},
		{"Set", `{"storeName":"store"}`, 200, `{}`},
		{"Set", `{"storeName":"store","items":[{"value":"1"}]}`, 400,
			`{"code":"invalid_argument","message":"configuration store \"store\": the key of change 1 is empty","reason":"config.bad_write"}`},
		{"Set", `{"storeName":"store","items":[{"key":"a"},{"key":"a"}]}`, 400, `key \"a\" is changed twice`},
		{"Set", `{"storeName":"store","items":[{"key":"a","expectedAbsent":true,"expectedVersion":"1"}]}`, 400, `"reason":"config.bad_write"`},
		{"Set", `{"storeName":"plain","items":[{"key":"a"}]}`, 501, `"reason":"config.cannot_write"`},
		{"Set", `{"storeName":"none"}`, 404, `{"code":"not_found","message":"there is no configuration component \"none\"","reason":"dapr.not_found"}`},
		{"Delete", `{"storeName":"store","items":[{"key":"b","expectedVersion":"1"}]}`, 409, `"reason":"config.conflict"`},
		{"Delete", `{"storeName":"store","items":[{"key":"b","expectedVersion":"2"},{"key":"x"}]}`, 200, `{}`},
		{"Delete", `{"storeName":"store","items":[{}]}`, 400, `"reason":"config.bad_write"`},
		{"Delete", `{"storeName":"plain","items":[{"key":"a"}]}`, 501, `"reason":"config.cannot_write"`},
		{"Delete", `{}`, 404, `there is no configuration component`},
	} {
		if code, _, body := post(t, url+c.method, c.body); code != c.status || !strings.Contains(body, c.want) {
			t.Errorf("%s %s\nanswers %d %s\nwant    %d %s", c.method, c.body, code, body, c.status, c.want)
		}
	}
}
