#include "adapters/encoding.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "common/half.h"
#include "common/random.h"

namespace weft {
namespace {

using testing::HasSubstr;

constexpr const char* kNames[] = {"f32", "bf16", "f16", "int8", "int4", "topk"};

proto::EncodingConfig Config(const std::string& values, double density = 0.1) {
  proto::EncodingConfig config;
  config.set_values(values);
  config.set_density(density);
  return config;
}

std::shared_ptr<const Layout> SomeLayout() {
  return *Layout::Create({{.name = "a", .role = "lora_a", .shape = {3, 100}},
                          {.name = "b", .role = "lora_b", .shape = {1}},
                          {.name = "c", .role = "lora_b", .shape = {129}}});
}

Adapter Random(const std::shared_ptr<const Layout>& layout, uint64_t seed) {
  Adapter adapter(layout);
  Philox random(seed, 0);
  for (float& value : adapter.values()) value = static_cast<float>(random.NextNormal());
  return adapter;
}

Adapter Of(std::vector<float> values) {
  Adapter adapter(*Layout::Create({{.name = "t", .role = "head", .shape = {static_cast<int64_t>(values.size())}}}));
  std::copy(values.begin(), values.end(), adapter.values().begin());
  return adapter;
}

// Largest distance of the decoded values, by the size of a block's largest value.
double LargestError(const Adapter& adapter, const Adapter& decoded) {
  double worst = 0;
  for (const TensorSpec& tensor : adapter.layout().tensors()) {
    const auto from = adapter.tensor(tensor);
    const auto to = decoded.tensor(tensor);
    for (size_t begin = 0; begin < from.size(); begin += kBlockSize) {
      const size_t end = std::min(from.size(), begin + kBlockSize);
      double max = 0;
      double error = 0;
      for (size_t i = begin; i < end; ++i) {
        max = std::max(max, std::fabs(static_cast<double>(from[i])));
        error = std::max(error, std::fabs(static_cast<double>(from[i]) - to[i]));
      }
      worst = std::max(worst, error / max);
    }
  }
  return worst;
}

TEST(EncodedUpdateTest, Encode_ComesBackWithinHalfAStep) {
  const Adapter adapter = Random(SomeLayout(), 1);
  const struct {
    const char* name;
    double most;  // half a step of the largest value of a block
  } cases[] = {
      {"f32", 0}, {"bf16", 0x1p-8}, {"f16", 0x1p-11}, {"int8", 0.5 / 127 * (1 + 1e-6)}, {"int4", 0.5 / 7 * (1 + 1e-6)}};
  for (const auto& c : cases) {
    const EncodedUpdate update = *EncodedUpdate::Encode(adapter, Config(c.name));
    EXPECT_EQ(update.bytes().size(), EncodedUpdate::SizeBytes(adapter.layout(), update.encoding(), 0));
    EXPECT_EQ(update.layout(), adapter.layout());
    EXPECT_STREQ(EncodingName(update.encoding()), c.name);
    const double error = LargestError(adapter, update.Decode());
    EXPECT_LE(error, c.most) << c.name;
    EXPECT_GE(error, c.most / 2) << c.name;  // or the bound would not be a bound of this encoding
  }
}

TEST(EncodedUpdateTest, Encode_TwiceGivesTheSameBytes) {
  // What an encoded update decodes to, it encodes to: nothing is lost a second time.
  const Adapter adapter = Random(SomeLayout(), 2);
  for (const char* name : kNames) {
    const EncodedUpdate once = *EncodedUpdate::Encode(adapter, Config(name));
    const EncodedUpdate twice = *EncodedUpdate::Encode(once.Decode(), Config(name));
    EXPECT_EQ(twice.Decode().ContentHash(), once.Decode().ContentHash()) << name;
  }
}

TEST(EncodedUpdateTest, Encode_Int8CodesAreRoundedToEven) {
  const EncodedUpdate update = *EncodedUpdate::Encode(Of({127, 0.5f, 1.5f, -2.5f, -127, 0.49f}), Config("int8"));
  const auto* const bytes = reinterpret_cast<const int8_t*>(update.bytes().data());
  float scale = 0;
  std::memcpy(&scale, bytes, 4);
  EXPECT_EQ(scale, 1);
  EXPECT_EQ(std::vector<int8_t>(bytes + 4, bytes + 10), (std::vector<int8_t>{127, 0, 2, -2, -127, 0}));
}

TEST(EncodedUpdateTest, Encode_Int4PacksTheLowerHalfFirst) {
  const EncodedUpdate update = *EncodedUpdate::Encode(Of({7, -7, 1}), Config("int4"));
  ASSERT_EQ(update.bytes().size(), 6u);
  EXPECT_EQ(static_cast<uint8_t>(update.bytes()[4]), 0x97);
  EXPECT_EQ(static_cast<uint8_t>(update.bytes()[5]), 0x01);
}

TEST(EncodedUpdateTest, Encode_TopKTakesTheLargestAndOfEqualOnesTheFirst) {
  const Adapter adapter = Of({1, -3, 2, 3, -2, 0, 2});
  const EncodedUpdate update = *EncodedUpdate::Encode(adapter, Config("topk", 0.5));  // 4 of 7
  const Adapter decoded = update.Decode();
  EXPECT_EQ(std::vector<float>(decoded.values().begin(), decoded.values().end()),
            (std::vector<float>{0, -3, 2, 3, -2, 0, 0}));
  EXPECT_EQ(EncodedUpdate::Encode(adapter, Config("topk", 1))->Decode().ContentHash(), adapter.ContentHash());
}

TEST(EncodedUpdateTest, Encode_ZerosAndTheSmallestValues) {
  for (const char* name : kNames) {
    const EncodedUpdate zero = *EncodedUpdate::Encode(Adapter(SomeLayout()), Config(name));
    EXPECT_EQ(zero.norm(), 0) << name;
    EXPECT_EQ(zero.Decode().ContentHash(), Adapter(SomeLayout()).ContentHash());
    // Scales below the smallest fp32, or rounded to few bits.
    for (const float tiny : {0x1p-149f, 0x1.68p-142f}) {
      const EncodedUpdate update = *EncodedUpdate::Encode(Of({tiny, -tiny, 0}), Config(name, 1));
      EXPECT_LE(update.max_abs(), tiny * 1.02f) << name;  // such a scale has few bits
    }
  }
}

TEST(EncodedUpdateTest, Encode_WhatDoesNotFitIsRefused) {
  using Limits = std::numeric_limits<float>;
  const auto refused = [](const Adapter& adapter, const proto::EncodingConfig& config, const char* why) {
    const absl::Status status = EncodedUpdate::Encode(adapter, config).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << why;
    EXPECT_THAT(status.message(), HasSubstr(why));
  };
  for (const char* name : kNames) {
    refused(Of({1, Limits::quiet_NaN()}), Config(name), "tensor t holds NaN at element 1");
    refused(Of({-Limits::infinity()}), Config(name), "tensor t holds Inf at element 0");
    refused(Of({1, 2, kUpdateLimit}), Config(name), "tensor t holds 65536 at element 2");
  }
  const float largest = std::nextafter(kUpdateLimit, 0.0f);
  refused(Of({largest}), Config("bf16"), "tensor t holds 65536 at element 0");
  refused(Of({1, 65520}), Config("f16"), "tensor t holds Inf at element 1");
  EXPECT_EQ(EncodedUpdate::Encode(Of({65519.99f}), Config("f16"))->max_abs(), 65504);
  EXPECT_EQ(EncodedUpdate::Encode(Of({largest}), Config("f32"))->max_abs(), largest);
  refused(Of({1}), Config("f64"), "found \"f64\"");
  for (const double density : {0.0, -0.1, 1.1, std::nan("")}) {
    refused(Of({1}), Config("topk", density), "encoding.density");
  }
  EXPECT_EQ(EncodedUpdate::Encode(Of({1}), {})->encoding(), Encoding::kF32);
}

TEST(EncodedUpdateTest, FromBytes_IsWhatWasSent) {
  const Adapter adapter = Random(SomeLayout(), 3);
  for (const char* name : kNames) {
    const EncodedUpdate sent = *EncodedUpdate::Encode(adapter, Config(name));
    const std::string bytes(reinterpret_cast<const char*>(sent.bytes().data()), sent.bytes().size());
    const EncodedUpdate received = *EncodedUpdate::FromBytes(adapter.layout_ptr(), sent.encoding(), bytes);
    EXPECT_TRUE(received.checked());
    EXPECT_EQ(received.norm(), sent.norm());
    EXPECT_EQ(received.max_abs(), sent.max_abs());
    EXPECT_EQ(received.Decode().ContentHash(), sent.Decode().ContentHash());
    EXPECT_EQ(sent.norm(), EncodedUpdate::View(sent.Decode()).norm()) << name;
    EXPECT_EQ(sent.Clone().Decode().ContentHash(), sent.Decode().ContentHash());
    EXPECT_EQ(EncodedUpdate::FromBytes(adapter.layout_ptr(), sent.encoding(), bytes.substr(1)).status().code(),
              absl::StatusCode::kInvalidArgument);
  }
}

TEST(EncodedUpdateTest, FromChecked_OtherBytesThanTheCheckersAreRefused) {
  const Adapter adapter = Of({1, 2});
  UpdateChecker checker(adapter.layout_ptr(), Encoding::kF32);
  ASSERT_EQ(checker.Add(adapter.bytes()), absl::OkStatus());
  EXPECT_EQ(EncodedUpdate::FromChecked(checker, std::string(8, '\0')).status(), absl::OkStatus());
  EXPECT_THAT(EncodedUpdate::FromChecked(checker, "x").status().message(), HasSubstr("found 1 bytes, of which 8"));
  UpdateChecker unfinished(adapter.layout_ptr(), Encoding::kF32);
  EXPECT_THAT(EncodedUpdate::FromChecked(unfinished, "").status().message(), HasSubstr("expected 8"));
}

TEST(EncodedUpdateTest, View_RefersToTheAdapterUnchecked) {
  Adapter adapter = Of({3, -4});
  const EncodedUpdate view = EncodedUpdate::View(adapter);
  EXPECT_EQ(view.bytes().data(), adapter.bytes().data());
  EXPECT_FALSE(view.checked());
  EXPECT_EQ(view.norm(), 5);
  EXPECT_EQ(view.max_abs(), 4);
  EXPECT_EQ(view.CheckValues(), absl::OkStatus());
  const EncodedUpdate clone = view.Clone();
  adapter.values()[1] = std::numeric_limits<float>::infinity();
  EXPECT_THAT(view.CheckValues().message(), HasSubstr("tensor t holds Inf at element 1"));
  EXPECT_FALSE(clone.checked());
  EXPECT_EQ(clone.norm(), 5);
  EXPECT_EQ(clone.CheckValues(), absl::OkStatus());
}

TEST(EncodedUpdateTest, Check_IsDoneOnce) {
  Adapter adapter = Of({0, -2});
  EncodedUpdate update = EncodedUpdate::View(adapter).Clone();
  EXPECT_FALSE(update.checked());
  EXPECT_TRUE(update.Check().ok());
  EXPECT_TRUE(update.checked());
  EXPECT_EQ(update.norm(), 2);
  EXPECT_EQ(update.max_abs(), 2);
  EncodedUpdate view = EncodedUpdate::View(adapter);
  EXPECT_TRUE(view.Check().ok());
  EXPECT_FALSE(view.checked()) << "its adapter may change";
  adapter.values()[1] = std::numeric_limits<float>::quiet_NaN();
  update = EncodedUpdate::View(adapter).Clone();
  EXPECT_EQ(update.Check().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_FALSE(update.checked());
  EncodedUpdate owned = EncodedUpdate::Of(std::make_shared<const Adapter>(Of({0, -2})));
  EXPECT_FALSE(owned.checked());
  EXPECT_TRUE(owned.Check().ok());
  EXPECT_TRUE(owned.checked());
  EXPECT_EQ(owned.Decode().values()[1], -2);
}

TEST(EncodedUpdateTest, Move_KeepsShortUpdates) {
  // A short string's bytes move with the object.
  EncodedUpdate update = *EncodedUpdate::Encode(Of({1, 2}), Config("bf16"));
  const EncodedUpdate moved = std::move(update);
  EXPECT_EQ(moved.Decode().values()[1], 2);
}

}  // namespace
}  // namespace weft
