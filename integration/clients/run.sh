#!/usr/bin/env bash
# Tries the gateway with Java's and Python's HTTP clients. What it takes, on a Debian
# machine with Go, it installs. Arguments go to go test.
set -euo pipefail
cd "$(dirname "$0")"
. ../packages.sh
need java default-jdk-headless
need_requests
install_missing
go test -count=1 "$@" .
