#include "common/dial_address.h"

#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <memory>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace weft {
namespace {

bool IsLoopback(const sockaddr& address) {
  if (address.sa_family == AF_INET) {
    return ntohl(reinterpret_cast<const sockaddr_in&>(address).sin_addr.s_addr) >> 24 == 127;
  }
  return address.sa_family == AF_INET6 &&
         IN6_IS_ADDR_LOOPBACK(&reinterpret_cast<const sockaddr_in6&>(address).sin6_addr) != 0;
}

bool ResolvesToLoopback(const std::string& host) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (getaddrinfo(host.c_str(), nullptr, &hints, &found) != 0) return false;
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> list(found, &freeaddrinfo);
  for (const addrinfo* entry = list.get(); entry != nullptr; entry = entry->ai_next) {
    if (!IsLoopback(*entry->ai_addr)) return false;
  }
  return true;
}

// The host without brackets; empty when `text` is not host:port.
std::string HostOf(const std::string& text) {
  const size_t colon = text.rfind(':');
  int port = 0;
  if (colon == std::string::npos || !absl::SimpleAtoi(text.substr(colon + 1), &port) || port < 1 || port > 65535) {
    return "";
  }
  const std::string host = text.substr(0, colon);
  if (host.empty() || host.front() != '[') return host.find(':') == std::string::npos ? host : "";
  return host.size() > 2 && host.back() == ']' ? host.substr(1, host.size() - 2) : "";
}

}  // namespace

absl::StatusOr<DialAddress> DialAddress::Parse(const std::string& text, const std::string& key, bool insecure) {
  const std::string host = HostOf(text);
  if (host.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(
        key, ": found \"", text, "\", expected host:port with a port of 1 to 65535, such as 127.0.0.1:7400"));
  }
  DialAddress address{text, ResolvesToLoopback(host)};
  if (!address.loopback && !insecure) {
    return absl::InvalidArgumentError(
        absl::StrCat(key, ": ", text,
                     " is not a loopback address and the connection would not be encrypted; "
                     "expected 127.0.0.1, ::1 or localhost, or give --insecure on a network you trust"));
  }
  return address;
}

}  // namespace weft
