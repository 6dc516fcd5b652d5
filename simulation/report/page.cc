#include "simulation/report/page.h"

#include "absl/strings/str_replace.h"
#include "simulation/report/page_parts.h"

namespace weft::simulation {

std::string PageOf(const std::vector<nlohmann::ordered_json>& runs) {
  // "</" would end the script that holds the data.
  const std::string data = absl::StrReplaceAll(nlohmann::ordered_json(runs).dump(), {{"</", "<\\/"}});
  return absl::StrReplaceAll(kPageHtml, {{"/*STYLE*/", kPageCss}, {"/*SCRIPT*/", kPageJs}, {"/*DATA*/", data}});
}

}  // namespace weft::simulation
