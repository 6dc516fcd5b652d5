#include "common/dial_address.h"

#include <gtest/gtest.h>

#include "absl/strings/match.h"

namespace weft {
namespace {

TEST(DialAddressTest, Parse_TakesLoopback) {
  for (const char* text : {"127.0.0.1:7400", "127.3.2.1:1", "[::1]:65535", "localhost:7400"}) {
    const auto address = DialAddress::Parse(text, "coordinator", /*insecure=*/false);
    ASSERT_TRUE(address.ok()) << text << ": " << address.status();
    EXPECT_EQ(address->target, text);
    EXPECT_TRUE(address->loopback);
  }
}

TEST(DialAddressTest, Parse_RefusesAnotherMachineWithoutInsecure) {
  const auto address = DialAddress::Parse("192.0.2.1:7400", "coordinator", /*insecure=*/false);
  EXPECT_EQ(address.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(absl::StrContains(address.status().message(), "--insecure")) << address.status();
}

TEST(DialAddressTest, Parse_TakesAnotherMachineWithInsecure) {
  const auto address = DialAddress::Parse("192.0.2.1:7400", "coordinator", /*insecure=*/true);
  ASSERT_TRUE(address.ok()) << address.status();
  EXPECT_FALSE(address->loopback);
}

TEST(DialAddressTest, Parse_RefusesWhatIsNotHostAndPort) {
  for (const char* text : {"", "7400", "127.0.0.1", ":7400", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:65536",
                           "127.0.0.1:x", "::1:7400", "[]:7400"}) {
    const auto address = DialAddress::Parse(text, "--coordinator", /*insecure=*/true);
    EXPECT_EQ(address.status().code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_TRUE(absl::StrContains(address.status().message(), "--coordinator: found")) << address.status();
  }
}

}  // namespace
}  // namespace weft
