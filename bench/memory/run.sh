#!/usr/bin/env bash
# Measures the gateway's memory under load and puts the table into README.md, which
# takes about 12 minutes. With arguments, which are those of main.go, it only measures:
# run.sh -rounds 1 -in-a-row 1 -only 'without TLS'
set -euo pipefail
cd "$(dirname "$0")"
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
go build -C ../.. -o "$dir/caddy" ./cmd/caddy
go build -o "$dir/memory" .
if [ $# -gt 0 ]; then
	"$dir/memory" -caddy "$dir/caddy" "$@"
	exit
fi
"$dir/memory" -caddy "$dir/caddy" -table "$dir/table"
{
	sed '/<!-- table -->/q' README.md
	cat "$dir/table"
	sed -n '/<!-- end of table -->/,$p' README.md
} >"$dir/README.md"
cat "$dir/README.md" >README.md
