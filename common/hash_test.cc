#include "common/hash.h"

#include <gtest/gtest.h>

#include <utility>
#include <vector>

namespace weft {
namespace {

constexpr char kAbc[] = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

TEST(HashTest, Sha256Of_KnownVectors) {
  EXPECT_EQ(ToHex(Sha256Of("")), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(ToHex(Sha256Of("abc")), kAbc);
  EXPECT_EQ(ToHex(Sha256Of("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq")),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
}

TEST(HashTest, Sha256_PartsGiveTheHashOfTheWhole) {
  Sha256 sha;
  sha.Update("a");
  sha.Update("");
  sha.Update("bc");
  EXPECT_EQ(ToHex(sha.Finish()), kAbc);
}

TEST(HashTest, Sha256_MovedGoesOn) {
  Sha256 first;
  first.Update("ab");
  Sha256 second = std::move(first);
  second.Update("c");
  EXPECT_EQ(ToHex(second.Finish()), kAbc);
}

TEST(HashTest, ToHex_IsLowerCaseWithLeadingZeros) {
  EXPECT_EQ(ToHex(std::string_view("\x00\x0f\xAB\xff", 4)), "000fabff");
  EXPECT_EQ(ToHex(""), "");
}

// Vectors of RFC 3720, appendix B.4.
TEST(HashTest, Crc32c_KnownVectors) {
  EXPECT_EQ(Crc32c("123456789", 9), 0xE3069283u);
  EXPECT_EQ(Crc32c("", 0), 0u);
  const std::vector<uint8_t> zeros(32, 0);
  const std::vector<uint8_t> ones(32, 0xFF);
  std::vector<uint8_t> rising(32);
  for (size_t i = 0; i < rising.size(); ++i) rising[i] = static_cast<uint8_t>(i);
  EXPECT_EQ(Crc32c(zeros.data(), zeros.size()), 0x8A9136AAu);
  EXPECT_EQ(Crc32c(ones.data(), ones.size()), 0x62A8AB43u);
  EXPECT_EQ(Crc32c(rising.data(), rising.size()), 0x46DD794Eu);
}

}  // namespace
}  // namespace weft
