# For run scripts to source: installing Debian's packages that are missing.

missing=()

# need COMMAND PACKAGE… notes the packages, if there is no such command
need() {
	local command=$1
	shift
	command -v "$command" >/dev/null || missing+=("$@")
}

# need_requests has PYTHON name an interpreter with the package requests
need_requests() {
	local python
	for python in "${PYTHON:-python3}" /usr/bin/python3; do
		if "$python" -c 'import requests' 2>/dev/null; then
			export PYTHON=$python
			return
		fi
	done
	missing+=(python3-requests)
	export PYTHON=/usr/bin/python3
}

install_missing() {
	((${#missing[@]})) || return 0
	apt-get update -qq
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
	missing=()
}
