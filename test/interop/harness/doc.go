// Package harness runs applications written with the Dapr SDKs beside the real
// program, each as a process of its own, and reads what they say of themselves.
//
// An application reports with lines of JSON on its standard output, one for each
// thing that it has checked, and a last one when it is through:
//
//	{"check": "state keeps the types of JSON", "error": ""}
//	{"done": 1}
//
// [Checks] turns them into subtests. Only tests import this package.
package harness
