#!/usr/bin/env bash
# Runs the code that docs/callers.md has for callers without an SDK, and the commands
# of README.md and docs/wecom.md for a gateway without a config file: each must bring a
# picture back as it went up.
#
#	README=…	another file than the project's README.md; of README.zh-CN.md the
#			pages are those in docs/zh-CN
#	CADDY=…	a binary with the plugin; otherwise one is built
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
readme=$(realpath "${README:-$root/README.md}")
docs=$root/docs
[[ $readme != *.zh-CN.md ]] || docs=$root/docs/zh-CN
dir=$(mktemp -d)
pids=()
finish() {
	for pid in "${pids[@]}"; do
		kill "$pid" 2>/dev/null || true
		wait "$pid" 2>/dev/null || true
	done
	rm -rf "$dir"
}
trap finish EXIT
export XDG_DATA_HOME=$dir/data XDG_CONFIG_HOME=$dir/config

packages=()
command -v curl >/dev/null || packages+=(curl)
command -v node >/dev/null || packages+=(nodejs)
command -v java >/dev/null || packages+=(default-jdk-headless)
php -r 'exit((int) !extension_loaded("curl"));' 2>/dev/null || packages+=(php-cli php-curl)
python=
find_python() {
	for python in python3 /usr/bin/python3; do
		"$python" -c 'import requests' 2>/dev/null && return
	done
	return 1
}
find_python || packages+=(python3-requests)
if ((${#packages[@]})); then
	apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${packages[@]}" >/dev/null
	find_python
fi

caddy=${CADDY:-}
if [ -z "$caddy" ]; then
	caddy=$dir/caddy
	go build -C "$root" -o "$caddy" ./cmd/caddy
fi

# two ports that nothing listens on
read -r gateway wechat < <("$python" -c '
import socket
sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
print(*(s.getsockname()[1] for s in sockets))')

# awaited starts a command, with its log under a name, and waits for the gateway
awaited() {
	local log=$dir/$1.log
	shift
	(cd "$root" && exec "$@") >"$log" 2>&1 &
	pids+=($!)
	for _ in $(seq 240); do
		curl -sS -o /dev/null "http://127.0.0.1:$gateway/" 2>/dev/null && return
		kill -0 "${pids[-1]}" 2>/dev/null || break
		sleep 0.5
	done
	cat "$log"
	echo "the gateway does not listen"
	exit 1
}

# on_our_port moves text from the README's ports to free ones
on_our_port() { sed "s/\b8080\b/$gateway/g; s/\b8081\b/$wechat/g"; }

# block LANGUAGE WORD is the one block in LANGUAGE that has WORD in it
block() {
	"$python" - "$docs/callers.md" "$1" "$2" <<'END'
import re, sys
text = open(sys.argv[1], encoding="utf-8").read()
blocks = [b for b in re.findall(rf"^```{sys.argv[2]}\n(.*?)^```$", text, re.M | re.S) if sys.argv[3] in b]
if len(blocks) != 1:
    sys.exit(f"{len(blocks)} blocks of {sys.argv[2]} have {sys.argv[3]} in them")
print(blocks[0], end="")
END
}

passed=0
# there_and_back NAME COMMAND… runs a command in a directory of its own
there_and_back() {
	local name=$1
	shift
	cp "$(go env GOROOT)/src/image/testdata/video-001.jpeg" "$dir/$name/photo.jpg"
	(cd "$dir/$name" && "$@") || { echo "$name failed"; exit 1; }
	cmp "$dir/$name/photo.jpg" "$dir/$name/back.jpg" || { echo "$name: the bytes differ"; exit 1; }
	echo "$name: $(wc -c <"$dir/$name/photo.jpg") bytes there and back"
	passed=$((passed + 1))
}

# the example's own config, but for its ports
{
	printf '{\n\tadmin off\n\tpersist_config off\n}\n'
	cat "$root/example.Caddyfile"
} | on_our_port >"$dir/Caddyfile"
awaited example "$caddy" run --config "$dir/Caddyfile" --adapter caddyfile

mkdir "$dir/python" "$dir/php" "$dir/java" "$dir/js"
block python requests | on_our_port >"$dir/python/recipe.py"
there_and_back python "$python" recipe.py

block php CURLFile | on_our_port >"$dir/php/recipe.php"
there_and_back php php recipe.php

{
	echo 'import java.net.URI; import java.net.http.*; import java.nio.file.Path;'
	echo 'import java.net.http.HttpRequest.BodyPublishers; import java.net.http.HttpResponse.BodyHandlers;'
	echo 'class Recipe { public static void main(String[] args) throws Exception {'
	block java HttpClient | on_our_port
	echo '} }'
} >"$dir/java/Recipe.java"
there_and_back java java Recipe.java

block js openAsBlob | on_our_port >"$dir/js/recipe.mjs"
there_and_back js node recipe.mjs

# gateways without a config file, started as the documents say but for the port
without_config() {
	local name=$1 document=$2 command
	command=$(sed -n '/^```sh$/,/^```$/s/^go run .\/cmd\/caddy \(wechat-media .*\)$/\1/p' "$document")
	[[ $command == wechat-media* ]] || { echo "$document has no command wechat-media"; exit 1; }
	kill "${pids[-1]}"
	wait "${pids[-1]}" 2>/dev/null || true
	pids=()
	read -ra arguments <<<"$command"
	awaited "$name" "$caddy" "${arguments[@]}" --listen "127.0.0.1:$gateway"
	mkdir "$dir/$name"
	cp "$dir/js/recipe.mjs" "$dir/$name"
	there_and_back "$name" node recipe.mjs
}
without_config command "$readme"
without_config wecom "$docs/wecom.md"

echo "$passed passed, 0 failed"
