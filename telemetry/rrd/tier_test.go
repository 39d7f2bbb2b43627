//go:build !soak

package rrd

const kills, cuts = 6, 3
