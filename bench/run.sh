#!/usr/bin/env bash
# Measures the gateway beside other ways to WeChat; README.md says what, and how.
#
#	run.sh            everything, into results/first and the documents
#	run.sh --second   distance and load with 32 callers once more, into results/second
#	run.sh --quick    a little of everything, to see that it runs; changes no document
#	run.sh --report   the documents again, from the figures that are there
#	run.sh --check    whether the documents say what the figures give
#
# PARTS ("load distance memory") chooses among the parts, CELLS (a regular expression) among the
# cells of load, ONLY (a part of their names) among the rows of distance and memory; ROUNDS says
# how often, LULLS how often after a lull, and CALLS how often one calls without a lull.
# BEFORE, another build of the gateway, is one more contender.
set -euo pipefail
cd "$(dirname "$0")"

dir=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; wait; rm -rf "$dir"' EXIT
fail() { echo "$*" >&2; tail -n 5 "$dir"/*.log >&2 2>/dev/null || true; exit 1; }

# documents makes all files that are made of figures, in a directory of their own.
documents() {
	mkdir "$dir/documents"
	[ -x "$dir/bench" ] || go build -o "$dir/bench" .
	"$dir/bench" short results/first >"$dir/documents/benchmarks-table.md"
	"$dir/bench" plot results/first >"$dir/documents/plot.dat"
	"$dir/bench" tables results/first $([ ! -d results/second ] || echo results/second) >"$dir/tables"
	sed -e "/<!-- tables -->/r $dir/tables" -e '/<!-- tables -->/,/<!-- end of tables -->/{//!d}' README.md >"$dir/documents/README.md"
}

# report puts them in their places, and draws the picture.
report() {
	documents
	cp "$dir"/documents/* .
	[ "$(wc -l <plot.dat)" = 1 ] || gnuplot plot.gp
}

results=results/first
parts=${PARTS:-load distance memory} rounds=${ROUNDS:-10} loads=${ROUNDS:-20} processes=${ROUNDS:-1} cells=${CELLS:-.}
options=(-only "${ONLY-}" -lulls "${LULLS:-9}" -calls "${CALLS:-7}")
case ${1-} in
"") ;;
--second) results=results/second parts=${PARTS:-load distance} cells=${CELLS:--32$} ;;
--quick)
	results=results/quick rounds=${ROUNDS:-1} loads=${ROUNDS:-1} cells=${CELLS:-'-(1|32)$'}
	options+=(-calls "${CALLS:-5}" -lulls "${LULLS:-1}" -scale 0.05 -in-a-row 1 -size 2097152 -hold 2s)
	;;
--report) report; exit ;;
--check)
	documents
	for file in "$dir"/documents/*; do
		cmp "$file" "${file##*/}" || fail "${file##*/} is not what the figures in results/ give; run.sh --report mends that"
	done
	exit
	;;
*) sed -n '2,/^set/{/^set/!p}' "${0##*/}"; exit 2 ;;
esac
[ "$(nproc)" -ge 2 ] || fail "this takes a core for the gateway and one for all else"
gateway_core=$(($(nproc) - 1)) other_cores=0-$(($(nproc) - 2))

PATH=$PATH:/usr/sbin missing=
for package in wrk nginx-light gnuplot-nox curl openssl; do
	type "${package%-*}" >/dev/null 2>&1 || missing+=" $package"
done
# RUNLEVEL: with nginx as no service of its own
[ -z "$missing" ] || { apt-get update -qq && RUNLEVEL=1 apt-get install -y -qq --no-install-recommends $missing >/dev/null; }
mkdir -p "$results"
go build -C .. -o "$dir/caddy" ./cmd/caddy
go build -o "$dir/bench" .

export BENCH_DIR=$dir BENCH_APP_ID=wx0123456789abcdef BENCH_APP_SECRET=0123456789abcdef0123456789abcdef
export XDG_DATA_HOME=$dir/data XDG_CONFIG_HOME=$dir/config
sed -n 's/.*"access_token":"\([^"]*\)".*/\1/p' answers.conf | tr -d '\n' >"$dir/token"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=api.weixin.qq.com \
	-addext subjectAltName=DNS:api.weixin.qq.com -keyout "$dir/key.pem" -out "$dir/cert.pem" 2>/dev/null
mkdir "$dir/files"
for size in 100 32768 339721 2097152 10485760; do head -c $size /dev/urandom >"$dir/files/$size"; done
cp upstream.conf answers.conf contenders/nginx-locations.conf "$dir"

# await waits for a first answer on a port.
await() {
	for _ in $(seq 200); do
		curl -sf -o /dev/null "$@" && return
		sleep 0.05
	done
	fail "nobody answers: $*"
}

# Contenders; their place in the list is a digit of their ports: 20<set><place><variant>.
names=(ours stock tuned nginx ${BEFORE:+before})
declare -A process

# start_set starts all contenders on the ports of a set, 5 to 8.
start_set() {
	local place ports name command
	for place in "${!names[@]}"; do
		name=${names[place]} ports=20$1$place
		command=("$dir/caddy" run --adapter caddyfile --config "contenders/$name.caddyfile")
		case $name in
		nginx)
			sed "s/@PORTS@/$ports/" contenders/nginx.conf >"$dir/nginx-$ports.conf"
			command=(nginx -p "$dir" -c "$dir/nginx-$ports.conf")
			;;
		before) command=("$BEFORE" run --adapter caddyfile --config contenders/ours.caddyfile) ;;
		esac
		BENCH_PORTS=$ports taskset -c $gateway_core "${command[@]}" 2>"$dir/$ports.log" &
		process[$1$name]=$!
		await "http://127.0.0.1:${ports}0/media/media-100"
	done
}

