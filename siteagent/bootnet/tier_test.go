//go:build !soak

package bootnet

const tierFaults = 5 // of TestFaultMatrix
