// Package postgres keeps the promises of the building blocks on PostgreSQL and
// on databases that speak its protocol: CockroachDB, YugabyteDB.
package postgres

import (
	"github.com/proa-io/proa/block/binding"
	"github.com/proa-io/proa/block/config"
	"github.com/proa-io/proa/block/lock"
	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/component"
)

// Specs lists what this package offers to the building blocks.
func Specs() []component.Spec {
	return []component.Spec{
		state.Spec(component.Description{
			Name: "postgresql", Aliases: []string{"postgres"},
			Summary: "Keeps items in a table of PostgreSQL, JSON in a column of type jsonb, in the format that version 1 of Dapr's component reads and writes. The first query adds functions beside the table, the first watch triggers to it.",
		}, stateV1Defaults(), OpenStateV1),
		state.Spec(component.Description{
			Name: "postgresql", Aliases: []string{"postgres"}, Version: "v2",
			Summary: "Keeps items in a table of PostgreSQL, byte for byte, in the format that version 2 of Dapr's component reads and writes. The first query adds functions beside the table, the first watch triggers to it.",
		}, stateV2Defaults(), OpenStateV2),
		state.Spec(component.Description{
			Name:    "cockroachdb",
			Summary: "Keeps items in a table of CockroachDB, in the format that Dapr's component of the same name reads and writes. Tested on PostgreSQL only.",
		}, stateV1Defaults(), OpenCockroachDB),
		state.Spec(component.Description{
			Name: "yugabytedb", Aliases: []string{"yugabyte"},
			Summary: "Keeps items in a table of YugabyteDB, in the format of state.postgresql in version 2. Tested on PostgreSQL only.",
		}, stateV2Defaults(), OpenYugabyteDB),
		config.Spec(component.Description{
			Name: "postgresql", Aliases: []string{"postgres"},
			Summary: "Keeps configuration items in a table of PostgreSQL, in the format that Dapr's component of the same name reads. The first subscription without a pgNotifyChannel adds triggers to the table.",
		}, configDefaults(), OpenConfig),
		binding.OutputSpec(component.Description{
			Name: "postgresql", Aliases: []string{"postgres"},
			Summary: "Carries out statements of SQL on PostgreSQL.",
		}, defaults(), OpenBinding),
		lock.Spec(component.Description{
			Name: "postgresql", Aliases: []string{"postgres"},
			Summary: "Keeps locks in a table of PostgreSQL, by the clock of the database.",
		}, lockDefaults(), OpenLock),
	}
}
