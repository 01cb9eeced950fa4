#!/bin/sh
# Runs the simulation of fleets and puts its table into README.md.
# It takes about 12 minutes.
set -eu
cd "$(dirname "$0")"
table=$(mktemp)
trap 'rm -f "$table" README.md.new' EXIT
(cd ../.. && WECHAT_SIMULATION="$table" go test -count=1 -v -timeout 2h -run '^TestSimulation$' .)
{
	sed '/<!-- table -->/q' README.md
	cat "$table"
	sed -n '/<!-- end of table -->/,$p' README.md
} >README.md.new
cat README.md.new >README.md
