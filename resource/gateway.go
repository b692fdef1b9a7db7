package resource

import (
	"errors"
	"regexp"
	"time"

	"github.com/proa-io/proa/component"
)

// The kinds of gateway.networking.k8s.io, as version 1.6 of the Gateway API has
// them. The fields have the names and the meaning they have there; the rule tags
// say what its schemas check of a single field (see rules).

// groupGateway is the API group of the Gateway API.
const groupGateway = "gateway.networking.k8s.io"

// GatewayDuration is a duration as the Gateway API writes it: up to four numbers
// with the units h, m, s and ms, such as "1h30m" or "500ms". "0s" means that there
// is no bound.
type GatewayDuration time.Duration

var gatewayDuration = regexp.MustCompile(`^([0-9]{1,5}(h|m|s|ms)){1,4}$`)

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *GatewayDuration) UnmarshalText(text []byte) error {
	if !gatewayDuration.Match(text) {
		return errors.New(`wants a duration such as "10s", "500ms" or "1h30m"`)
	}
	v, err := time.ParseDuration(string(text))
	*d = GatewayDuration(v)
	return err
}

// Std returns d as a time.Duration.
func (d *GatewayDuration) Std() time.Duration {
	if d == nil {
		return 0
	}
	return time.Duration(*d)
}

// ParentReference names what a route is attached to: a Gateway, or a Service,
// which is an application.
type ParentReference struct {
	Group       *string            `yaml:"group" rule:"max=253,is=group"`
	Kind        string             `yaml:"kind" rule:"default=Gateway,max=63,is=kind"`
	Namespace   string             `yaml:"namespace" rule:"max=63,is=namespace"`
	Name        string             `yaml:"name" rule:"required,max=253"`
	SectionName string             `yaml:"sectionName" rule:"max=253,is=name"`
	Port        int32              `yaml:"port" rule:"from=1,to=65535"`
	Pos         component.Position `yaml:"-"`
}

// BackendReference names where requests go: a Service, which is an application,
// an HTTPEndpoint of dapr.io, or a Hostname of proa.io.
type BackendReference struct {
	Group     string             `yaml:"group" rule:"max=253,is=group"`
	Kind      string             `yaml:"kind" rule:"default=Service,max=63,is=kind"`
	Name      string             `yaml:"name" rule:"required,max=253"`
	Namespace string             `yaml:"namespace" rule:"max=63,is=namespace"`
	Port      int32              `yaml:"port" rule:"from=1,to=65535"`
	Pos       component.Position `yaml:"-"`
}

// WeightedReference is a BackendReference with a share of the connections.
type WeightedReference struct {
	BackendReference `yaml:",inline"`
	Weight           *int32             `yaml:"weight" rule:"from=0,to=1000000"`
	Pos              component.Position `yaml:"-"`
}

// RouteBackend is a WeightedReference with filters for what goes there.
type RouteBackend struct {
	BackendReference `yaml:",inline"`
	Weight           *int32             `yaml:"weight" rule:"from=0,to=1000000"`
	Filters          []Filter           `yaml:"filters" rule:"maxitems=16"`
	Pos              component.Position `yaml:"-"`
}

// ObjectReference names a resource of the same namespace.
type ObjectReference struct {
	Group string             `yaml:"group" rule:"max=253,is=group"`
	Kind  string             `yaml:"kind" rule:"required,max=63,is=kind"`
	Name  string             `yaml:"name" rule:"required,max=253"`
	Pos   component.Position `yaml:"-"`
}

// HTTPRoute says where HTTP requests go.
type HTTPRoute struct {
	header `yaml:",inline"`
	Spec   HTTPRouteSpec `yaml:"spec"`
}

// HTTPRouteSpec is the spec of an HTTPRoute.
type HTTPRouteSpec struct {
	ParentRefs         []ParentReference  `yaml:"parentRefs" rule:"maxitems=32"`
	UseDefaultGateways string             `yaml:"useDefaultGateways" rule:"enum=All;None"`
	Hostnames          []string           `yaml:"hostnames" rule:"maxitems=16,min=1,max=253,is=hostname"`
	Rules              []HTTPRouteRule    `yaml:"rules" rule:"maxitems=16"`
	Pos                component.Position `yaml:"-"`
}

