package resource

import "github.com/proa-io/proa/component"

// Gateway says where a gateway listens.
type Gateway struct {
	header `yaml:",inline"`
	Spec   GatewaySpec `yaml:"spec"`
}

// GatewaySpec is the spec of a Gateway.
type GatewaySpec struct {
	GatewayClassName string                 `yaml:"gatewayClassName" rule:"required,max=253"`
	Listeners        []Listener             `yaml:"listeners" rule:"minitems=1,maxitems=64"`
	Addresses        []GatewayAddress       `yaml:"addresses" rule:"maxitems=16"`
	Infrastructure   *GatewayInfrastructure `yaml:"infrastructure"`
	AllowedListeners *AllowedListeners      `yaml:"allowedListeners"`
	TLS              *GatewayTLS            `yaml:"tls"`
	DefaultScope     string                 `yaml:"defaultScope" rule:"enum=All;None"`
	Pos              component.Position     `yaml:"-"`
}

// Listener is a port of a gateway, with the protocol that is spoken there and the
// host names that it is for.
type Listener struct {
	Name          string             `yaml:"name" rule:"required,max=253,is=name"`
	Hostname      string             `yaml:"hostname" rule:"max=253,is=hostname"`
	Port          int32              `yaml:"port" rule:"required,from=1,to=65535"`
	Protocol      string             `yaml:"protocol" rule:"required,max=255,is=protocol"`
	TLS           *ListenerTLS       `yaml:"tls"`
	AllowedRoutes *AllowedRoutes     `yaml:"allowedRoutes"`
	Pos           component.Position `yaml:"-"`
}

// ListenerTLS says how a listener speaks TLS.
type ListenerTLS struct {
	Mode            string             `yaml:"mode" rule:"enum=Terminate;Passthrough"`
	CertificateRefs []SecretReference  `yaml:"certificateRefs" rule:"maxitems=64"`
	Options         map[string]string  `yaml:"options" rule:"maxitems=16"`
	Pos             component.Position `yaml:"-"`
}

// SecretReference names a secret.
type SecretReference struct {
	Group     string             `yaml:"group" rule:"max=253,is=group"`
	Kind      string             `yaml:"kind" rule:"default=Secret,max=63,is=kind"`
	Name      string             `yaml:"name" rule:"required,max=253"`
	Namespace string             `yaml:"namespace" rule:"max=63,is=namespace"`
	Pos       component.Position `yaml:"-"`
}

// AllowedRoutes says which routes may attach themselves to a listener.
type AllowedRoutes struct {
	Namespaces *RouteNamespaces   `yaml:"namespaces"`
	Kinds      []RouteKind        `yaml:"kinds" rule:"maxitems=8"`
	Pos        component.Position `yaml:"-"`
}

// RouteNamespaces says of which namespaces routes may be.
type RouteNamespaces struct {
	From     string             `yaml:"from" rule:"default=Same,enum=All;Selector;Same"`
	Selector *LabelSelector     `yaml:"selector"`
	Pos      component.Position `yaml:"-"`
}

// LabelSelector chooses by labels.
type LabelSelector struct {
	MatchLabels      map[string]string  `yaml:"matchLabels"`
	MatchExpressions []LabelExpression  `yaml:"matchExpressions"`
	Pos              component.Position `yaml:"-"`
}

// LabelExpression is a condition on a label.
type LabelExpression struct {
	Key      string             `yaml:"key" rule:"required"`
	Operator string             `yaml:"operator" rule:"required,enum=In;NotIn;Exists;DoesNotExist"`
	Values   []string           `yaml:"values"`
	Pos      component.Position `yaml:"-"`
}

// RouteKind is a kind of routes.
type RouteKind struct {
	Group *string            `yaml:"group" rule:"max=253,is=group"`
	Kind  string             `yaml:"kind" rule:"required,max=63,is=kind"`
	Pos   component.Position `yaml:"-"`
}

// GatewayAddress is an address that a gateway asks for.
type GatewayAddress struct {
	Type  string             `yaml:"type" rule:"default=IPAddress,max=253"`
	Value string             `yaml:"value" rule:"max=253"`
	Pos   component.Position `yaml:"-"`
}

// GatewayInfrastructure is for who runs gateways as workloads of their own.
type GatewayInfrastructure struct {
	Labels        map[string]string  `yaml:"labels" rule:"maxitems=8"`
	Annotations   map[string]string  `yaml:"annotations" rule:"maxitems=16"`
	ParametersRef *ObjectReference   `yaml:"parametersRef"`
	Pos           component.Position `yaml:"-"`
}

