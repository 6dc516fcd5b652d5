#include "server/net/address.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace weft::server {
namespace {

using AddressList = std::unique_ptr<addrinfo, decltype(&freeaddrinfo)>;

absl::StatusOr<AddressList> Resolve(const std::string& host, const std::string& port) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  addrinfo* found = nullptr;
  if (const int error = getaddrinfo(host.c_str(), port.c_str(), &hints, &found); error != 0) {
    return absl::InvalidArgumentError(absl::StrCat("host \"", host, "\" does not resolve: ", gai_strerror(error)));
  }
  return AddressList(found, &freeaddrinfo);
}

bool IsLoopback(const sockaddr& address) {
  if (address.sa_family == AF_INET) {
    return ntohl(reinterpret_cast<const sockaddr_in&>(address).sin_addr.s_addr) >> 24 == 127;
  }
  if (address.sa_family == AF_INET6) {
    return IN6_IS_ADDR_LOOPBACK(&reinterpret_cast<const sockaddr_in6&>(address).sin6_addr) != 0;
  }
  return false;
}

absl::Status BindError(int error, const Address& address, const std::string& key) {
  const std::string where = absl::StrCat(" (", key, ": ", address.ToString(), ")");
  switch (error) {
    case EADDRINUSE:
      return absl::UnavailableError(absl::StrCat("port ", address.port, " is in use", where,
                                                 "; stop the process that holds it or set another ", key));
    case EACCES:
      return absl::PermissionDeniedError(
          absl::StrCat("port ", address.port, " needs more rights than this user has", where, "; use one above 1023"));
    case EADDRNOTAVAIL:
      return absl::InvalidArgumentError(
          absl::StrCat("\"", address.host, "\" is not an address of this machine", where));
    default:
      return absl::UnavailableError(absl::StrCat("cannot listen: ", std::strerror(error), where));
  }
}

}  // namespace

absl::StatusOr<Address> Address::Parse(const std::string& text, const std::string& key) {
  const auto malformed = [&] {
    return absl::InvalidArgumentError(absl::StrCat(
        key, ": found \"", text, "\", expected host:port with a port of 0 to 65535, such as 127.0.0.1:7400"));
  };
  const size_t colon = text.rfind(':');
  if (colon == std::string::npos || colon == 0) return malformed();
  Address address;
  address.host = text.substr(0, colon);
  if (address.host.front() == '[' && address.host.back() == ']') {
    address.host = address.host.substr(1, address.host.size() - 2);
  } else if (absl::StrContains(address.host, ':')) {
    return malformed();
  }
  if (address.host.empty() || !absl::SimpleAtoi(text.substr(colon + 1), &address.port) || address.port < 0 ||
      address.port > 65535) {
    return malformed();
  }
  return address;
}

std::string Address::ToString() const {
  return absl::StrContains(host, ':') ? absl::StrCat("[", host, "]:", port) : absl::StrCat(host, ":", port);
}

absl::StatusOr<bool> IsLoopback(const std::string& host) {
  WEFT_ASSIGN_OR_RETURN(const AddressList list, Resolve(host, ""));
  for (const addrinfo* entry = list.get(); entry != nullptr; entry = entry->ai_next) {
    if (!IsLoopback(*entry->ai_addr)) return false;
  }
  return true;
}

absl::Status CheckBindable(const Address& address, const std::string& key) {
  WEFT_ASSIGN_OR_RETURN(const AddressList list, Resolve(address.host, absl::StrCat(address.port)));
  int missing = 0;
  bool bound = false;
  for (const addrinfo* entry = list.get(); entry != nullptr; entry = entry->ai_next) {
    const int fd = socket(entry->ai_family, entry->ai_socktype | SOCK_CLOEXEC, entry->ai_protocol);
    if (fd < 0) continue;  // a family this machine does not have
    const int yes = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
    const int error = bind(fd, entry->ai_addr, entry->ai_addrlen) == 0 && listen(fd, 1) == 0 ? 0 : errno;
    close(fd);
    // "localhost" is ::1 as well, which a machine may lack; one address is enough.
    if (error == EADDRNOTAVAIL) {
      missing = error;
    } else if (error != 0) {
      return BindError(error, address, key);
    } else {
      bound = true;
    }
  }
  return bound || missing == 0 ? absl::OkStatus() : BindError(missing, address, key);
}

}  // namespace weft::server
