#include "simulation/report/page.h"

#include "absl/strings/str_replace.h"
#include "simulation/report/page_parts.h"

namespace weft::simulation {

std::string PageOf(const std::vector<nlohmann::ordered_json>& runs) {
  const std::string json = nlohmann::ordered_json(runs).dump(-1, ' ', /*ensure_ascii=*/false,
                                                             nlohmann::ordered_json::error_handler_t::replace);
  // A tag would end the script that holds the data, or hide its end.
  const std::string data = absl::StrReplaceAll(json, {{"<", "\\u003c"}});
  return absl::StrReplaceAll(kPageHtml, {{"/*STYLE*/", kPageCss}, {"/*SCRIPT*/", kPageJs}, {"/*DATA*/", data}});
}

}  // namespace weft::simulation
