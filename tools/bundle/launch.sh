#!/bin/sh
# Starts ../libexec/<the name of this file> with the LibTorch of this machine: that of the folder $WEFT_TORCH, or else of the torch that a
# Python finds, which is $WEFT_PYTHON, ../.venv/bin/python or python3. It must be of the version that ../VERSION names.
set -eu
self=$(readlink -f "$0")
name=${self##*/} root=${self%/*/*}

wanted=
while read -r key value; do
  [ "$key" != torch ] || wanted=$value
done <"$root/VERSION"
fail() { # exit code, what was found
  echo "$name: $2; expected the wheel of torch $wanted: \`pip install torch==$wanted\`, or set WEFT_TORCH to its folder (.../site-packages/torch)" >&2
  exit "$1"
}

if [ -n "${WEFT_TORCH:-}" ]; then
  torch=$WEFT_TORCH where="WEFT_TORCH=$WEFT_TORCH"
  [ -e "$torch/lib/libtorch_cpu.so" ] || fail 3 "found no lib/libtorch_cpu.so in $where"
else
  python=${WEFT_PYTHON:-$root/.venv/bin/python}
  [ -n "${WEFT_PYTHON:-}" ] || [ -x "$python" ] || python=python3
  # Found, not imported: importing torch takes seconds.
  torch=$("$python" -c 'from importlib.util import find_spec; print(find_spec("torch").submodule_search_locations[0])' 2>/dev/null) || torch=
  where="$torch (of $python)"
  [ -e "$torch/lib/libtorch_cpu.so" ] || fail 3 "found no torch by $python"
fi

found=unknown
if [ -f "$torch/version.py" ]; then
  while read -r line; do
    case $line in "__version__ = '"*) found=${line#*\'} found=${found%\'*} ;; esac
  done <"$torch/version.py"
elif [ -f "$torch/build-version" ]; then
  read -r found <"$torch/build-version"
fi
[ "${found%%+*}" = "$wanted" ] || fail 5 "found torch $found in $where"

# Of torch alone: the libraries in ../lib are found by the binary itself, and no child process sees them.
LD_LIBRARY_PATH=$torch/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
WEFT_TORCH=$torch
export LD_LIBRARY_PATH WEFT_TORCH
exec "$root/libexec/$name" "$@"
