// Package runtime is the composition root: the one place that knows dialects,
// blocks, policies, drivers, the mesh and the engine at once. It builds them
// from a [Config] and the resources that names, runs them in stages, and stops
// them in reverse.
package runtime
