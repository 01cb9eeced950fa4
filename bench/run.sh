#!/usr/bin/env bash
# Runs the benchmark; see README.md for what it does and for the variables.
#
#	run.sh                                all of it, into README.md
#	run.sh --report                       README.md again, from the figures that are there
#	run.sh --check                        whether README.md says what the figures give
#	run.sh --profile [cell [contender]]   where CPU time goes, into profile/
set -euo pipefail
cd "$(dirname "$0")"

bin=$(mktemp -d)
trap 'rm -rf "$bin"' EXIT
go build -o "$bin/bench" .

case ${1-} in
--report) "$bin/bench" report && exit ;;
--check) "$bin/bench" check && exit ;;
--profile | "") ;;
*) sed -n '2,/^set/p' "$0" && exit 2 ;;
esac

go build -o "$bin/gateway" ./gateway
[ "$(nproc)" -ge 2 ] || PIN=false
options=(-gateway "$bin/gateway" -pin="${PIN:-true}")

if [ "${1-}" = --profile ]; then
	"$bin/bench" profile "${options[@]}" -cells "${2:-get-339721-32}" -contenders "${3:-ours}" \
		-seconds "${SECONDS_PER_CELL:-10}" -results profile >"$bin/files"
	for file in $(cat "$bin/files"); do
		echo "bench/$file"
		go tool pprof -top -nodecount=40 "$file" 2>/dev/null
	done
	exit
fi

command -v nginx >/dev/null || [ -x /usr/sbin/nginx ] || {
	apt-get update -qq
	RUNLEVEL=1 apt-get install -y -qq --no-install-recommends nginx-light >/dev/null # no service of its own
}
# a part of it is for who runs it, and changes no document
if [ -n "${CELLS-}${CONTENDERS-}${ROUNDS-}${SECONDS_PER_CELL-}${PIN-}" ]; then
	results=${RESULTS:-results/quick}
else
	results=${RESULTS:-results/first}
fi
revision=$(git describe --always --dirty 2>/dev/null || true)
"$bin/bench" run "${options[@]}" -rounds "${ROUNDS:-11}" -seconds "${SECONDS_PER_CELL:-1}" -cells "${CELLS-}" \
	-contenders "${CONTENDERS-}" -results "$results" -revision "$revision"
[ "$results" = results/quick ] || "$bin/bench" report
