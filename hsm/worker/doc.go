// Package worker carries the token contract across a process border: a token's
// library runs in a child process, so that a crash, a hang or a leak in it is
// ended by ending the child. The parent loads no vendor library.
//
// Both sides speak length-prefixed frames over a socket pair that the child
// inherits; there is no path that another process could connect to. Whoever has
// something to say appends it to what is pending; the first one to find nobody
// writing writes everything that is pending, until nothing is. So frames are
// coalesced exactly when the socket is busy, and never wait for a timer.
//
// The border costs a copy of each input and output on each side. Every buffer
// of this package that held one is wiped after use; what the kernel's socket
// buffers and Go's stacks keep is beyond it.
package worker
