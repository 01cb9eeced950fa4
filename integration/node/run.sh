#!/usr/bin/env bash
# Tries SDKs for Node. What it takes, on a Debian machine with Go, it installs. Arguments
# go to go test.
set -euo pipefail
cd "$(dirname "$0")"
. ../packages.sh
need node nodejs
need npm npm
install_missing
npm ci --silent --no-fund --no-audit
go test -count=1 "$@" .
