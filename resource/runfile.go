package resource

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"

	"github.com/proa-io/proa/component"
	"go.yaml.in/yaml/v3"
)

// RunFile is a multi-app run file: several applications to start together,
// each with its sidecar.
type RunFile struct {
	Version int                `yaml:"version"`
	Common  RunOptions         `yaml:"common"`
	Apps    []RunApp           `yaml:"apps"`
	Pos     component.Position `yaml:"-"`
}

// RunApp is one application of a RunFile.
type RunApp struct {
	RunOptions `yaml:",inline"`
	// AppDirPath is where the application runs; relative to the run file.
	AppDirPath string   `yaml:"appDirPath"`
	AppID      string   `yaml:"appID"`
	Command    []string `yaml:"command"`
}

// RunOptions are settings of one application, or of all.
type RunOptions struct {
	ResourcesPath               string             `yaml:"resourcesPath"`
	ResourcesPaths              []string           `yaml:"resourcesPaths"`
	ConfigFilePath              string             `yaml:"configFilePath"`
	AppPort                     int                `yaml:"appPort"`
	AppProtocol                 string             `yaml:"appProtocol"`
	AppChannelAddress           string             `yaml:"appChannelAddress"`
	AppMaxConcurrency           *int               `yaml:"appMaxConcurrency"`
	AppSSL                      *bool              `yaml:"appSSL"`
	DaprHTTPPort                int                `yaml:"daprHTTPPort"`
	DaprGRPCPort                int                `yaml:"daprGRPCPort"`
	DaprInternalGRPCPort        int                `yaml:"daprInternalGRPCPort"`
	MetricsPort                 int                `yaml:"metricsPort"`
	ProfilePort                 int                `yaml:"profilePort"`
	EnableProfiling             *bool              `yaml:"enableProfiling"`
	LogLevel                    string             `yaml:"logLevel"`
	EnableAPILogging            *bool              `yaml:"enableApiLogging"`
	EnableAppHealthCheck        *bool              `yaml:"enableAppHealthCheck"`
	AppHealthCheckPath          string             `yaml:"appHealthCheckPath"`
	AppHealthProbeInterval      int                `yaml:"appHealthProbeInterval"`
	AppHealthProbeTimeout       int                `yaml:"appHealthProbeTimeout"`
	AppHealthThreshold          int                `yaml:"appHealthThreshold"`
	DaprHTTPMaxRequestSize      Value              `yaml:"daprHTTPMaxRequestSize"`
	DaprMaxBodySize             Value              `yaml:"daprMaxBodySize"`
	DaprHTTPReadBufferSize      Value              `yaml:"daprHTTPReadBufferSize"`
	DaprReadBufferSize          Value              `yaml:"daprReadBufferSize"`
	DaprListenAddresses         string             `yaml:"daprListenAddresses"`
	DaprInternalListenAddresses string             `yaml:"daprInternalListenAddresses"`
	UnixDomainSocket            string             `yaml:"unixDomainSocket"`
	PlacementHostAddress        string             `yaml:"placementHostAddress"`
	SchedulerHostAddress        string             `yaml:"schedulerHostAddress"`
	DaprdInstallPath            string             `yaml:"runtimePath"`
	AppLogDestination           string             `yaml:"appLogDestination"`
	DaprdLogDestination         string             `yaml:"daprdLogDestination"`
	Env                         map[string]string  `yaml:"env"`
	Pos                         component.Position `yaml:"-"`
}

// LoadRunFile reads a multi-app run file. Relative paths in the result are
// resolved against the file's folder, and what an application leaves open is
// filled in from the common part.
func LoadRunFile(path string) (*RunFile, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, &Error{Pos: component.Position{File: path}, Problem: readProblem(err)}
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return nil, syntaxError(path, err)
	}
	if len(doc.Content) == 0 {
		return nil, &Error{Pos: component.Position{File: path}, Problem: "is empty; it wants version: 1 and apps:"}
	}
	var p problems
	rf := &RunFile{}
	d := &decoder{file: path, problems: &p}
	d.value(doc.Content[0], reflect.ValueOf(rf).Elem(), "", 0)
	if len(p.errs) == 0 {
		rf.check(&p)
	}
	if err := p.err(); err != nil {
		return nil, err
	}
	rf.resolve(filepath.Dir(path))
	return rf, nil
}

