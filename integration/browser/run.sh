#!/usr/bin/env bash
# Tries the example's page in Debian's Chromium, which is installed if it is
# missing. Arguments go to go test; with SCREENSHOTS=<directory> there is
# something to look at afterwards.
set -euo pipefail
cd "$(dirname "$0")"
. ../packages.sh
need chromium chromium
need curl curl
if [ -n "${SCREENSHOTS:-}" ]; then
	# without a font for it, Chinese is boxes
	fc-list :lang=zh-cn 2>/dev/null | grep -q . || missing+=(fonts-noto-cjk)
	mkdir -p "$SCREENSHOTS"
	SCREENSHOTS=$(realpath "$SCREENSHOTS")
	export SCREENSHOTS
fi
install_missing
go test -count=1 "$@" .
