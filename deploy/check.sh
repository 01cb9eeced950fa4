#!/usr/bin/env bash
# Checks what is in this directory: the alert rules by promtool, and every query
# against a real Prometheus that scrapes real gateways; the Dockerfile's steps; the
# compose file and the manifests by their schemas, and what they configure with a real
# Redis; the systemd unit; the documents' commands for production. It takes about two
# minutes, and longer when Go has nothing cached.
set -euo pipefail
cd "$(dirname "$0")"

packages=()
command -v promtool >/dev/null && command -v prometheus >/dev/null || packages+=(prometheus)
command -v redis-server >/dev/null || packages+=(redis-server)
command -v systemd-analyze >/dev/null || packages+=(systemd)
command -v curl >/dev/null || packages+=(curl)
# Debian's packages start servers when they are installed, unless told not to.
if ((${#packages[@]})); then
	policy=/usr/sbin/policy-rc.d
	if [ ! -e "$policy" ]; then
		printf '#!/bin/sh\nexit 101\n' >"$policy"
		chmod +x "$policy"
		trap 'rm -f "$policy"' EXIT
	fi
	apt-get update -qq
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
fi

promtool check rules prometheus/alerts.yml
promtool check config prometheus/prometheus.yml
promtool test rules prometheus/alerts_test.yml

# the unit, but for its binary, which is not installed here
unit=$(mktemp -d)/caddy-wechat-media.service
sed 's#=/usr/bin/caddy #=/bin/true #' systemd/caddy-wechat-media.service >"$unit"
systemd-analyze verify --man=no "$unit"
systemd-analyze security --offline=yes --threshold=30 --no-pager "$unit" | tail -n 1
rm -r "$(dirname "$unit")"

cd check && go test -count=1 -timeout 10m -v .
