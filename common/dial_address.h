#ifndef WEFT_COMMON_DIAL_ADDRESS_H_
#define WEFT_COMMON_DIAL_ADDRESS_H_

#include <string>

#include "absl/status/statusor.h"

namespace weft {

// Where a client or `weft` dials, from "host:port" or "[v6 address]:port".
struct DialAddress {
  std::string target;  // as given
  // Every address the host resolves to is a loopback one. A host that does not resolve (yet) counts as another machine.
  bool loopback = false;

  // `key` is where the text was given, for messages. INVALID_ARGUMENT: not host:port, or another machine's address
  // without `insecure` (there is no encryption in this version, so that must be asked for).
  static absl::StatusOr<DialAddress> Parse(const std::string& text, const std::string& key, bool insecure);
};

}  // namespace weft

#endif  // WEFT_COMMON_DIAL_ADDRESS_H_
