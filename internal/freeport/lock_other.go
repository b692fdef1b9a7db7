//go:build !unix

package freeport

// reserve reserves nothing here.
func reserve(int) (release func(), ok bool) { return func() {}, true }
