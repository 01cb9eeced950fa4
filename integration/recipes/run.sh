#!/usr/bin/env bash
# Runs the documents' code for callers without an SDK, and their commands for a gateway
# without a config file. What it takes, on a Debian machine with Go, it installs.
# Arguments go to go test.
set -euo pipefail
cd "$(dirname "$0")"
. ../packages.sh
need node nodejs
need java default-jdk-headless
php -r 'exit((int) !extension_loaded("curl"));' 2>/dev/null || missing+=(php-cli php-curl)
need_requests
install_missing
go test -count=1 "$@" .
