#include "training/memory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace weft {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr int64_t kMegabyte = 1 << 20;

TEST(MemoryTest, CheckMemoryFor_TakesWhatFits) {
  const MemoryEstimate estimate{.base_bytes = 3, .tokens = 1, .activation_bytes = 4, .adapter_bytes = 5};
  EXPECT_TRUE(CheckMemoryFor(estimate, {}, 12).ok());
  EXPECT_FALSE(CheckMemoryFor(estimate, {}, 11).ok());
  EXPECT_TRUE(CheckMemoryFor(estimate, {}, /*limit=*/0).ok());
}

TEST(MemoryTest, CheckMemoryFor_SaysWhatToLower) {
  const MemoryEstimate estimate{
      .base_bytes = 100 * kMegabyte, .tokens = 4096, .activation_bytes = 600 * kMegabyte, .adapter_bytes = 1};
  proto::TrainingConfig training;
  training.set_batch_size(32);
  training.set_max_length(128);
  const absl::Status refused = CheckMemoryFor(estimate, training, 500 * kMegabyte);
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(
      std::string(refused.message()),
      HasSubstr("training would take 701 MB (activations of 4096 tokens 600 MB, base 100 MB, adapters 1 MB), 500 "
                "MB are available; lower training.batch_size (32) with accumulation, or training.max_length "
                "(128), or set training.checkpointing, or training.compute: bf16"));
  training.set_checkpointing(true);
  training.set_compute("bf16");
  EXPECT_THAT(std::string(CheckMemoryFor(estimate, training, 1).message()), Not(HasSubstr("or set")));
}

}  // namespace
}  // namespace weft
