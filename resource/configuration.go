package resource

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	"github.com/proa-io/proa/component"
)

// Configuration is the settings of the process itself. Several resources of
// kind Configuration are merged; what a later one sets wins.
type Configuration struct {
	header `yaml:",inline"`
	Spec   ConfigurationSpec `yaml:"spec"`
	Auth   Auth              `yaml:"auth"`

	sections map[string]string // digests of the fields of Spec
}

// ConfigurationSpec is the spec of a Configuration.
type ConfigurationSpec struct {
	Tracing         *Tracing        `yaml:"tracing"`
	Metric          *Metrics        `yaml:"metric"`
	Metrics         *Metrics        `yaml:"metrics"`
	HTTPPipeline    *Pipeline       `yaml:"httpPipeline"`
	AppHTTPPipeline *Pipeline       `yaml:"appHttpPipeline"`
	MTLS            *MTLS           `yaml:"mtls"`
	Secrets         *Secrets        `yaml:"secrets"`
	AccessControl   *AccessControl  `yaml:"accessControl"`
	API             *API            `yaml:"api"`
	Components      *Components     `yaml:"components"`
	NameResolution  *NameResolution `yaml:"nameResolution"`
	Features        []Feature       `yaml:"features"`
	Logging         *Logging        `yaml:"logging"`
	Wasm            *Wasm           `yaml:"wasm"`
	Workflow        *Workflow       `yaml:"workflow"`
	Connect         *Connect        `yaml:"connect"`
}

// Tracing says which calls are traced and where spans go.
type Tracing struct {
	// SamplingRate is the share of calls to trace, "0" to "1".
	SamplingRate string             `yaml:"samplingRate"`
	Stdout       bool               `yaml:"stdout"`
	Zipkin       *Zipkin            `yaml:"zipkin"`
	Otel         *Otel              `yaml:"otel"`
	Pos          component.Position `yaml:"-"`
}

// Zipkin is a Zipkin collector.
type Zipkin struct {
	EndpointAddress string `yaml:"endpointAddress"`
}

// Metrics says what is measured.
type Metrics struct {
	Enabled                    *bool        `yaml:"enabled"`
	RecordErrorCodes           *bool        `yaml:"recordErrorCodes"`
	HTTP                       *HTTPMetrics `yaml:"http"`
	Rules                      []MetricRule `yaml:"rules"`
	LatencyDistributionBuckets []float64    `yaml:"latencyDistributionBuckets"`
	// Otel is the OTLP collector that metrics go to, besides the page that
	// serves them; what it leaves out is as for spec.tracing.otel.
	Otel     *Otel              `yaml:"otel"`
	Workflow map[string]Value   `yaml:"workflow"`
	Pos      component.Position `yaml:"-"`
}

// HTTPMetrics bounds the labels of HTTP metrics.
type HTTPMetrics struct {
	IncreasedCardinality *bool    `yaml:"increasedCardinality"`
	PathMatching         []string `yaml:"pathMatching"`
	ExcludeVerbs         *bool    `yaml:"excludeVerbs"`
}

// MetricRule rewrites labels of a metric.
type MetricRule struct {
	Name   string        `yaml:"name"`
	Labels []MetricLabel `yaml:"labels"`
}

// MetricLabel maps values of a label by regular expression.
type MetricLabel struct {
	Name  string            `yaml:"name"`
	Regex map[string]string `yaml:"regex"`
}

// Pipeline is a list of HTTP middleware.
type Pipeline struct {
	Handlers []PipelineHandler  `yaml:"handlers"`
	Pos      component.Position `yaml:"-"`
}

// PipelineHandler names a middleware component.
type PipelineHandler struct {
	Name     string           `yaml:"name"`
	Type     string           `yaml:"type"`
	Version  string           `yaml:"version"`
	Selector map[string]Value `yaml:"selector"`
}

