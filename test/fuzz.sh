#!/bin/sh
# One fuzz target: fuzz.sh TIME PACKAGE TARGET. `make fuzz` runs two at a time.
# At the end of the time the engine sometimes fails a target whose worker is in the middle of an input, with no input at fault
# (golang.org/issue/75804): that alone is no finding. A finding names its input.
log=$(mktemp)
trap 'rm -f "$log"' EXIT
go test -run '^$' -fuzz "^$3\$" -fuzztime "$1" -parallel 1 "$2" >"$log" 2>&1 ||
	{ grep -qx '    context deadline exceeded' "$log" && ! grep -qE 'Failing input|panic|^ok ' "$log"; } ||
	{ cat "$log"; exit 1; }
echo "ok $2 $3"
