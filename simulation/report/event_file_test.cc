#include "simulation/report/event_file.h"

#include <gtest/gtest.h>

#include <cstring>

#include "common/hash.h"
#include "simulation/report/event.pb.h"

namespace weft::simulation {
namespace {

template <typename T>
T At(const std::string& bytes, size_t offset) {
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof(value));
  return value;
}

// Of a record of no bytes, from TensorFlow's own definition: the masked CRC32C of eight zero bytes is that of
// 0x8c28b28a, of nothing that of 0.
TEST(FrameRecordTest, LengthAndMaskedChecksums) {
  const std::string record = FrameRecord("");
  ASSERT_EQ(record.size(), 16);
  EXPECT_EQ(At<uint64_t>(record, 0), 0);
  const uint32_t crc = Crc32c(record.data(), 8);
  EXPECT_EQ(crc, 0x8c28b28aU);
  EXPECT_EQ(At<uint32_t>(record, 8), ((crc >> 15) | (crc << 17)) + 0xa282ead8U);
  EXPECT_EQ(At<uint32_t>(record, 12), 0xa282ead8U);
  EXPECT_EQ(FrameRecord("abc").substr(12, 3), "abc");
}

TEST(ScalarEventTest, HoldsStepTimeAndTags) {
  const std::string record = ScalarEvent(absl::FromUnixSeconds(12), 7, {{"a/b", 0.5}, {"c", 2}});
  proto::tensorboard::Event event;
  ASSERT_TRUE(event.ParseFromString(record.substr(12, At<uint64_t>(record, 0))));
  EXPECT_EQ(event.wall_time(), 12);
  EXPECT_EQ(event.step(), 7);
  ASSERT_EQ(event.summary().value_size(), 2);
  EXPECT_EQ(event.summary().value(0).tag(), "a/b");
  EXPECT_EQ(event.summary().value(1).simple_value(), 2);
}

TEST(EventFileStartTest, NamesTheVersion) {
  const std::string record = EventFileStart(absl::FromUnixSeconds(12));
  EXPECT_NE(record.find("brain.Event:2"), std::string::npos);
}

}  // namespace
}  // namespace weft::simulation