// MTLS configures identity between sidecars.
type MTLS struct {
	Enabled                 *bool              `yaml:"enabled"`
	WorkloadCertTTL         component.Duration `yaml:"workloadCertTTL"`
	AllowedClockSkew        component.Duration `yaml:"allowedClockSkew"`
	SentryAddress           string             `yaml:"sentryAddress"`
	ControlPlaneTrustDomain string             `yaml:"controlPlaneTrustDomain"`
	TokenValidators         Value              `yaml:"tokenValidators"`
}

// Secrets limits which secrets the application may read.
type Secrets struct {
	Scopes []SecretScope `yaml:"scopes"`
}

// SecretScope limits one secret store.
type SecretScope struct {
	StoreName string `yaml:"storeName"`
	// DefaultAccess is "allow" (the default) or "deny".
	DefaultAccess  string             `yaml:"defaultAccess"`
	AllowedSecrets []string           `yaml:"allowedSecrets"`
	DeniedSecrets  []string           `yaml:"deniedSecrets"`
	Pos            component.Position `yaml:"-"`
}

// AccessControl says which application may invoke what of this one.
type AccessControl struct {
	DefaultAction string             `yaml:"defaultAction"`
	TrustDomain   string             `yaml:"trustDomain"`
	Policies      []AppPolicy        `yaml:"policies"`
	Pos           component.Position `yaml:"-"`
}

// AppPolicy is what one calling application may do.
type AppPolicy struct {
	AppID         string             `yaml:"appId"`
	DefaultAction string             `yaml:"defaultAction"`
	TrustDomain   string             `yaml:"trustDomain"`
	Namespace     string             `yaml:"namespace"`
	Operations    []AppOperation     `yaml:"operations"`
	Pos           component.Position `yaml:"-"`
}

// AppOperation allows or denies a path.
type AppOperation struct {
	Name     string             `yaml:"name"`
	HTTPVerb []string           `yaml:"httpVerb"`
	Action   string             `yaml:"action"`
	Pos      component.Position `yaml:"-"`
}

// Connect says where raw connections may lead.
type Connect struct {
	// Allow lists where a CONNECT of the application may lead:
	// "db.internal:5432", "*.example.com:443", "app:shop", "app:shop:5432". Where
	// nothing is listed, nothing is allowed.
	Allow []string `yaml:"allow"`
	// Ports are those of the application that other applications may reach
	// through their sidecars.
	Ports []int              `yaml:"ports"`
	Pos   component.Position `yaml:"-"`
}

// API limits which parts of the API are served.
type API struct {
	Allowed []APIRule `yaml:"allowed"`
	Denied  []APIRule `yaml:"denied"`
}

// APIRule names a part of the API, such as state.v1 over http.
type APIRule struct {
	Name     string             `yaml:"name"`
	Version  string             `yaml:"version"`
	Protocol string             `yaml:"protocol"`
	Pos      component.Position `yaml:"-"`
}

// Components limits which components may be loaded.
type Components struct {
	// Deny lists types ("bindings.smtp") or types with version.
	Deny []string `yaml:"deny"`
}

// NameResolution chooses how applications are found.
type NameResolution struct {
	NameResolver `yaml:",inline"`
	// Also are further ways, which are asked besides. What an earlier one says
	// of an endpoint goes first.
	Also []NameResolver `yaml:"also"`
}

// NameResolver is one way in which applications are found.
type NameResolver struct {
	Component     string             `yaml:"component"`
	Version       string             `yaml:"version"`
	Configuration Object             `yaml:"configuration"`
	Pos           component.Position `yaml:"-"`
}

// Feature switches a preview feature.
type Feature struct {
	Name    string `yaml:"name"`
	Enabled bool   `yaml:"enabled"`
}

// Logging configures what is logged.
type Logging struct {
	APILogging *APILogging `yaml:"apiLogging"`
	AccessLog  *AccessLog  `yaml:"accessLog"`
	// Otel is the OTLP collector that log lines go to, besides standard error;
	// what it leaves out is as for spec.tracing.otel.
	Otel *Otel `yaml:"otel"`
}

