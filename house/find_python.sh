#!/bin/sh
# Prints a Python that is really 3.10 or newer and can make a virtual environment.
#   find_python.sh newest   a current one, from PATH
#   find_python.sh oldest   the oldest that this machine has, from PATH, pyenv and uv
# Every candidate is run: a pyenv shim may exist and yet fail.
set -u

usable() {
    "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1
}

first_usable() {
    for candidate in "$@"; do
        if usable "$candidate"; then
            # the path of the interpreter itself: a shim would depend on the folder it is called from
            "$candidate" -c 'import os, sys; print(os.path.realpath(sys.executable))'
            return 0
        fi
    done
    return 1
}

newest() {
    first_usable python3.13 python3.12 python3.11 python3.14 python3.10 python3 python
}

oldest() {
    for version in 3.10 3.11 3.12 3.13 3.14; do
        set -- "python$version"
        for found in "${PYENV_ROOT:-$HOME/.pyenv}/versions/$version".*/bin/python3; do
            set -- "$@" "$found"
        done
        if command -v uv >/dev/null 2>&1; then
            set -- "$@" "$(uv python find --no-python-downloads "$version" 2>/dev/null || true)"
        fi
        first_usable "$@" && return 0
    done
    first_usable python3 python
}

case "${1:-newest}" in
newest) newest && exit 0 ;;
oldest) oldest && exit 0 ;;
*)
    echo "usage: $0 [newest|oldest]" >&2
    exit 2
    ;;
esac

# Debian's python3 comes without venv: that is one package away
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    export DEBIAN_FRONTEND=noninteractive
    if apt-get update -q >&2 && apt-get install -q -y --no-install-recommends python3-venv >&2; then
        newest && exit 0
    fi
fi
echo "No Python 3.10 or newer with venv was found. On Debian or Ubuntu: sudo apt-get install python3-venv" >&2
exit 1
