#!/usr/bin/env bash
# Tries the example's page in Debian's Chromium, which is installed if it is
# missing. Arguments go to go test; with SCREENSHOTS=<directory> there is
# something to look at afterwards.
set -euo pipefail
cd "$(dirname "$0")"

packages=()
command -v chromium >/dev/null || packages+=(chromium)
command -v curl >/dev/null || packages+=(curl)
# without a font for it, Chinese is boxes on the screenshots
[ -z "${SCREENSHOTS:-}" ] || fc-list :lang=zh-cn 2>/dev/null | grep -q . || packages+=(fonts-noto-cjk)
if [ ${#packages[@]} -gt 0 ]; then
	apt-get update -qq
	apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
fi
if [ -n "${SCREENSHOTS:-}" ]; then
	mkdir -p "$SCREENSHOTS"
	SCREENSHOTS=$(realpath "$SCREENSHOTS")
	export SCREENSHOTS
fi
go test -count=1 "$@" ./...