// APILogging configures the log of API calls.
type APILogging struct {
	Enabled          *bool `yaml:"enabled"`
	ObfuscateURLs    bool  `yaml:"obfuscateURLs"`
	OmitHealthChecks bool  `yaml:"omitHealthChecks"`
}

// AccessLog configures the log of requests, a line each.
type AccessLog struct {
	// Enabled is true unless it is set.
	Enabled *bool `yaml:"enabled"`
	// Path is the file that lines are appended to; standard output when empty.
	Path string             `yaml:"path"`
	Pos  component.Position `yaml:"-"`
}

// Wasm configures WebAssembly middleware.
type Wasm struct {
	StrictSandbox *bool `yaml:"strictSandbox"`
}

// Workflow limits how many workflows and activities run at once.
type Workflow struct {
	MaxConcurrentWorkflowInvocations       *int32 `yaml:"maxConcurrentWorkflowInvocations"`
	MaxConcurrentActivityInvocations       *int32 `yaml:"maxConcurrentActivityInvocations"`
	GlobalMaxConcurrentWorkflowInvocations *int32 `yaml:"globalMaxConcurrentWorkflowInvocations"`
	GlobalMaxConcurrentActivityInvocations *int32 `yaml:"globalMaxConcurrentActivityInvocations"`
	WorkflowConcurrencyLimits              Value  `yaml:"workflowConcurrencyLimits"`
	ActivityConcurrencyLimits              Value  `yaml:"activityConcurrencyLimits"`
	StateRetentionPolicy                   Value  `yaml:"stateRetentionPolicy"`
}

// MetricSettings returns what spec.metrics says, and for what that leaves open
// spec.metric; nil when there is neither.
func (c *Configuration) MetricSettings() *Metrics {
	a, b := c.Spec.Metrics, c.Spec.Metric
	if a == nil || b == nil {
		return cmp.Or(a, b)
	}
	out := *a
	out.Enabled, out.RecordErrorCodes, out.HTTP = cmp.Or(a.Enabled, b.Enabled), cmp.Or(a.RecordErrorCodes, b.RecordErrorCodes), cmp.Or(a.HTTP, b.HTTP)
	out.Otel = cmp.Or(a.Otel, b.Otel)
	if len(out.Rules) == 0 {
		out.Rules = b.Rules
	}
	if len(out.LatencyDistributionBuckets) == 0 {
		out.LatencyDistributionBuckets = b.LatencyDistributionBuckets
	}
	return &out
}

// SamplingRate returns the share of calls to trace, 0 to 1, or def when none
// is set.
func (c *Configuration) SamplingRate(def float64) float64 {
	if c.Spec.Tracing == nil || c.Spec.Tracing.SamplingRate == "" {
		return def
	}
	rate, err := strconv.ParseFloat(c.Spec.Tracing.SamplingRate, 64)
	if err != nil {
		return def // check has refused it
	}
	return rate
}

func (c *Configuration) check(p *problems) {
	res := c.describe()
	c.requireName(p)
	if t := c.Spec.Tracing; t != nil {
		c.checkTracing(p, res, t)
	}
	for _, m := range []*Metrics{c.Spec.Metric, c.Spec.Metrics} {
		if m != nil {
			c.checkOtel(p, "spec.metrics.otel", m.Otel, false)
		}
	}
	if l := c.Spec.Logging; l != nil {
		c.checkOtel(p, "spec.logging.otel", l.Otel, false)
	}
	if s := c.Spec.Secrets; s != nil {
		for i, scope := range s.Scopes {
			at := "spec.secrets.scopes[" + itoa(i) + "]"
			if scope.StoreName == "" {
				p.addf(scope.Pos, res, at+".storeName", "is required")
			}
			checkAction(p, scope.Pos, res, at+".defaultAccess", scope.DefaultAccess)
		}
	}
	if a := c.Spec.AccessControl; a != nil {
		c.checkAccess(p, res, a)
	}
	if a := c.Spec.API; a != nil {
		for i, r := range slices.Concat(a.Allowed, a.Denied) {
			if r.Protocol != "" && r.Protocol != "http" && r.Protocol != "grpc" {
				p.addf(r.Pos, res, "spec.api["+itoa(i)+"].protocol", `wants "http" or "grpc", not %q`, r.Protocol)
			}
			if r.Name == "" {
				p.addf(r.Pos, res, "spec.api["+itoa(i)+"].name", `is required, for instance "state"`)
			}
		}
	}
}

