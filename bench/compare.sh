#!/usr/bin/env bash
# Compares the CPU time of a request in this checkout's gateway with that in another's,
# which take turns; for who tries something out.
#
#	compare.sh <another checkout> <cell> [rounds]
#	compare.sh /tmp/before get-339721-32
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
[ $# -ge 2 ] || { sed -n '2,/^set/{/^set/!p}' "$0"; exit 2; }
other=$(cd "$1/bench" && pwd)
cell=$2 rounds=${3:-7}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for side in here other; do
	mkdir "$work/$side"
	(cd "${!side}" && go build -o "$work/$side/bench" . && go build -o "$work/$side/gateway" ./gateway)
done
pin=true
[ "$(nproc)" -ge 2 ] || pin=false

# cpu prints the µs of CPU time that a request costs one side
cpu() {
	(cd "${!1}" && "$work/$1/bench" profile -gateway "$work/$1/gateway" -pin=$pin -cells "$cell" -contenders ours \
		-seconds "${SECONDS_PER_CELL:-3}" -results "$work/profile") 2>"$work/said" >/dev/null || { cat "$work/said" >&2; return 1; }
	sed -n 's/.*, \([0-9.]*\) µs of CPU time each/\1/p' "$work/said"
}

for round in $(seq "$rounds"); do
	if [ $((round % 2)) = 1 ]; then
		a=$(cpu here)
		b=$(cpu other)
	else
		b=$(cpu other)
		a=$(cpu here)
	fi
	echo "round $round: here $a, there $b µs" >&2
	echo "$a $b"
done | awk '{ print $1 / $2 }' | sort -n | awk -v cell="$cell" '
	{ ratio[NR] = $1 }
	END { if (NR) printf "%s: CPU ÷ the other %.2f (%.2f–%.2f), %d rounds\n",
		cell, (ratio[int((NR + 1) / 2)] + ratio[int(NR / 2) + 1]) / 2, ratio[1], ratio[NR], NR }'
