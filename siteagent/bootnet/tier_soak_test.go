//go:build soak

package bootnet

const tierFaults = 1000 // of TestFaultMatrix: all
