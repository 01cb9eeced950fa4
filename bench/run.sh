#!/usr/bin/env bash
# Measures the gateway beside other ways to WeChat; README.md says what, and how.
#
#	run.sh            everything, into results/first and the documents
#	run.sh --second   load and distance once more, into results/second
#	run.sh --quick    a little of everything, to see that it runs; changes no document
#	run.sh --report   the documents again, from the figures that are there
#	run.sh --check    whether the documents say what the figures give
#
# PARTS ("load distance memory") chooses among the parts, CELLS (a regular expression) among the
# cells of load, ONLY (a part of their names) among the loads of memory; ROUNDS says how
# often, and LULLS how often after a lull.
# BEFORE, another build of the gateway, is one more contender.
set -euo pipefail
cd "$(dirname "$0")"

# report makes the documents and the picture of the figures.
report() {
	go run ./report report
	[ "$(wc -l <plot.dat)" = 1 ] || gnuplot plot.gp
}

results=results/first
parts=${PARTS:-load distance memory}
rounds=${ROUNDS:-5} seconds=2 cells=${CELLS:-.}
distance=(-lulls "${LULLS:-6}" -only "${ONLY-}")
memory=(-rounds "${ROUNDS:-3}" -only "${ONLY-}")
case ${1-} in
"") ;;
--second) results=results/second parts=${PARTS:-load distance} ;;
--quick)
	results=results/quick rounds=${ROUNDS:-1} seconds=1 cells=${CELLS:-'-(1|32)$'}
	distance+=(-calls "${CALLS:-5}" -lulls "${LULLS:-1}" -scale 0.05)
	memory+=(-rounds 1 -in-a-row 1 -size 2097152 -hold 2s)
	;;
--report) report && exit ;;
--check) exec go run ./report check ;;
*) sed -n '2,/^set/{/^set/!p}' "$0" && exit 2 ;;
esac
distance+=(-rounds "$rounds")
[ "$(nproc)" -ge 2 ] || { echo "this takes a core for the gateway and one for all else"; exit 1; }
gateway_core=$(($(nproc) - 1)) other_cores=0-$(($(nproc) - 2))

missing=()
for tool in wrk nginx gnuplot curl openssl; do
	PATH=$PATH:/usr/sbin command -v $tool >/dev/null || missing+=($tool)
