#!/bin/sh
# Makes .venv with cftools and what one purpose needs: `tests/setup.sh demo` or `tests/setup.sh test`.
# Needs Python 3.11 or newer; where its venv module is missing and this runs as root on Debian, installs it.
set -eu
cd "$(dirname "$0")/.."
extra=${1:-demo}

missing() {
    echo "tests/setup.sh: $1" >&2
    exit 69
}

# Installs the Debian packages $@, or says what is missing.
debian() {
    if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
        missing "these Debian packages are missing: $*; install them, or run this as root"
    fi
    # RUNLEVEL: the services of what is installed are not started; the tests start their own.
    export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends "$@"; } >/dev/null ||
        missing "apt-get could not install: $*"
}

find_python() {
    for candidate in python3 python3.14 python3.13 python3.12 python3.11; do
        if command -v "$candidate" >/dev/null &&
            "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
}

if [ ! -x .venv/bin/python ] || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    python=$(find_python)
    [ -n "$python" ] || missing "no Python 3.11 or newer found; install one"
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        debian python3-venv
    fi
    rm -rf .venv
    "$python" -m venv .venv || missing "$python cannot make a virtual environment"
fi

if [ "$extra" = test ]; then
    needed=
    [ -x /usr/sbin/sshd ] || needed="$needed openssh-server"
    command -v rsync >/dev/null || needed="$needed rsync"
    command -v ssh >/dev/null || needed="$needed openssh-client"
    command -v ip >/dev/null || [ -x /sbin/ip ] || needed="$needed iproute2"
    command -v initdb >/dev/null || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || needed="$needed postgresql"
    [ -x /usr/sbin/rabbitmq-server ] || needed="$needed rabbitmq-server"
    # shellcheck disable=SC2086 # a list of words
    [ -z "$needed" ] || debian $needed
fi

# The stamp saves the seconds pip takes to find that nothing changed.
stamp=.venv/installed-$extra
if [ ! -f "$stamp" ] || [ pyproject.toml -nt "$stamp" ] || [ tests/constraints.txt -nt "$stamp" ]; then
    .venv/bin/python -m pip install -q --disable-pip-version-check -c tests/constraints.txt -e ".[$extra]"
    touch "$stamp"
fi
