package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	rtv1 "github.com/proa-io/proa/api/gen/dapr/proto/runtime/v1"
)

func compatText(t *testing.T) string {
	t.Helper()
	t.Chdir("../..")
	text, err := os.ReadFile(compatPage)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestTheCompatibilityPageIsWhatTheTestsShow(t *testing.T) {
	want := compatText(t)
	for range 3 { // the same every time
		if got, err := compatibility(); err != nil || string(got) != want {
			t.Fatalf("%s is out of date (%v); run `make gen`", compatPage, err)
		}
	}
}

func TestTheCompatibilityPageHasEveryMethod(t *testing.T) {
	text := compatText(t)
	all := methods(rtv1.File_dapr_proto_runtime_v1_dapr_proto)
	if len(all) < 72 {
		t.Errorf("the service has %d methods", len(all))
	}
	for _, name := range append(all, methods(rtv1.File_dapr_proto_runtime_v1_appcallback_proto)...) {
		if !strings.Contains(text, "| `"+strings.TrimPrefix(name, daprPrefix)+"` |") {
			t.Errorf("%s is not on the page", name)
		}
	}
}

func TestTheCompatibilityPageClaimsOnlyTestsThatExist(t *testing.T) {
	text := compatText(t)
	for _, link := range regexp.MustCompile(`\]\(([^)]+)\)`).FindAllStringSubmatch(text, -1) {
		if _, err := os.Stat(filepath.Join(filepath.Dir(compatPage), link[1])); err != nil {
			t.Error(err)
		}
	}
	for row := range strings.Lines(text) {
		cells := strings.Split(strings.TrimSpace(row), "|")
		if len(cells) != 7 || strings.TrimSpace(cells[2]) != "works" {
			continue
		}
		suites := strings.TrimSpace(cells[5])
		if suites == "" && strings.TrimSpace(cells[4]) == "" {
			t.Errorf("nothing shows what is claimed: %s", row)
		}
		for suite := range strings.SplitSeq(suites, ", ") {
			if _, err := os.Stat(filepath.Join(recordsDir, suite+".txt")); suite != "" && err != nil {
				t.Error(err)
			}
		}
	}
}

func TestAPartThatNoTestShowsIsAnError(t *testing.T) {
	for _, tc := range []struct {
		name, want string
		e          *evidence
	}{
		{"rpc " + daprPrefix + "GetState", "no test shows", &evidence{}},
		{"rpc " + daprPrefix + "GetState", "no test shows", &evidence{errors: []string{"Internal"}, transcripts: []string{"x.txt"}}},
		{"rpc " + daprPrefix + "GetState", "", &evidence{suites: []string{"go-grpc"}}},
		{"rpc " + daprPrefix + "InvokeActor", "", &evidence{absent: true}},
	} {
		k := known{tc.name: tc.e}
		err := k.section(&strings.Builder{}, part{prefix: "rpc ", names: []string{strings.TrimPrefix(tc.name, "rpc ")}})
		if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s %+v: %v", tc.name, tc.e, err)
		}
	}
}
