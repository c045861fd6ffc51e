//go:build linux

package main

import "keyway/loadtest/rig"

// gateway is one of the cluster's.
type gateway struct {
	*rig.Gateway
	name string
}
