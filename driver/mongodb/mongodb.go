// Package mongodb keeps the promises of the state building block on MongoDB, in
// the documents that Dapr's component of the same name reads and writes.
//
// It is tested on MongoDB Java Server, which speaks the protocol of MongoDB 5.0
// as a single server does; there is no real MongoDB among the test servers. What
// the stand-in does not have has been tried nowhere: transactions and the locks
// that they take, going on with a watch after a revision, removal by the TTL
// index, user names and passwords, replica sets and what happens when they elect
// another primary, read and write concerns, and connecting by DNS (server).
package mongodb

import (
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"go.mongodb.org/mongo-driver/v2/mongo/readconcern"
	"go.mongodb.org/mongo-driver/v2/mongo/writeconcern"

	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/component"
)

// Specs lists what this package offers to the building blocks.
func Specs() []component.Spec {
	return []component.Spec{
		state.Spec(component.Description{
			Name: "mongodb",
			Summary: "Keeps items in a collection of MongoDB, in the format that Dapr's component of the same name reads and writes. " +
				"Transactions and watches want a replica set, or a sharded cluster. " +
				"Tested on MongoDB Java Server, a stand-in, not on a real MongoDB; not tried at all: transactions, credentials, replica sets, read and write concerns.",
		}, stateDefaults(), OpenState),
	}
}

// StateConfig configures a state store on MongoDB.
type StateConfig struct {
	// Host names the server, or several of them with commas between:
	// "mongo.example.com:27017". One of host, server and connectionString is
	// required.
	Host string `setting:"host"`
	// Server is a name whose SRV records in the DNS name the servers:
	// "cluster.example.com".
	Server string `setting:"server"`
	// Username is whom to connect as, with host or server.
	Username string `setting:"username"`
	// Password belongs to username. It is taken as it is, or with what is
	// special in URLs written as %40 and the like.
	Password component.Secret `setting:"password"`
	// Params are the options of the connection: "?authSource=admin&tls=true".
	// The names are those of MongoDB's connection strings.
	Params string `setting:"params"`
	// ConnectionString says all of the above at once:
	// "mongodb://user:password@host:27017/?replicaSet=rs0".
	ConnectionString component.Secret `setting:"connectionString"`
	// DatabaseName is the database.
	DatabaseName string `setting:"databaseName"`
	// CollectionName is the collection of the items. It is created if it is not
	// there.
	CollectionName string `setting:"collectionName"`
	// WriteConcern is how many servers of a replica set must have a write before
	// it counts, "majority" or a number. By default the servers decide.
	WriteConcern string `setting:"writeConcern"`
	// ReadConcern is how settled what is read must be: "local", "available",
	// "majority", "linearizable" or "snapshot". By default the servers decide.
	ReadConcern string `setting:"readConcern"`
	// OperationTimeout bounds each call of the database.
	OperationTimeout component.Duration `setting:"operationTimeout"`
}

func stateDefaults() StateConfig {
	return StateConfig{DatabaseName: "daprStore", CollectionName: "daprCollection", OperationTimeout: component.Duration(5 * time.Second)}
}

// Validate reports settings that can never work.
func (c StateConfig) Validate() error {
	switch {
	case c.ConnectionString.IsSet():
	case c.Host == "" && c.Server == "":
		return component.Invalid("host", "is required, or server or connectionString in its place")
	case c.Host != "" && c.Server != "":
		return component.Invalid("server", "stands in place of host: set one of them")
	}
	if c.DatabaseName == "" || strings.ContainsAny(c.DatabaseName, "/\\. \"$\x00") {
		return component.Invalid("databaseName", `wants a name without any of / \ . " $ and spaces`)
	}
	if c.CollectionName == "" || strings.ContainsAny(c.CollectionName, "$\x00") || strings.HasPrefix(c.CollectionName, "system.") {
		return component.Invalid("collectionName", `wants a name without $ that does not begin with "system."`)
	}
	if c.OperationTimeout.Std() <= 0 {
		return component.Invalid("operationTimeout", "must be longer than 0")
	}
	if n, err := strconv.Atoi(c.WriteConcern); c.WriteConcern != "" && c.WriteConcern != "majority" && (err != nil || n < 1) {
		return component.Invalid("writeConcern", `wants "majority" or a number from 1`)
	}
	levels := []string{"", "local", "available", "majority", "linearizable", "snapshot"}
	if !slices.Contains(levels, c.ReadConcern) {
		return component.Invalid("readConcern", "wants one of %s", strings.Join(levels[1:], ", "))
	}
	// An error of the client library may quote the password.
	if options.Client().ApplyURI(c.uri()).Validate() == nil || c.Server != "" && !c.ConnectionString.IsSet() || c.resolves() {
		return nil
	}
	if c.ConnectionString.IsSet() {
		return component.Invalid("connectionString", `is not of the form "mongodb://user:password@host:27017/?name=value", or has an option that MongoDB's connection strings do not have`)
	}
	return component.Invalid("host", `is not of the form "host:27017", or params are not of the form "?name=value"`)
}

// resolves reports whether the connection string is for the DNS, which is not
// asked before the store is opened.
func (c StateConfig) resolves() bool {
	return strings.HasPrefix(c.ConnectionString.Reveal(), "mongodb+srv://")
}

// uri returns the connection string.
func (c StateConfig) uri() string {
	if c.ConnectionString.IsSet() {
		return c.ConnectionString.Reveal()
	}
	u := url.URL{Scheme: "mongodb", Host: c.Host, Path: "/" + c.DatabaseName}
	if c.Server != "" {
		u.Scheme, u.Host = "mongodb+srv", c.Server
		if c.Username == "" {
			u.Path = "/"
		}
	}
	u.RawQuery = strings.TrimPrefix(c.Params, "?")
	if c.Username != "" {
		u.User = url.UserPassword(unescaped(c.Username), unescaped(c.Password.Reveal()))
	}
	return u.String()
}

// unescaped returns a text that may be written as it is in a URL, as Dapr wants
// it to be.
func unescaped(text string) string {
	if plain, err := url.PathUnescape(text); err == nil {
		return plain
	}
	return text
}

// client returns the options of the client library.
func (c StateConfig) client() *options.ClientOptions {
	o := options.Client().ApplyURI(c.uri())
	if o.AppName == nil {
		o.SetAppName("proa")
	}
	return o
}

// collection returns the options of the collection.
func (c StateConfig) collection() *options.CollectionOptionsBuilder {
	o := options.Collection()
	if c.ReadConcern != "" {
		o.SetReadConcern(&readconcern.ReadConcern{Level: c.ReadConcern})
	}
	if c.WriteConcern == "" {
		return o
	}
	durable := true
	concern := &writeconcern.WriteConcern{W: c.WriteConcern, Journal: &durable}
	if n, err := strconv.Atoi(c.WriteConcern); err == nil {
		concern.W = n
	}
	return o.SetWriteConcern(concern)
}
