#!/usr/bin/env bash
# Unpack proxies and servers of Debian into .venvs/counterparts, for tests/slow/test_counterparts.py.
#
# Nothing is installed and no service starts: the packages are only unpacked. `root` holds them and
# the libraries that this system lacks. Needs apt-get and dpkg-deb, but not root.
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p .venvs/counterparts
folder=$PWD/.venvs/counterparts
packages=(
    dante-server haproxy libnss-wrapper microsocks nginx squid stunnel4 tinyproxy-bin
)

if ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
    echo "counterparts: apt-get and dpkg-deb are missing; this needs Debian" >&2
    exit 1
fi
if [ -e "$folder/unpacked" ]; then # `rm -r .venvs/counterparts` to have newer ones
    exit
fi

# The sources and the installed packages are the system's; lists and downloads stay here.
apt=$folder/apt
rm -rf "$folder"
mkdir -p "$apt/state/lists/partial" "$apt/cache/archives/partial" "$folder/root"
options=(
    -qq -o "Dir::State=$apt/state" -o Dir::State::status=/var/lib/dpkg/status
    -o "Dir::Cache=$apt/cache" -o APT::Sandbox::User= -o Acquire::Languages=none
    -o Debug::NoLocking=true
)
apt-get "${options[@]}" update
apt-get "${options[@]}" install --yes --download-only --reinstall --no-install-recommends \
    "${packages[@]}"
for deb in "$apt"/cache/archives/*.deb; do
    dpkg-deb -x "$deb" "$folder/root"
done
rm -rf "$apt"
touch "$folder/unpacked"
