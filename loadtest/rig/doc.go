// Package rig runs keyway serve with tokens that can be broken, for programs that watch what it makes of that.
package rig
