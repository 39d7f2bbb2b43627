//go:build soak

package rrd

// kills and power cuts of `make soak`: the figures of issue 6 are 100 and 30.
const kills, cuts = 100, 30
