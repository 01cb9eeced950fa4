#!/usr/bin/env bash
# Checks what is in this directory: the alert rules by promtool, and every query
# against a real Prometheus that scrapes the real gateway. It takes about a minute.
set -euo pipefail
cd "$(dirname "$0")"

# Debian's package starts a server when it is installed, unless told not to.
if ! command -v promtool >/dev/null || ! command -v prometheus >/dev/null; then
	policy=/usr/sbin/policy-rc.d
	if [ ! -e "$policy" ]; then
		printf '#!/bin/sh\nexit 101\n' >"$policy"
		chmod +x "$policy"
		trap 'rm -f "$policy"' EXIT
	fi
	apt-get update -qq
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends prometheus >/dev/null
fi

promtool check rules prometheus/alerts.yml
promtool check config prometheus/prometheus.yml
promtool test rules prometheus/alerts_test.yml
cd check && go test -count=1 -timeout 5m -v .
