#include "server/net/address.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

namespace weft::server {
namespace {

TEST(AddressTest, Parse_HostAndPort) {
  const auto address = Address::Parse("127.0.0.1:7400", "listen");
  ASSERT_TRUE(address.ok()) << address.status();
  EXPECT_EQ(address->host, "127.0.0.1");
  EXPECT_EQ(address->port, 7400);
  EXPECT_EQ(address->ToString(), "127.0.0.1:7400");
}

TEST(AddressTest, Parse_BracketedV6) {
  const auto address = Address::Parse("[::1]:0", "listen");
  ASSERT_TRUE(address.ok()) << address.status();
  EXPECT_EQ(address->host, "::1");
  EXPECT_EQ(address->ToString(), "[::1]:0");
}

TEST(AddressTest, Parse_RefusesWhatIsNoAddress) {
  for (const char* text :
       {"", "7400", ":7400", "host", "host:", "host:x", "host:65536", "host:-1", "::1:7400", "[]:1"}) {
    const auto address = Address::Parse(text, "page");
    EXPECT_EQ(address.status().code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_NE(address.status().message().find("page: found"), absl::string_view::npos) << address.status();
  }
}

TEST(AddressTest, IsLoopback_TellsLoopbackFromTheRest) {
  EXPECT_TRUE(*IsLoopback("127.0.0.1"));
  EXPECT_TRUE(*IsLoopback("127.9.9.9"));
  EXPECT_TRUE(*IsLoopback("::1"));
  EXPECT_TRUE(*IsLoopback("localhost"));
  EXPECT_FALSE(*IsLoopback("0.0.0.0"));
  EXPECT_FALSE(*IsLoopback("::"));
  EXPECT_FALSE(*IsLoopback("10.0.0.1"));
}

TEST(AddressTest, IsLoopback_RefusesAHostThatDoesNotResolve) {
  EXPECT_EQ(IsLoopback("no such host").status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(AddressTest, CheckBindable_PortInUse) {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in local{};
  local.sin_family = AF_INET;
  local.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(local);
  ASSERT_EQ(bind(fd, reinterpret_cast<sockaddr*>(&local), size), 0);
  ASSERT_EQ(listen(fd, 1), 0);
  ASSERT_EQ(getsockname(fd, reinterpret_cast<sockaddr*>(&local), &size), 0);
  const int port = ntohs(local.sin_port);
  const absl::Status status = CheckBindable({"127.0.0.1", port}, "listen");
  close(fd);
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_NE(status.message().find("port " + std::to_string(port) + " is in use"), absl::string_view::npos) << status;
}

TEST(AddressTest, CheckBindable_AddressOfAnotherMachine) {
  EXPECT_EQ(CheckBindable({"192.0.2.1", 0}, "listen").code(), absl::StatusCode::kInvalidArgument);
}

TEST(AddressTest, CheckBindable_FreePort) { EXPECT_TRUE(CheckBindable({"127.0.0.1", 0}, "listen").ok()); }

}  // namespace
}  // namespace weft::server
