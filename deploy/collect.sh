#!/usr/bin/env bash
# Gathers what an image needs of binaries that were built here:
#
#   deploy/collect.sh FOLDER BINARY...
#
#   FOLDER/bin        the binaries, without debug information
#   FOLDER/lib        shared libraries they load that no Debian package brings (LibTorch and what comes with it)
#   FOLDER/packages   the Debian packages that bring the others, one a line
set -euo pipefail
(($# >= 2)) || { echo "collect: expected FOLDER BINARY..." >&2; exit 2; }
out=$1
shift

mkdir -p "$out/bin" "$out/lib"
for binary in "$@"; do
  strip --strip-debug -o "$out/bin/$(basename "$binary")" "$binary"
done

libraries=$(ldd "$@" | awk '$2 == "=>" {print $1, $3}' | sort -u)
if missing=$(grep "not found" < <(ldd "$@")); then
  echo "collect: libraries not found:"$'\n'"$missing" >&2
  exit 1
fi
while read -r name path; do
  # The package database may know /usr/lib/... where the loader says /lib/...: look by name, in the system's folder.
  case "$path" in
    /lib/* | /usr/lib/*) dpkg-query --search "*/$(uname -m)-linux-gnu/$name" | cut -d: -f1 ;;
    *) strip --strip-unneeded -o "$out/lib/$name" "$path" ;;
  esac
done <<<"$libraries" | sort -u >"$out/packages"