func (rf *RunFile) check(p *problems) {
	if rf.Version != 1 {
		p.addf(rf.Pos, "", "version", "wants 1, not %d", rf.Version)
	}
	if len(rf.Apps) == 0 {
		p.addf(rf.Pos, "", "apps", "wants at least one application")
	}
	ids := map[string]bool{}
	for i, app := range rf.Apps {
		at := "apps[" + itoa(i) + "]"
		if app.AppDirPath == "" {
			p.addf(app.Pos, "", at+".appDirPath", "is required")
		}
		if id := app.ID(); ids[id] {
			p.addf(app.Pos, "", at+".appID", "%q is taken by another application of this file", id)
		} else {
			ids[id] = true
		}
		switch app.AppProtocol {
		case "", "http", "https", "h2c", "grpc", "grpcs":
		default:
			p.addf(app.Pos, "", at+".appProtocol", "wants http, https, h2c, grpc or grpcs, not %q", app.AppProtocol)
		}
		for field, dest := range map[string]string{"appLogDestination": app.AppLogDestination, "daprdLogDestination": app.DaprdLogDestination} {
			switch dest {
			case "", "console", "file", "fileAndConsole":
			default:
				p.addf(app.Pos, "", at+"."+field, "wants console, file or fileAndConsole, not %q", dest)
			}
		}
	}
}

// ID returns the application's id: appID, or the name of its folder.
func (a *RunApp) ID() string {
	if a.AppID != "" {
		return a.AppID
	}
	return filepath.Base(filepath.Clean(a.AppDirPath))
}

func (rf *RunFile) resolve(dir string) {
	rf.Common.resolve(dir)
	for i := range rf.Apps {
		app := &rf.Apps[i]
		app.AppDirPath = within(dir, app.AppDirPath)
		app.resolve(dir)
		inherit(reflect.ValueOf(&app.RunOptions).Elem(), reflect.ValueOf(rf.Common))
		if len(app.ResourcesPaths) == 0 && app.ResourcesPath == "" {
			// The convention for an application that names no resources.
			own := filepath.Join(app.AppDirPath, ".dapr", "resources")
			if info, err := os.Stat(own); err == nil && info.IsDir() {
				app.ResourcesPaths = []string{own}
			}
		}
		if app.ResourcesPath != "" {
			app.ResourcesPaths = append(app.ResourcesPaths, app.ResourcesPath)
		}
	}
}

func (o *RunOptions) resolve(dir string) {
	o.ResourcesPath = within(dir, o.ResourcesPath)
	o.ConfigFilePath = within(dir, o.ConfigFilePath)
	for i, p := range o.ResourcesPaths {
		o.ResourcesPaths[i] = within(dir, p)
	}
}

// within resolves a path against dir; "~/" is the home folder.
func within(dir, path string) string {
	if rest, ok := strings.CutPrefix(path, "~/"); ok {
		if home, err := os.UserHomeDir(); err == nil {
			return filepath.Join(home, rest)
		}
	}
	if path == "" || filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}

// inherit fills the zero fields of app from common; environments are merged.
func inherit(app, common reflect.Value) {
	for i := range app.NumField() {
		f, c := app.Field(i), common.Field(i)
		name := app.Type().Field(i).Name
		switch {
		case name == "Pos":
		case name == "Env":
			merged := map[string]string{}
			for _, m := range []reflect.Value{c, f} {
				for k, v := range m.Seq2() {
					merged[k.String()] = v.String()
				}
			}
			f.Set(reflect.ValueOf(merged))
		case f.IsZero():
			f.Set(c)
		}
	}
}