func (c *Configuration) checkTracing(p *problems, res string, t *Tracing) {
	if rate, err := strconv.ParseFloat(t.SamplingRate, 64); t.SamplingRate != "" && (err != nil || rate < 0 || rate > 1) {
		p.addf(t.Pos, res, "spec.tracing.samplingRate", `wants a number from "0" to "1", not %q`, t.SamplingRate)
	}
	c.checkOtel(p, "spec.tracing.otel", t.Otel, true)
	if z := t.Zipkin; z != nil {
		if problem := baseURLProblem(z.EndpointAddress); problem != "" {
			p.addf(t.Pos, res, "spec.tracing.zipkin.endpointAddress", "%s", problem)
		}
	}
}

func (c *Configuration) checkAccess(p *problems, res string, a *AccessControl) {
	checkAction(p, a.Pos, res, "spec.accessControl.defaultAction", a.DefaultAction)
	for i, pol := range a.Policies {
		at := "spec.accessControl.policies[" + itoa(i) + "]"
		if pol.AppID == "" {
			p.addf(pol.Pos, res, at+".appId", "is required")
		}
		checkAction(p, pol.Pos, res, at+".defaultAction", pol.DefaultAction)
		for j, op := range pol.Operations {
			at := at + ".operations[" + itoa(j) + "]"
			if !strings.HasPrefix(op.Name, "/") {
				p.addf(op.Pos, res, at+".name", `wants a path that starts with "/", not %q`, op.Name)
			}
			checkAction(p, op.Pos, res, at+".action", op.Action)
		}
	}
}

func checkAction(p *problems, pos component.Position, res, field, action string) {
	switch action {
	case "", "allow", "deny":
	default:
		p.addf(pos, res, field, `wants "allow" or "deny", not %q`, action)
	}
}

// merge takes over what other sets.
func (c *Configuration) merge(other Configuration) {
	if c.Metadata.Name == "" {
		*c = other
		return
	}
	for name, digest := range other.sections {
		if name == "features" { // which are merged one by one
			digest = c.sections[name] + digest
		}
		c.sections[name] = digest
	}
	a, b := &c.Spec, &other.Spec
	take(&a.Tracing, b.Tracing)
	take(&a.Metric, b.Metric)
	take(&a.Metrics, b.Metrics)
	take(&a.HTTPPipeline, b.HTTPPipeline)
	take(&a.AppHTTPPipeline, b.AppHTTPPipeline)
	take(&a.MTLS, b.MTLS)
	take(&a.Secrets, b.Secrets)
	take(&a.AccessControl, b.AccessControl)
	take(&a.API, b.API)
	take(&a.Components, b.Components)
	take(&a.NameResolution, b.NameResolution)
	take(&a.Logging, b.Logging)
	take(&a.Wasm, b.Wasm)
	take(&a.Workflow, b.Workflow)
	take(&a.Connect, b.Connect)
	for _, f := range b.Features {
		i := slices.IndexFunc(a.Features, func(x Feature) bool { return x.Name == f.Name })
		if i < 0 {
			a.Features = append(a.Features, f)
		} else {
			a.Features[i] = f
		}
	}
}

func take[T any](dst **T, src *T) {
	if src != nil {
		*dst = src
	}
}
