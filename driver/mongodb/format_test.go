package mongodb

import (
	"strings"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/internal/leak"
)

func asJSON() state.PutOptions {
	return state.PutOptions{Metadata: map[string]string{"contentType": "application/json"}}
}

func TestDocumentsOfDaprAreRead(t *testing.T) {
	t.Parallel()
	s := open(t, configAt(server.Get(t).Addr(), collections.next("of_dapr")))
	for want, value := range map[string]any{
		`{"a":1}`:                     `{"a":1}`, // a gRPC client's bytes
		"\"text\"":                    `"text"`,
		`{"name":"x","deep":{"n":2}}`: bson.D{{Key: "name", Value: "x"}, {Key: "deep", Value: bson.D{{Key: "n", Value: int32(2)}}}},
		`[1,"2",null]`:                bson.A{int32(1), "2", nil},
		`5.5`:                         5.5,
		`true`:                        true,
		`null`:                        nil,
	} {
		_, err := s.items.InsertOne(t.Context(), bson.D{
			{Key: "_id", Value: "app||" + want}, {Key: "value", Value: value}, {Key: "_etag", Value: "e1"}, {Key: "_ttl", Value: nil}})
		if err != nil {
			t.Fatal(err)
		}
		item, found, err := s.Get(t.Context(), "app||"+want, state.GetOptions{})
		if err != nil || !found || string(item.Value) != want || item.ETag != "e1" || !item.Expires.IsZero() {
			t.Errorf("%v is read as %s, %+v, %v, %v; want %s", value, item.Value, item, found, err, want)
		}
	}
}

