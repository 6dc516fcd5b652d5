#ifndef WEFT_SERVER_NET_ADDRESS_H_
#define WEFT_SERVER_NET_ADDRESS_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace weft::server {

// Where to listen, from "host:port" or "[v6 address]:port".
struct Address {
  std::string host;  // without brackets
  int port = 0;      // 0: any free one

  // INVALID_ARGUMENT naming `key`, the place in the configuration.
  static absl::StatusOr<Address> Parse(const std::string& text, const std::string& key);
  // "host:port", with brackets around a v6 address.
  std::string ToString() const;
};

// True when every address `host` resolves to is a loopback one. INVALID_ARGUMENT: it does not resolve.
absl::StatusOr<bool> IsLoopback(const std::string& host);

// Why nothing can listen there now, found by trying: UNAVAILABLE "port 7400 is in use ...", PERMISSION_DENIED,
// INVALID_ARGUMENT for an address that is not this machine's. OK when it can be bound.
absl::Status CheckBindable(const Address& address, const std::string& key);

}  // namespace weft::server

#endif  // WEFT_SERVER_NET_ADDRESS_H_
