// Package fleet runs three gateways on one Redis, and takes that away from them. It is
// a module of its own so that the plugin does not require a client of Redis.
package fleet