done
if [ ${#missing[@]} -gt 0 ]; then
	apt-get update -qq
	packages=${missing[*]/gnuplot/gnuplot-nox}
	RUNLEVEL=1 apt-get install -y -qq --no-install-recommends ${packages/nginx/nginx-light} >/dev/null # no service of its own
fi
PATH=$PATH:/usr/sbin

dir=$(mktemp -d)
pids=()
cleanup() {
	[ ${#pids[@]} = 0 ] || kill "${pids[@]}" 2>/dev/null || true
	wait
	rm -rf "$dir"
}
trap cleanup EXIT
mkdir -p "$results"
go build -C .. -o "$dir/caddy" ./cmd/caddy
go build -o "$dir/" ./distance ./memory

export BENCH_DIR=$dir BENCH_APP_ID=wx0123456789abcdef BENCH_APP_SECRET=0123456789abcdef0123456789abcdef
export XDG_DATA_HOME=$dir/data XDG_CONFIG_HOME=$dir/config
sed -n 's/.*"access_token":"\([^"]*\)".*/\1/p' answers.conf | tr -d '\n' >"$dir/token"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=api.weixin.qq.com \
	-addext subjectAltName=DNS:api.weixin.qq.com -keyout "$dir/key.pem" -out "$dir/cert.pem" 2>/dev/null
mkdir "$dir/files"
for size in 100 32768 339721 2097152 10485760; do head -c $size /dev/urandom >"$dir/files/$size"; done
cp upstream.conf answers.conf contenders/nginx-locations.conf "$dir"

fail() { echo "$*" >&2; tail -n 5 "$dir"/*.log >&2; exit 1; }

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
	local set=$1 place ports name
	for place in "${!names[@]}"; do
		name=${names[place]} ports=20$set$place
		case $name in
		nginx)
			sed "s/@PORTS@/$ports/" contenders/nginx.conf >"$dir/nginx-$ports.conf"
			taskset -c $gateway_core nginx -p "$dir" -c "$dir/nginx-$ports.conf" 2>"$dir/$ports.log" &
			;;
		before) BENCH_PORTS=$ports taskset -c $gateway_core "$BEFORE" run --config contenders/ours.caddyfile --adapter caddyfile 2>"$dir/$ports.log" & ;;
		*) BENCH_PORTS=$ports taskset -c $gateway_core "$dir/caddy" run --config "contenders/$name.caddyfile" --adapter caddyfile 2>"$dir/$ports.log" & ;;
		esac
		pids+=($!)
		process[$set$name]=$!
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
	local round=$1 cell=$2 name=$3 place=$4 size=${2#*-} callers=${2##*-} reply url picture=
	size=${size%-*} url=http://127.0.0.1:205${place}0/media
	if [[ $cell == get-* ]]; then
		url=$url/media-$size
		reply=$(curl -s -o "$dir/reply" -w '%{size_header} %{size_download}' "$url")
		cmp -s "$dir/reply" "$dir/files/$size" || fail "$name: wrong picture, $reply"
	else
		picture=$dir/files/$size
		reply=$(curl -s -o "$dir/reply" -w '%{size_header} %{size_download} %{size_upload}' -H Expect: -F "media=@$picture;filename=a.jpg" "$url")
		grep -q "\"media_id\":\"${reply##* }\"" "$dir/reply" || fail "$name: wrong answer, $reply: $(cat "$dir/reply")"
	fi
	set -- $reply # the lengths of its header and its body
	local load=(env BENCH_PICTURE="$picture" BENCH_REPLY=$(($1 + $2)) BENCH_CALLERS="$callers"
		taskset -c $other_cores wrk -t1 -c"$callers" -s load.lua --timeout 20s)
	"${load[@]}" -d1s "$url" >"$dir/wrk" # to warm up
	local pid=${process[5$name]} cpu before
	cpu=$(ticks "$pid") before=$(cores)
	"${load[@]}" -d$((size > 1000000 ? 2 * seconds : seconds))s "$url" >"$dir/wrk"
	cpu=$(($(ticks "$pid") - cpu))
	grep -q '^figures [0-9.]*[1-9].* 0$' "$dir/wrk" || fail "$name in $cell, of $((${1} + ${2})) bytes each: $(cat "$dir/wrk")"
	# round, cell, contender, requests a second, CPU µs a request, p50 and p99 in µs, how busy the cores are in percent
	echo "$round $cell $name $cpu $before $(cores) $(grep ^figures "$dir/wrk")" | awk -v OFS='\t' '{
		print $1, $2, $3, sprintf("%.1f", $14 / $15), sprintf("%.1f", $4 * 10000 / $14), $16, $17,
			int(100 * ($10 - $6) / ($9 - $5)), int(100 * ($12 - $8) / ($11 - $7)) }' >>"$results/load.tsv"
}

all_cells() {
	for callers in 1 32 256; do
		for size in 100 32768 339721 2097152; do echo get-$size-$callers; done
		for size in 339721 2097152; do echo post-$size-$callers; done
	done
}

# Every contender in every cell, again and again; within a cell they follow upon each other
# and take turns in who is first. So what else the machine does strikes all alike.
run_load() {
	origin load
	: >"$results/load.tsv"
	for round in $(seq "$rounds"); do
		for cell in $(all_cells | grep -E -- "$cells"); do
			echo "round $round of $rounds, $cell" >&2
			for i in "${!names[@]}"; do
				place=$(((i + round) % ${#names[@]}))
				measure "$round" "$cell" "${names[place]}" $place
			done
		done
	done
}

run_distance() {
	echo "distance" >&2
	origin distance
	for set in 6 7 8; do start_set $set; done
	taskset -c $other_cores "$dir/distance" -ca "$dir/cert.pem" "${distance[@]}" "${names[@]}" >"$results/distance.tsv"
}

# origin says where and when a part was measured.
origin() {
	echo "$(date -u +%F), revision $(git describe --always --dirty --abbrev=9), $(nproc) cores of $(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n1)," \
		"$(awk '/MemTotal/ { printf "%.0f GiB", $2 / 1048576 }' /proc/meminfo), $(. /etc/os-release && echo "$PRETTY_NAME"), Linux $(uname -r | sed 's/-.*//')," \
		"$(go env GOVERSION), Caddy $(go list -m -f '{{.Version}}' github.com/caddyserver/caddy/v2), $(nginx -v 2>&1 | sed 's/.*: //; s,/, ,')," \
		"$(wrk -v 2>&1 | sed -n 's,^wrk debian/\([^ ]*\).*,wrk \1,p')" >"$results/$1.txt"
}

taskset -c $other_cores env -C "$dir" nginx -p "$dir" -c "$dir/upstream.conf" 2>"$dir/upstream-start.log" &
pids+=($!)
taskset -c $other_cores "$dir/distance" -relay 2>"$dir/relay.log" &
pids+=($!)
for port in 20441 20454; do await --cacert "$dir/cert.pem" --connect-to ::127.0.0.1: https://api.weixin.qq.com:$port/cgi-bin/stable_token; done
over=0
if [[ $parts == *memory* ]]; then
	origin memory
	"$dir/memory" "${memory[@]}" "$dir/caddy" run --config memory/gateway.caddyfile --adapter caddyfile >"$results/memory.tsv" || over=1
fi
[[ $parts != *load* && $parts != *distance* ]] || start_set 5
[[ $parts != *load* ]] || run_load
[[ $parts != *distance* ]] || run_distance
if [ "$results" = results/quick ]; then
	go run ./report print results/quick
else
	report
fi
exit $over
