// Package lifecycle owns the keys: it creates, rotates and retires them, keeps
// their wrapped material in a Store, makes them inside the custody token, and
// tells gateways what there is through the Catalogue.
package lifecycle