// AllowedListeners says which ListenerSets may attach themselves to a Gateway.
type AllowedListeners struct {
	Namespaces *ListenerNamespaces `yaml:"namespaces"`
	Pos        component.Position  `yaml:"-"`
}

// ListenerNamespaces says of which namespaces ListenerSets may be.
type ListenerNamespaces struct {
	From     string             `yaml:"from" rule:"default=None,enum=All;Selector;Same;None"`
	Selector *LabelSelector     `yaml:"selector"`
	Pos      component.Position `yaml:"-"`
}

// GatewayTLS says how a gateway proves itself to backends, and how clients prove
// themselves to it.
type GatewayTLS struct {
	Backend  *GatewayBackendTLS `yaml:"backend"`
	Frontend *FrontendTLS       `yaml:"frontend"`
	Pos      component.Position `yaml:"-"`
}

// GatewayBackendTLS names the certificate that backends are shown.
type GatewayBackendTLS struct {
	ClientCertificateRef *SecretReference   `yaml:"clientCertificateRef"`
	Pos                  component.Position `yaml:"-"`
}

// FrontendTLS says how clients prove themselves.
type FrontendTLS struct {
	Default ClientTLSCheck     `yaml:"default"`
	PerPort []PortTLS          `yaml:"perPort" rule:"maxitems=64"`
	Pos     component.Position `yaml:"-"`
}

// PortTLS is a ClientTLSCheck for one port.
type PortTLS struct {
	Port int32              `yaml:"port" rule:"required,from=1,to=65535"`
	TLS  ClientTLSCheck     `yaml:"tls"`
	Pos  component.Position `yaml:"-"`
}

// ClientTLSCheck says whether and how certificates of clients are checked.
type ClientTLSCheck struct {
	Validation *FrontendValidation `yaml:"validation"`
	Pos        component.Position  `yaml:"-"`
}

// FrontendValidation says how certificates of clients are checked.
type FrontendValidation struct {
	CACertificateRefs []SecretReference  `yaml:"caCertificateRefs" rule:"minitems=1,maxitems=16"`
	Mode              string             `yaml:"mode" rule:"default=AllowValidOnly,enum=AllowValidOnly;AllowInsecureFallback"`
	Pos               component.Position `yaml:"-"`
}

// BackendTLSPolicy says that backends are reached over TLS, and how they prove
// themselves.
type BackendTLSPolicy struct {
	header `yaml:",inline"`
	Spec   BackendTLSPolicySpec `yaml:"spec"`
}

// BackendTLSPolicySpec is the spec of a BackendTLSPolicy.
type BackendTLSPolicySpec struct {
	TargetRefs []PolicyTarget     `yaml:"targetRefs" rule:"minitems=1,maxitems=16"`
	Validation BackendValidation  `yaml:"validation"`
	Options    map[string]string  `yaml:"options" rule:"maxitems=16"`
	Pos        component.Position `yaml:"-"`
}

// PolicyTarget is what a policy is for.
type PolicyTarget struct {
	ObjectReference `yaml:",inline"`
	SectionName     string             `yaml:"sectionName" rule:"max=253,is=name"`
	Pos             component.Position `yaml:"-"`
}

// BackendValidation says how a backend proves itself.
type BackendValidation struct {
	CACertificateRefs       []ObjectReference  `yaml:"caCertificateRefs" rule:"maxitems=8"`
	WellKnownCACertificates string             `yaml:"wellKnownCACertificates" rule:"max=253"`
	Hostname                string             `yaml:"hostname" rule:"required,max=253,is=precise"`
	SubjectAltNames         []SubjectAltName   `yaml:"subjectAltNames" rule:"maxitems=5"`
	Pos                     component.Position `yaml:"-"`
}

// SubjectAltName is a name that a certificate must have.
type SubjectAltName struct {
	Type     string             `yaml:"type" rule:"required,enum=Hostname;URI"`
	Hostname string             `yaml:"hostname" rule:"max=253,is=hostname"`
	URI      string             `yaml:"uri" rule:"max=253,is=uri"`
	Pos      component.Position `yaml:"-"`
}

// RouteFilter is a resource of proa.io: what a route can do beyond the Gateway
// API. A filter of type ExtensionRef of a rule, or of one of its backends, names
// it.
type RouteFilter struct {
	header `yaml:",inline"`
	Spec   RouteFilterSpec `yaml:"spec"`
}

