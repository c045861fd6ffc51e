//go:build race

package main

// raceFlags build the program that the tests run as they are built themselves.
var raceFlags = []string{"-race"}