# ticks is the CPU time that a process has taken, in hundredths of a second.
ticks() { awk '{ print $14 + $15 }' "/proc/$1/stat"; }

# cores prints four figures that only grow: time and busy time of the gateway's core, and of the others.
cores() {
	awk -v core=$gateway_core '/^cpu[0-9]/ {
		i = substr($1, 4) == core ? 1 : 3
		busy = $2 + $3 + $4 + $7 + $8
		n[i] += busy + $5 + $6
		n[i + 1] += busy
	} END { print n[1], n[2], n[3], n[4] }' /proc/stat
}

# measure has wrk call one contender in one cell, get-339721-32 for instance.
measure() {
	local round=$1 cell=$2 name=$3 url=http://127.0.0.1:205${4}0/media picture= upload=() verb size callers header body sent cpu before
	IFS=- read -r verb size callers <<<"$cell"
	[ "$verb" = get ] && url+=/media-$size || picture=$dir/files/$size upload=(-H Expect: -F "media=@$dir/files/$size;filename=a.jpg")
	read -r header body sent < <(curl -s -o "$dir/reply" -w '%{size_header} %{size_download} %{size_upload}\n' "${upload[@]}" "$url")
	# the file itself, or the length of what was sent
	cmp -s "$dir/reply" "$dir/files/$size" || grep -q "\"media_id\":\"$sent\"" "$dir/reply" || fail "$name: wrong answer, of $body bytes"
	local load=(env BENCH_PICTURE="$picture" BENCH_REPLY=$((header + body)) BENCH_CALLERS="$callers"
		taskset -c $other_cores wrk -t1 -c"$callers" -s load.lua --timeout 20s)
	"${load[@]}" -d1s "$url" >"$dir/wrk" # to warm up
	cpu=$(ticks "${process[5$name]}") before=$(cores)
	"${load[@]}" -d$((size < 1000000 ? 1 : callers < 256 ? 2 : 8))s "$url" >"$dir/wrk"
	cpu=$(($(ticks "${process[5$name]}") - cpu))
	grep -q '^figures [0-9.]*[1-9].* 0$' "$dir/wrk" || fail "$name in $cell, of $((header + body)) bytes each: $(cat "$dir/wrk")"
	# round, cell, contender, requests a second, CPU µs a request, p50 and p99 in µs, how busy the cores are in percent
	echo "$round $cell $name $cpu $before $(cores) $(grep ^figures "$dir/wrk")" | awk -v OFS='\t' '{
		print $1, $2, $3, sprintf("%.1f", $14 / $15), sprintf("%.1f", $4 * 10000 / $14), $16, $17,
			int(100 * ($10 - $6) / ($9 - $5)), int(100 * ($12 - $8) / ($11 - $7)) }' >>"$results/load.tsv"
}

all_cells() {
	for callers in 1 32 256; do printf "%s-$callers\n" get-{100,32768,339721,2097152} post-{339721,2097152}; done
}

# Every contender in every cell, again and again; within a cell they follow upon each other
# and take turns in who is first. So what else the machine does strikes all alike. The
# cells with 32 callers, which have goals, are measured in every round, others in every fifth.
run_load() {
	: >"$results/load.tsv"
	for round in $(seq "$loads"); do
		for cell in $(all_cells | grep -E -- "$cells"); do
			[[ $cell == *-32 || $((round % 5)) = 1 ]] || continue
			echo "round $round of $loads, $cell" >&2
			for i in "${!names[@]}"; do
				place=$(((i + round) % ${#names[@]}))
				measure "$round" "$cell" "${names[place]}" $place
			done
		done
	done
}

# origin says where and when this is measured.
origin() {
	echo "$(date -u +%F), revision $(git describe --always --dirty --abbrev=9), $(nproc) cores of $(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n1)," \
		"$(awk '/MemTotal/ { printf "%.0f GiB", $2 / 1048576 }' /proc/meminfo), $(. /etc/os-release && echo "$PRETTY_NAME"), Linux $(uname -r | sed 's/-.*//')," \
		"$(go env GOVERSION), Caddy $(go list -m -f '{{.Version}}' github.com/caddyserver/caddy/v2), $(nginx -v 2>&1 | sed 's/.*: //; s,/, ,')," \
		"$(wrk -v 2>&1 | sed -n 's,^wrk debian/\([^ ]*\).*,wrk \1,p')"
}

taskset -c $other_cores env -C "$dir" nginx -p "$dir" -c "$dir/upstream.conf" 2>"$dir/upstream-start.log" &
taskset -c $other_cores "$dir/bench" relay 2>"$dir/relay.log" &
for port in 20441 20454; do await --cacert "$dir/cert.pem" --connect-to ::127.0.0.1: https://api.weixin.qq.com:$port/cgi-bin/stable_token; done
callers=(env SSL_CERT_FILE="$dir/cert.pem" SSL_CERT_DIR="$dir/none" "$dir/bench" "${options[@]}") # who trust that certificate alone
origin=$(origin) # before the figures change
for part in $parts; do echo "$origin" >"$results/$part.txt"; done
over=0
if [[ $parts == *memory* ]]; then
	"${callers[@]}" -rounds "$processes" memory \
		"$dir/caddy" run --adapter caddyfile --config contenders/many-callers.caddyfile >"$results/memory.tsv" || over=1
fi
[[ $parts != *load* && $parts != *distance* ]] || start_set 5
[[ $parts != *load* ]] || run_load
if [[ $parts == *distance* ]]; then
	for set in 6 7 8; do start_set $set; done
	taskset -c $other_cores "${callers[@]}" -rounds "$rounds" distance "${names[@]}" >"$results/distance.tsv"
fi
if [ "$results" = results/quick ]; then
	"$dir/bench" tables results/quick
else
	report
fi
exit $over