// RouteFilterSpec is the spec of a RouteFilter. What is not given does nothing.
type RouteFilterSpec struct {
	// Fault makes some requests late, or fail.
	Fault *FaultInjection `yaml:"fault"`
	// DirectResponse answers requests here and now. It takes the place of
	// backends.
	DirectResponse *DirectResponse `yaml:"directResponse"`
	// MaxRequestSize bounds the content of a request; more is answered with 413,
	// or RESOURCE_EXHAUSTED in gRPC.
	MaxRequestSize component.Size `yaml:"maxRequestSize"`
	// Compression compresses answers for clients that take that.
	Compression *Compression `yaml:"compression"`
	// Timeouts are those of an HTTPRoute, for GRPCRoutes, which have none.
	Timeouts *RouteTimeouts `yaml:"timeouts"`
	// Retry is that of an HTTPRoute with what that lacks.
	Retry *FilterRetry `yaml:"retry"`
	// Hedge sends a request a second time when the answer is late, and takes the
	// answer that is first.
	Hedge *Hedge             `yaml:"hedge"`
	Pos   component.Position `yaml:"-"`
}

// FaultInjection makes some requests late, or fail.
type FaultInjection struct {
	Delay *FaultDelay        `yaml:"delay"`
	Abort *FaultAbort        `yaml:"abort"`
	Pos   component.Position `yaml:"-"`
}

// FaultDelay makes a share of the requests wait.
type FaultDelay struct {
	Duration GatewayDuration    `yaml:"duration" rule:"required"`
	Percent  *float64           `yaml:"percent" rule:"from=0,to=100"`
	Pos      component.Position `yaml:"-"`
}

// FaultAbort answers a share of the requests with a failure.
type FaultAbort struct {
	// HTTPStatus is that of requests that are not gRPC.
	HTTPStatus int `yaml:"httpStatus" rule:"default=503,from=200,to=599"`
	// GRPCStatus is that of gRPC calls: 14, UNAVAILABLE, by default.
	GRPCStatus int                `yaml:"grpcStatus" rule:"default=14,from=0,to=16"`
	Percent    *float64           `yaml:"percent" rule:"from=0,to=100"`
	Pos        component.Position `yaml:"-"`
}

// DirectResponse is an answer.
type DirectResponse struct {
	Status      int                `yaml:"status" rule:"default=200,from=200,to=599"`
	ContentType string             `yaml:"contentType" rule:"default=text/plain; charset=utf-8,max=256"`
	Headers     []HeaderField      `yaml:"headers" rule:"maxitems=16"`
	Body        string             `yaml:"body" rule:"max=65536"`
	Pos         component.Position `yaml:"-"`
}

// Compression says what is compressed, and how.
type Compression struct {
	// Algorithms are those that may be used; of several that a client takes
	// equally well the first.
	Algorithms []string `yaml:"algorithms" rule:"maxitems=3,enum=br;zstd;gzip"`
	// MinSize is the length below which nothing is compressed; 1Ki by default.
	MinSize *component.Size `yaml:"minSize"`
	// ContentTypes are the types of content that are compressed, "text/*" among
	// them; by default text, JSON, XML, JavaScript, WebAssembly and SVG.
	ContentTypes []string           `yaml:"contentTypes" rule:"maxitems=64,min=1,max=128"`
	Pos          component.Position `yaml:"-"`
}

// FilterRetry says when a request is sent again.
type FilterRetry struct {
	Codes     []int            `yaml:"codes" rule:"from=400,to=599"`
	GRPCCodes []int            `yaml:"grpcCodes" rule:"from=1,to=16"`
	Attempts  *int             `yaml:"attempts" rule:"from=1"`
	Backoff   *GatewayDuration `yaml:"backoff"`
	// Budget bounds the requests that are sent again to a share of all.
	Budget *RetryBudget       `yaml:"budget"`
	Pos    component.Position `yaml:"-"`
}

// RetryBudget bounds what is sent a second time.
type RetryBudget struct {
	// Percent of the requests may be sent again; 20 by default.
	Percent *float64 `yaml:"percent" rule:"from=0,to=100"`
	// Reserve is how many may be sent again at once whatever the share; 10 by
	// default.
	Reserve *int               `yaml:"reserve" rule:"from=1,to=100000"`
	Pos     component.Position `yaml:"-"`
}

// Hedge says when a request is sent a second time before there is an answer.
type Hedge struct {
	// Delay is how long an answer may take before.
	Delay GatewayDuration `yaml:"delay" rule:"required"`
	// Budget bounds the requests that are sent twice to a share of all.
	Budget *RetryBudget       `yaml:"budget"`
	Pos    component.Position `yaml:"-"`
}
