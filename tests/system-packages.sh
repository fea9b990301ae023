#!/bin/sh
# Installs Debian packages that are missing when run as root; says which ones are missing when not.
set -eu
missing=""
for package in "$@"; do
    case "$package" in
        python3-venv) python3 -c 'import venv, ensurepip' 2>/dev/null || missing="$missing $package" ;;
        postgresql) ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || missing="$missing $package" ;;
        systemd) PATH="$PATH:/usr/sbin:/sbin" command -v systemd-creds >/dev/null 2>&1 || missing="$missing $package" ;;
        *) PATH="$PATH:/usr/sbin:/sbin" command -v "$package" >/dev/null 2>&1 || missing="$missing $package" ;;
    esac
done
[ -z "$missing" ] && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "installing Debian packages:$missing"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq >/dev/null
    # shellcheck disable=SC2086 - a list of package names
    apt-get install -y -qq --no-install-recommends $missing >/dev/null
else
    echo "missing Debian packages:$missing" >&2
    echo "  try: sudo apt-get install$missing" >&2
    exit 0  # the tests that need them say so in their last line
fi