// HTTPRouteRule says what happens to the requests that any of its matches is true
// of.
type HTTPRouteRule struct {
	Name               string              `yaml:"name" rule:"max=253,is=name"`
	Matches            []HTTPRouteMatch    `yaml:"matches" rule:"maxitems=64"`
	Filters            []Filter            `yaml:"filters" rule:"maxitems=16"`
	BackendRefs        []RouteBackend      `yaml:"backendRefs" rule:"maxitems=16"`
	Timeouts           *RouteTimeouts      `yaml:"timeouts"`
	Retry              *RouteRetry         `yaml:"retry"`
	SessionPersistence *SessionPersistence `yaml:"sessionPersistence"`
	Pos                component.Position  `yaml:"-"`
}

// RouteTimeouts bound a request, and each try at a backend.
type RouteTimeouts struct {
	Request        *GatewayDuration   `yaml:"request"`
	BackendRequest *GatewayDuration   `yaml:"backendRequest"`
	Pos            component.Position `yaml:"-"`
}

// RouteRetry says when a request is sent again.
type RouteRetry struct {
	Codes    []int              `yaml:"codes" rule:"from=400,to=599"`
	Attempts *int               `yaml:"attempts" rule:"from=1"`
	Backoff  *GatewayDuration   `yaml:"backoff"`
	Pos      component.Position `yaml:"-"`
}

// SessionPersistence keeps the requests of a session at one backend.
type SessionPersistence struct {
	SessionName     string             `yaml:"sessionName" rule:"max=128"`
	AbsoluteTimeout *GatewayDuration   `yaml:"absoluteTimeout"`
	IdleTimeout     *GatewayDuration   `yaml:"idleTimeout"`
	Type            string             `yaml:"type" rule:"default=Cookie,enum=Cookie;Header"`
	CookieConfig    *CookieConfig      `yaml:"cookieConfig"`
	Pos             component.Position `yaml:"-"`
}

// CookieConfig says how long the cookie of a session lasts.
type CookieConfig struct {
	LifetimeType string             `yaml:"lifetimeType" rule:"default=Session,enum=Permanent;Session"`
	Pos          component.Position `yaml:"-"`
}

// HTTPRouteMatch is true of a request when all that it names is.
type HTTPRouteMatch struct {
	Path        *PathMatch         `yaml:"path"`
	Headers     []ValueMatch       `yaml:"headers" rule:"maxitems=16"`
	QueryParams []ValueMatch       `yaml:"queryParams" rule:"maxitems=16"`
	Method      string             `yaml:"method" rule:"enum=GET;HEAD;POST;PUT;DELETE;CONNECT;OPTIONS;TRACE;PATCH"`
	Pos         component.Position `yaml:"-"`
}

// PathMatch is a match on the path of a request.
type PathMatch struct {
	Type  string             `yaml:"type" rule:"default=PathPrefix,enum=Exact;PathPrefix;RegularExpression"`
	Value *string            `yaml:"value" rule:"max=1024"`
	Pos   component.Position `yaml:"-"`
}

// ValueMatch is a match on a header field or a query parameter.
type ValueMatch struct {
	Type  string             `yaml:"type" rule:"default=Exact,enum=Exact;RegularExpression"`
	Name  string             `yaml:"name" rule:"required,max=256,is=header"`
	Value string             `yaml:"value" rule:"required,max=4096"`
	Pos   component.Position `yaml:"-"`
}

// Filter changes a request or its answer. Which of its parts counts, Type says.
type Filter struct {
	Type                   string             `yaml:"type" rule:"required"`
	RequestHeaderModifier  *HeaderModifier    `yaml:"requestHeaderModifier"`
	ResponseHeaderModifier *HeaderModifier    `yaml:"responseHeaderModifier"`
	RequestMirror          *RequestMirror     `yaml:"requestMirror"`
	RequestRedirect        *RequestRedirect   `yaml:"requestRedirect"`
	URLRewrite             *URLRewrite        `yaml:"urlRewrite"`
	CORS                   *CORS              `yaml:"cors"`
	ExternalAuth           *Value             `yaml:"externalAuth"`
	ExtensionRef           *ObjectReference   `yaml:"extensionRef"`
	Pos                    component.Position `yaml:"-"`
}

