// Package tig stands in for the one package of nerdctl's unpublished test module that nerdctl's command imports (and
// never calls): nerdctl replaces that module by a directory of its own, which other modules cannot see.
package tig

// T is what nerdctl's compose test helper asks of a test.
type T interface {
	Log(args ...any)
	FailNow()
}
