#ifndef WEFT_SIMULATION_REPORT_PAGE_PARTS_H_
#define WEFT_SIMULATION_REPORT_PAGE_PARTS_H_

#include <string>

namespace weft::simulation {

// The files of page/, as embed.sh writes them.
extern const std::string kPageHtml, kPageCss, kPageJs;

}  // namespace weft::simulation

#endif  // WEFT_SIMULATION_REPORT_PAGE_PARTS_H_
