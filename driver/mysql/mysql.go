// Package mysql keeps the promises of the building blocks on MySQL and MariaDB.
//
// It is written for both, and tested on MariaDB.
package mysql

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"database/sql"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/proa-io/proa/block/binding"
	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/component"
)

// Specs lists what this package offers to the building blocks.
func Specs() []component.Spec {
	return []component.Spec{
		binding.OutputSpec(component.Description{
			Name:    "mysql",
			Summary: "Carries out statements of SQL on MySQL or MariaDB. Tested on MariaDB.",
		}, bindingDefaults(), OpenBinding),
		state.Spec(component.Description{
			Name:    "mysql",
			Summary: "Keeps items in a table of MySQL or MariaDB, in the format that Dapr's component of the same name reads and writes. Tested on MariaDB.",
		}, stateDefaults(), OpenState),
	}
}

// PEM says how to verify the server.
type PEM struct {
	// PEMPath is the path of the certificates (PEM) that the server is verified
	// with. The connection string then ends with "tls=custom".
	PEMPath string `setting:"pemPath"`
	// PEMContents are such certificates themselves, in place of pemPath.
	PEMContents string `setting:"pemContents"`
}

// defaultDialTimeout bounds connecting, unless the connection string does.
const defaultDialTimeout = 5 * time.Second

// parse reads a connection string, the setting of the given name.
func (p PEM) parse(setting, text string) (*mysql.Config, error) {
	dsn, custom := withoutCustomTLS(text)
	cfg, err := mysql.ParseDSN(dsn)
	if err != nil {
		return nil, component.Invalid(setting, `is not of the form "user:password@tcp(host:3306)/?name=value"; the names are those of github.com/go-sql-driver/mysql`)
	}
	cfg.Logger = &mysql.NopLogger{} // what it says is in the errors
	if cfg.Timeout == 0 {
		cfg.Timeout = defaultDialTimeout
	}
	roots, err := p.roots()
	switch {
	case err != nil:
		return nil, err
	case custom && roots == nil:
		return nil, component.Invalid(setting, "has tls=custom, which wants pemPath or pemContents")
	case roots != nil && (custom || cfg.TLSConfig == ""):
		cfg.TLS = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	}
	return cfg, nil
}

// withoutCustomTLS takes a parameter out that means something only to those who
// have registered it with the client library, for all of a process.
func withoutCustomTLS(dsn string) (rest string, found bool) {
	i := strings.LastIndexByte(dsn, '?')
	if i < 0 {
		return dsn, false
	}
	params := strings.Split(dsn[i+1:], "&")
	kept := slices.DeleteFunc(slices.Clone(params), func(p string) bool { return strings.EqualFold(p, "tls=custom") })
	if len(kept) == len(params) {
		return dsn, false
	}
	return dsn[:i+1] + strings.Join(kept, "&"), true
}

// roots returns the certificates to verify the server with, or nil.
func (p PEM) roots() (*x509.CertPool, error) {
	text, setting := []byte(p.PEMContents), "pemContents"
	if p.PEMPath != "" {
		var err error
		setting = "pemPath"
		if text, err = os.ReadFile(p.PEMPath); err != nil {
			return nil, component.Invalid(setting, "cannot be read: %v", err)
		}
	}
	if len(text) == 0 {
		return nil, nil
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(text) {
		return nil, component.Invalid(setting, "holds no certificate in PEM")
	}
	return roots, nil
}

// checkName refuses what is no name of a table or a database.
func checkName(setting, name string) error {
	if ok, err := regexp.MatchString(`^[A-Za-z0-9_]{1,64}$`, name); err != nil || !ok {
		return component.Invalid(setting, "wants a name of letters, digits and underscores")
	}
	return nil
}

// connect opens a pool and makes sure that the server answers.
func connect(ctx context.Context, cfg *mysql.Config) (*sql.DB, error) {
	connector, err := mysql.NewConnector(cfg)
	if err != nil {
		return nil, classify(ctx, err)
	}
	db := sql.OpenDB(connector)
	if err := db.PingContext(ctx); err != nil {
		_ = db.Close()
		return nil, classify(ctx, err)
	}
	return db, nil
}
