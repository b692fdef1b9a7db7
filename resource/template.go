package resource

import (
	"fmt"
	"net/url"
	"os"
	"strings"

	"github.com/google/uuid"
)

// Identity is what templates in metadata values are filled in from.
type Identity struct {
	AppID     string
	Namespace string
	PodName   string
}

// Expand replaces {uuid}, {podName}, {namespace} (which is "namespace.appID")
// and {appID} in a metadata value. A {podName} without a pod is an error.
func (id Identity) Expand(text string) (string, error) {
	if !strings.Contains(text, "{") {
		return text, nil
	}
	if strings.Contains(text, "{podName}") && id.PodName == "" {
		return "", fmt.Errorf("uses {podName}, but POD_NAME is not set in the environment")
	}
	for strings.Contains(text, "{uuid}") {
		text = strings.Replace(text, "{uuid}", uuid.NewString(), 1)
	}
	return strings.NewReplacer(
		"{podName}", id.PodName,
		"{namespace}", id.Namespace+"."+id.AppID,
		"{appID}", id.AppID,
	).Replace(text), nil
}

// envRefProblem says why an envRef may not name the variable, or returns "".
// Variables of the sidecar's own are refused so that a resource cannot read
// its tokens; DAPR_ENV_KEYS, when set, lists the only ones allowed.
func envRefProblem(name string) string {
	upper := strings.ToUpper(name)
	switch {
	case strings.ContainsAny(name, " \t"):
		return fmt.Sprintf("%q has a space, which no environment variable has", name)
	case strings.HasPrefix(upper, "DAPR_"), strings.HasPrefix(upper, "PROA_"), upper == "APP_API_TOKEN":
		return fmt.Sprintf("%q is one of the sidecar's own variables and may not be read", name)
	}
	if allowed, ok := os.LookupEnv("DAPR_ENV_KEYS"); ok && allowed != "" {
		for key := range strings.FieldsSeq(allowed) {
			if key == name {
				return ""
			}
		}
		return fmt.Sprintf("%q is not among the variables that DAPR_ENV_KEYS allows", name)
	}
	return ""
}

func baseURLProblem(text string) string {
	if text == "" {
		return "is required"
	}
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return fmt.Sprintf(`wants an address such as "https://api.example.com", not %q`, text)
	}
	return ""
}
