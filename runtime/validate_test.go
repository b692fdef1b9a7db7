package runtime

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestBrokenConfigurationsSayWhatWhereAndWhatInstead reads each broken file of
// testdata/broken. Beside it stand the texts that its problems must have, one
// a line; "9: …" is about line 9.
func TestBrokenConfigurationsSayWhatWhereAndWhatInstead(t *testing.T) {
	files, err := filepath.Glob("testdata/broken/*.yaml")
	if err != nil || len(files) < 40 {
		t.Fatalf("%d broken configurations, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) {
			want, err := os.ReadFile(strings.TrimSuffix(file, ".yaml") + ".want")
			if err != nil {
				t.Fatal(err)
			}
			_, got := Validate([]string{file}, nil, "shop")
			if got == nil {
				t.Fatal("the configuration was accepted")
			}
			for line := range strings.Lines(string(want)) {
				line = strings.TrimSpace(line)
				if line[0] >= '0' && line[0] <= '9' {
					line = file + ":" + line
				}
				if !strings.Contains(got.Error(), line) {
					t.Errorf("it says\n%v\nand not\n%s", got, line)
				}
			}
		})
	}
}

func TestAValidFolderIsAccepted(t *testing.T) {
	report, err := Validate([]string{"../examples/shop/resources"}, nil, "")
	if err != nil || report.Components != 1 || report.Subscriptions != 2 || report.Resiliencies != 1 {
		t.Errorf("Validate = %+v, %v", report, err)
	}
}
