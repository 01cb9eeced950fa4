#!/usr/bin/env bash
# Runs everything here with one build of the gateway. What it takes, on a Debian machine
# with Go, it installs. Arguments go to go test.
set -euo pipefail
cd "$(dirname "$0")"
. packages.sh
need curl curl
need chromium chromium
need node nodejs
need npm npm
need java default-jdk-headless
php -r 'exit((int) !extension_loaded("curl"));' 2>/dev/null || missing+=(php-cli php-curl)
need_requests
install_missing
(cd node && npm ci --silent --no-fund --no-audit)

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
go build -C .. -o "$dir/caddy" ./cmd/caddy
# one package after the other: each wants the machine for itself
CADDY=$dir/caddy go test -race -count=1 -p 1 -timeout 20m "$@" ./...
