#!/bin/sh
# Prints page_parts.cc: report.html, report.css and report.js as C++ strings.
set -eu
echo '#include "simulation/report/page_parts.h"'
echo 'namespace weft::simulation {'
for file in "$@"; do
  case $file in
    *.html) name=kPageHtml ;;
    *.css) name=kPageCss ;;
    *.js) name=kPageJs ;;
    *) echo "$file: expected html, css or js" >&2; exit 1 ;;
  esac
  printf 'const std::string %s = R"weft_page(' "$name"
  cat "$file"
  echo ')weft_page";'
done
echo '}  // namespace weft::simulation'
