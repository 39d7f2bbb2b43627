//go:build !soak

package rrd

const kills = 6
