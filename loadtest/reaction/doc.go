// Package reaction tests what becomes of a caller's operation, and of the member that ran it, after each code that a PKCS#11
// library may return and each other way it may fail: a real pool before a real token, behind the fault-injecting module, in this
// process and in a worker's. The table is docs/design/pool.md's; a row of it that nobody keeps fails here.
package reaction
