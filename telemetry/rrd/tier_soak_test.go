//go:build soak

package rrd

// kills of `make soak`: the figure of issue 6 is 100.
const kills = 100