// HeaderModifier changes header fields.
type HeaderModifier struct {
	Set    []HeaderField      `yaml:"set" rule:"maxitems=16"`
	Add    []HeaderField      `yaml:"add" rule:"maxitems=16"`
	Remove []string           `yaml:"remove" rule:"maxitems=16,min=1,max=256,is=header"`
	Pos    component.Position `yaml:"-"`
}

// HeaderField is a header field to set or add.
type HeaderField struct {
	Name  string             `yaml:"name" rule:"required,max=256,is=header"`
	Value string             `yaml:"value" rule:"required,max=4096"`
	Pos   component.Position `yaml:"-"`
}

// RequestMirror sends copies of requests to another backend.
type RequestMirror struct {
	BackendRef BackendReference   `yaml:"backendRef"`
	Percent    *int32             `yaml:"percent" rule:"from=0,to=100"`
	Fraction   *Fraction          `yaml:"fraction"`
	Pos        component.Position `yaml:"-"`
}

// Fraction is a share, such as 1 of 1000.
type Fraction struct {
	Numerator   int32              `yaml:"numerator" rule:"from=0"`
	Denominator *int32             `yaml:"denominator" rule:"from=1"`
	Pos         component.Position `yaml:"-"`
}

// RequestRedirect answers requests with another place to ask at.
type RequestRedirect struct {
	Scheme     string             `yaml:"scheme" rule:"enum=http;https"`
	Hostname   string             `yaml:"hostname" rule:"max=253,is=precise"`
	Path       *PathModifier      `yaml:"path"`
	Port       int32              `yaml:"port" rule:"from=1,to=65535"`
	StatusCode int                `yaml:"statusCode" rule:"enum=301;302;303;307;308"`
	Pos        component.Position `yaml:"-"`
}

// PathModifier changes a path.
type PathModifier struct {
	Type               string             `yaml:"type" rule:"required,enum=ReplaceFullPath;ReplacePrefixMatch"`
	ReplaceFullPath    *string            `yaml:"replaceFullPath" rule:"max=1024"`
	ReplacePrefixMatch *string            `yaml:"replacePrefixMatch" rule:"max=1024"`
	Pos                component.Position `yaml:"-"`
}

// URLRewrite changes what a backend is asked for.
type URLRewrite struct {
	Hostname string             `yaml:"hostname" rule:"max=253,is=precise"`
	Path     *PathModifier      `yaml:"path"`
	Pos      component.Position `yaml:"-"`
}

// CORS lets web pages of other origins ask.
type CORS struct {
	AllowOrigins     []string           `yaml:"allowOrigins" rule:"maxitems=64,min=1,max=253,is=origin"`
	AllowCredentials bool               `yaml:"allowCredentials"`
	AllowMethods     []string           `yaml:"allowMethods" rule:"maxitems=9,enum=GET;HEAD;POST;PUT;DELETE;CONNECT;OPTIONS;TRACE;PATCH;*"`
	AllowHeaders     []string           `yaml:"allowHeaders" rule:"maxitems=64,min=1,max=256,is=header"`
	ExposeHeaders    []string           `yaml:"exposeHeaders" rule:"maxitems=64,min=1,max=256,is=header"`
	MaxAge           *int32             `yaml:"maxAge" rule:"from=1"`
	Pos              component.Position `yaml:"-"`
}

// GRPCRoute says where gRPC calls go.
type GRPCRoute struct {
	header `yaml:",inline"`
	Spec   GRPCRouteSpec `yaml:"spec"`
}

// GRPCRouteSpec is the spec of a GRPCRoute.
type GRPCRouteSpec struct {
	ParentRefs         []ParentReference  `yaml:"parentRefs" rule:"maxitems=32"`
	UseDefaultGateways string             `yaml:"useDefaultGateways" rule:"enum=All;None"`
	Hostnames          []string           `yaml:"hostnames" rule:"maxitems=16,min=1,max=253,is=hostname"`
	Rules              []GRPCRouteRule    `yaml:"rules" rule:"maxitems=16"`
	Pos                component.Position `yaml:"-"`
}

