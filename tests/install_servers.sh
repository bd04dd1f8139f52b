#!/bin/sh
# Sees to the servers that the tests start by themselves, Redis, RabbitMQ and PostgreSQL, and to promtool.
# Found on this machine, else installed with apt-get when root, else it prints the one command that installs them.
# The packages' own services never start: the tests run private servers on free ports.
set -eu

found() { # found PROGRAM... : one of them is on PATH or where Debian keeps it
    for program in "$@"; do
        for path in "$(command -v "$program" || true)" "/usr/sbin/$program" "/usr/local/sbin/$program" \
            "/usr/lib/rabbitmq/bin/$program" /usr/lib/postgresql/*/bin/"$program"; do
            if [ -n "$path" ] && [ -x "$path" ]; then return 0; fi
        done
    done
    return 1
}

missing=
found redis-server valkey-server || missing="$missing redis-server"
found rabbitmq-server || missing="$missing rabbitmq-server"
found initdb || missing="$missing postgresql"
found promtool || missing="$missing prometheus"
[ -n "$missing" ] || exit 0

command="apt-get install -y --no-install-recommends$missing"
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
    echo "The tests need servers that are not on this machine:$missing. Install them with:" >&2
    echo "    sudo $command" >&2
    # without them the tests that need them skip; where they must not, say so at once
    [ "${GUARDRAILS_REQUIRE_SERVERS:-0}" = 1 ] && exit 1
    exit 0
fi

# Debian asks this script before it starts a service: 101 means "may not"
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
    trap 'rm -f "$policy"' EXIT
fi
# and PostgreSQL's package this file before it makes a cluster that nobody asked for
case "$missing" in *postgresql*)
    mkdir -p /etc/postgresql-common
    [ -e /etc/postgresql-common/createcluster.conf ] ||
        echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.conf
    ;;
esac
export DEBIAN_FRONTEND=noninteractive
apt-get update -q
# shellcheck disable=SC2086 # one word a package
apt-get install -q -y --no-install-recommends $missing </dev/null
