#!/usr/bin/env bash
# Runs the soak for three minutes, or for as long as its argument says, and puts its
# figures into README.md: run.sh 30m
set -euo pipefail
cd "$(dirname "$0")"
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
duration=${1:-3m}
SOAK=$duration SOAK_TABLE=$dir/table go test -C ../faults -count=1 -v -timeout 3h -run '^TestSoak$' .
{
	sed '/<!-- table -->/q' README.md
	cat "$dir/table"
	sed -n '/<!-- end of table -->/,$p' README.md
} >"$dir/README.md"
cat "$dir/README.md" >README.md