// GRPCRouteRule says what happens to the calls that any of its matches is true of.
type GRPCRouteRule struct {
	Name               string              `yaml:"name" rule:"max=253,is=name"`
	Matches            []GRPCRouteMatch    `yaml:"matches" rule:"maxitems=64"`
	Filters            []Filter            `yaml:"filters" rule:"maxitems=16"`
	BackendRefs        []RouteBackend      `yaml:"backendRefs" rule:"maxitems=16"`
	SessionPersistence *SessionPersistence `yaml:"sessionPersistence"`
	Pos                component.Position  `yaml:"-"`
}

// GRPCRouteMatch is true of a call when all that it names is.
type GRPCRouteMatch struct {
	Method  *GRPCMethodMatch   `yaml:"method"`
	Headers []ValueMatch       `yaml:"headers" rule:"maxitems=16"`
	Pos     component.Position `yaml:"-"`
}

// GRPCMethodMatch is a match on the service and the method of a call.
type GRPCMethodMatch struct {
	Type    string             `yaml:"type" rule:"default=Exact,enum=Exact;RegularExpression"`
	Service string             `yaml:"service" rule:"max=1024"`
	Method  string             `yaml:"method" rule:"max=1024"`
	Pos     component.Position `yaml:"-"`
}

// TCPRoute says where connections go.
type TCPRoute struct {
	header `yaml:",inline"`
	Spec   TCPRouteSpec `yaml:"spec"`
}

// TCPRouteSpec is the spec of a TCPRoute.
type TCPRouteSpec struct {
	ParentRefs         []ParentReference  `yaml:"parentRefs" rule:"maxitems=32"`
	UseDefaultGateways string             `yaml:"useDefaultGateways" rule:"enum=All;None"`
	Rules              []ConnectionRule   `yaml:"rules" rule:"minitems=1,maxitems=1"`
	Pos                component.Position `yaml:"-"`
}

// ConnectionRule is the rule of a TCPRoute or a TLSRoute.
type ConnectionRule struct {
	Name        string              `yaml:"name" rule:"max=253,is=name"`
	BackendRefs []WeightedReference `yaml:"backendRefs" rule:"minitems=1,maxitems=16"`
	Pos         component.Position  `yaml:"-"`
}

// TLSRoute says where TLS connections go, by the name that they ask for.
type TLSRoute struct {
	header `yaml:",inline"`
	Spec   TLSRouteSpec `yaml:"spec"`
}

// TLSRouteSpec is the spec of a TLSRoute.
type TLSRouteSpec struct {
	ParentRefs         []ParentReference  `yaml:"parentRefs" rule:"maxitems=32"`
	UseDefaultGateways string             `yaml:"useDefaultGateways" rule:"enum=All;None"`
	Hostnames          []string           `yaml:"hostnames" rule:"minitems=1,maxitems=1024,min=1,max=253,is=hostname"`
	Rules              []ConnectionRule   `yaml:"rules" rule:"minitems=1,maxitems=1"`
	Pos                component.Position `yaml:"-"`
}

// ReferenceGrant allows resources of other namespaces to refer to some of its own.
type ReferenceGrant struct {
	header `yaml:",inline"`
	Spec   ReferenceGrantSpec `yaml:"spec"`
}

// ReferenceGrantSpec is the spec of a ReferenceGrant.
type ReferenceGrantSpec struct {
	From []GrantFrom        `yaml:"from" rule:"minitems=1,maxitems=16"`
	To   []GrantTo          `yaml:"to" rule:"minitems=1,maxitems=16"`
	Pos  component.Position `yaml:"-"`
}

// GrantFrom names who may refer.
type GrantFrom struct {
	Group     string             `yaml:"group" rule:"max=253,is=group"`
	Kind      string             `yaml:"kind" rule:"required,max=63,is=kind"`
	Namespace string             `yaml:"namespace" rule:"required,max=63,is=namespace"`
	Pos       component.Position `yaml:"-"`
}

// GrantTo names what may be referred to; without a name all of the kind.
type GrantTo struct {
	Group string             `yaml:"group" rule:"max=253,is=group"`
	Kind  string             `yaml:"kind" rule:"required,max=63,is=kind"`
	Name  string             `yaml:"name" rule:"max=253"`
	Pos   component.Position `yaml:"-"`
}