func TestDocumentsAreAsDaprReadsThem(t *testing.T) {
	t.Parallel()
	s := open(t, configAt(server.Get(t).Addr(), collections.next("for_dapr")))
	text := `{ "n": 1.0, "list": [1, {"x": "y"}], "b": true }`
	if _, err := s.Put(t.Context(), "app||json", []byte(text), asJSON()); err != nil {
		t.Fatal(err)
	}
	etag, err := s.Put(t.Context(), "app||text", []byte(text), state.PutOptions{TTL: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	read := func(key string) (d bson.M) {
		t.Helper()
		if err := s.items.FindOne(t.Context(), bson.D{{Key: "_id", Value: key}, {Key: "value.n", Value: bson.D{{Key: "$exists", Value: key == "app||json"}}}}).Decode(&d); err != nil {
			t.Fatal(err)
		}
		return d
	}
	if d := read("app||json"); d["_ttl"] != nil || d["value"].(bson.D)[0].Value != 1.0 {
		t.Errorf("the document is %v", d)
	}
	d := read("app||text")
	at, _ := d["_ttl"].(bson.DateTime)
	if d["value"] != text || d["_etag"] != etag || time.Until(at.Time()) < 59*time.Minute {
		t.Errorf("the document is %v", d)
	}
}

func TestJSONComesBackByteForByte(t *testing.T) {
	t.Parallel()
	s := open(t, configAt(server.Get(t).Addr(), collections.next("exact")))
	for _, text := range []string{
		`{}`, `{"a":1}`, `{ "a" : 1 }`, `{"a":1.0,"b":1e2}`, `{"a":12345678901234567890}`, `{"a":0.1000}`, `{"a":"\u00e4<&>"}`, `{"a":1,"a":2}`,
		`{"$date":"x"}`, `{"a.b":1}`, `{"":1}`, `{"a":{"$gt":1}}`, `[{"a":1}]`, `"text"`, `1`, `null`, `{"a":1e999}`,
		strings.Repeat(`{"a":`, 200) + "1" + strings.Repeat("}", 200),
	} {
		if _, err := s.Put(t.Context(), "k", []byte(text), asJSON()); err != nil {
			t.Errorf("%.40s: %v", text, err)
			continue
		}
		if item, _, err := s.Get(t.Context(), "k", state.GetOptions{}); err != nil || string(item.Value) != text {
			t.Errorf("%.40s is read as %.40s, %v", text, item.Value, err)
		}
	}
	// Dapr overwrites the value and leaves what else there is.
	if _, err := s.Put(t.Context(), "k", []byte(`{ "a": 1 }`), asJSON()); err != nil {
		t.Fatal(err)
	}
	_, err := s.items.UpdateOne(t.Context(), bson.D{{Key: "_id", Value: "k"}},
		bson.D{{Key: "$set", Value: bson.D{{Key: "value", Value: bson.D{{Key: "a", Value: 2}}}, {Key: "_etag", Value: "other"}}}})
	if err != nil {
		t.Fatal(err)
	}
	if item, _, err := s.Get(t.Context(), "k", state.GetOptions{}); err != nil || string(item.Value) != `{"a":2}` {
		t.Errorf("after a foreign write the value is %s, %v", item.Value, err)
	}
}

func FuzzParseObject(f *testing.F) {
	for _, text := range []string{`{"a":[1,2.5,"x",null,{"b":true}]}`, `{"$a":1}`, `{`, `{"a":1}x`, "{\"a\":\"\xff\"}"} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		opt := asJSON()
		d, err := newDocument("k", text, "e", &opt, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		item, err := d.item()
		if err != nil || string(item.Value) != string(text) {
			t.Errorf("%q is read as %q, %v", text, item.Value, err)
		}
	})
}

func TestRevisionsAreReadAsTheyAreWritten(t *testing.T) {
	w := &watch{State: &State{}, prefix: "app||"}
	for _, text := range []string{"", "x", "1.2.3", "1.2.-3.00000000", "1.2.3.4", "1.2.3.zzzzzzzz", "99999999999.1.1.00000000", "0.0.0.00000000"} {
		if err := w.goOn(text); err == nil {
			t.Errorf("%q is taken for a revision", text)
		}
	}
	w = &watch{State: &State{}, prefix: "app||", at: bson.Timestamp{T: 7, I: 9}, count: 3}
	for prefix, skip := range map[string]int{"app||": 3, "other||": 0} {
		again := &watch{State: &State{}, prefix: prefix}
		if err := again.goOn(w.revision()); err != nil || again.at != w.at || again.skip != skip {
			t.Errorf("%q with the prefix %q: %+v, %v", w.revision(), prefix, again, err)
		}
	}
}

func TestSettingsSayWhatIsWrongWithThem(t *testing.T) {
	for _, tc := range []struct{ settings, want string }{
		{"host=localhost:27017", ""},
		{"host=a:1,b:2 params=?replicaSet=rs0&authSource=admin username=me password=p%40ss", ""},
		{"host=a:1 username=me password=open@sesame/%", ""},
		{"server=cluster.example.com username=me password=pw", ""},
		{"connectionString=mongodb://me:pw@localhost/?tls=true", ""},
		{"connectionString=mongodb+srv://me:pw@cluster.example.com/", ""},
		{"", "host"},
		{"host=a server=b", "server"},
		{"host=a params=?w=no=such&x", "host"},
		{"connectionString=http://me:open@sesame", "connectionString"},
		{"host=a databaseName=a/b", "databaseName"},
		{"host=a collectionName=system.x", "collectionName"},
		{"host=a writeconcern=2 readconcern=majority operationTimeout=10s", ""},
		{"host=a writeConcern=most", "writeConcern"},
		{"host=a readConcern=most", "readConcern"},
		{"host=a operationTimeout=0", "operationTimeout"},
	} {
		var settings component.Settings
		for _, text := range strings.Fields(tc.settings) {
			name, value, _ := strings.Cut(text, "=")
			settings = append(settings, component.Setting{Name: name, Value: value})
		}
		cfg := stateDefaults()
		err := settings.Decode(&cfg)
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), `"`+tc.want+`"`)) {
			t.Errorf("%s: %v, want %q", tc.settings, err, tc.want)
		}
		if err != nil && strings.Contains(err.Error(), "sesame") {
			t.Errorf("%s: the error %q shows a password", tc.settings, err)
		}
	}
}

func TestNothingIsLeftAfterClose(t *testing.T) {
	addr := server.Get(t).Addr()
	leak.Check(t)
	s, err := OpenState(t.Context(), configAt(addr, collections.next("leaks")), component.Env{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Put(t.Context(), "k", nil, state.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}
