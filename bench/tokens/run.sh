#!/usr/bin/env bash
# Runs the simulation of fleets and puts its table into README.md; about 12 minutes.
set -euo pipefail
cd "$(dirname "$0")"
table=$(mktemp)
trap 'rm -f "$table"' EXIT
WECHAT_SIMULATION=$table go test -C ../.. -count=1 -v -timeout 2h -run '^TestSimulation$' ./token
[ -s "$table" ] || { echo "the test has written no table"; exit 1; }
sed -i -e "/<!-- table -->/r $table" -e '/<!-- table -->/,/<!-- end of table -->/{//!d}' README.md
