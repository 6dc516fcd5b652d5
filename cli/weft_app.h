#ifndef WEFT_CLI_WEFT_APP_H_
#define WEFT_CLI_WEFT_APP_H_

#include <ostream>
#include <string>
#include <vector>

namespace weft::cli {

// `weft` without its process: `arguments` start with the program's name, `terminal` says whether `out` is one. Returns
// the exit code; an error is one line on `err`.
int RunWeft(const std::vector<std::string>& arguments, bool terminal, std::ostream& out, std::ostream& err);

}  // namespace weft::cli

#endif  // WEFT_CLI_WEFT_APP_H_
