#!/bin/sh
# Prints page_assets.cc: the given files as C++ strings.
set -eu
echo '#include "server/web/page_assets.h"'
echo 'namespace weft::server {'
echo 'const std::vector<PageAsset>& PageAssets() {'
echo '  static const auto* assets = new std::vector<PageAsset>{'
for file in "$@"; do
  name=${file##*/}
  path=/$name
  case $name in
    index.html) path=/ type="text/html; charset=utf-8" ;;
    *.css) type="text/css; charset=utf-8" ;;
    *.js) type="text/javascript; charset=utf-8" ;;
    *.svg) type="image/svg+xml" ;;
    *) echo "$file: no media type known for it; add one to embed.sh" >&2; exit 1 ;;
  esac
  printf '{"%s", "%s", R"weft_asset(' "$path" "$type"
  cat "$file"
  echo ')weft_asset"},'
done
echo '  };'
echo '  return *assets;'
echo '}'
echo '}  // namespace weft::server'
