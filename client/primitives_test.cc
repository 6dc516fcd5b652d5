#include "client/primitives.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <utility>

#include "common/random.h"

namespace weft {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Two modules of rank 3 and a head.
std::shared_ptr<const Layout> TestLayout() {
  return *Layout::Create({{"m.lora_A.weight", "lora_a", {3, 4}},
                          {"m.lora_B.weight", "lora_b", {2, 3}},
                          {"n.lora_A.weight", "lora_a", {3, 2}},
                          {"n.lora_B.weight", "lora_b", {5, 3}},
                          {"h", "head", {2}}});
}

Adapter Random(const std::shared_ptr<const Layout>& layout, uint64_t seed) {
  Adapter adapter(layout);
  Philox random(seed, StreamId("test"));
  for (float& value : adapter.values()) value = static_cast<float>(random.NextNormal());
  return adapter;
}

float& At(Adapter& adapter, const std::string& name, int64_t row, int64_t column) {
  const TensorSpec& tensor = *adapter.layout().Find(name);
  return adapter.tensor(tensor)[static_cast<size_t>(row * tensor.shape[1] + column)];
}

TEST(PrimitivesTest, KeepPrefix_RowsOfAAndColumnsOfB) {
  Adapter adapter(TestLayout());
  for (float& value : adapter.values()) value = 1;
  KeepPrefix(2, &adapter);
  EXPECT_THAT(adapter.values().subspan(0, 18), ElementsAre(1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 0, 1, 1, 0));
  EXPECT_THAT(adapter.values().last(2), ElementsAre(1, 1));
  Adapter whole = Random(TestLayout(), 1);
  const std::string hash = whole.ContentHash();
  KeepPrefix(3, &whole);
  EXPECT_EQ(whole.ContentHash(), hash);
  EXPECT_EQ(LargestRank(*TestLayout()), 3);
}

TEST(PrimitivesTest, CheckPart_NamesWhatDoesNotFit) {
  const auto other = *Layout::Create({{"h", "head", {3}}});
  EXPECT_TRUE(CheckPart(*TestLayout(), *TestLayout(), "x").ok());
  EXPECT_THAT(std::string(CheckPart(*other, *TestLayout(), "kept error").message()),
              HasSubstr("kept error: tensor \"h\" of role head"));
}

TEST(PrimitivesTest, WithRoles_ZerosBesideWhatIsThere) {
  const Adapter head = Random(*Layout::Create({{"h", "head", {2}}}), 3);
  const auto adapter = *WithRoles(*TestLayout(), {"lora_b"}, &head);
  ASSERT_EQ(adapter->layout().tensors().size(), 3u);
  EXPECT_EQ(adapter->values()[0], 0);
  EXPECT_EQ(adapter->values().last(2)[1], head.values()[1]);
  EXPECT_EQ(*WithRoles(*TestLayout(), {"none"}, nullptr), nullptr);
}

// The score is the Frobenius norm of the product that the component's change makes, here formed element by element.
TEST(PrimitivesTest, StrongestComponents_HaveTheLargestProducts) {
  const auto layout = TestLayout();
  const auto sent = *Layout::Create({layout->tensors()[1], layout->tensors()[3]});  // B of both modules
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    Adapter start = Random(layout, seed);
    const Adapter delta = Random(sent, seed + 100);
    std::vector<double> scores;
    for (const char* module : {"m", "n"}) {
      const TensorSpec& b = *sent->Find(std::string(module) + ".lora_B.weight");
      const TensorSpec& a = *layout->Find(std::string(module) + ".lora_A.weight");
      for (int64_t j = 0; j < 3; ++j) {
        double sum = 0;
        for (int64_t o = 0; o < b.shape[0]; ++o) {
          for (int64_t i = 0; i < a.shape[1]; ++i) {
            sum += std::pow(double{delta.tensor(b)[o * 3 + j]} * start.tensor(a)[j * a.shape[1] + i], 2);
          }
        }
        scores.push_back(sum);
      }
    }
    const auto kept = StrongestComponents(delta, start, 4);
    ASSERT_TRUE(kept.ok()) << kept.status();
    ASSERT_EQ(kept->size(), 6u);
    double weakest_kept = std::numeric_limits<double>::infinity(), strongest_dropped = 0;
    int count = 0;
    for (size_t j = 0; j < 6; ++j) {
      count += (*kept)[j] ? 1 : 0;
      if ((*kept)[j]) weakest_kept = std::min(weakest_kept, scores[j]);
      if (!(*kept)[j]) strongest_dropped = std::max(strongest_dropped, scores[j]);
    }
    EXPECT_EQ(count, 4);
    EXPECT_GT(weakest_kept, strongest_dropped);
  }
}

TEST(PrimitivesTest, StrongestComponents_TiesByOrderAndNanIsSent) {
  const auto layout = TestLayout();
  const auto sent = *Layout::Create({layout->tensors()[0], layout->tensors()[2]});  // A of both modules
  Adapter start(layout);
  for (float& value : start.values()) value = 1;
  Adapter delta(sent);
  EXPECT_THAT(*StrongestComponents(delta, start, 2), ElementsAre(true, true, false, false, false, false));
  At(delta, "n.lora_A.weight", 1, 0) = std::nanf("");
  At(delta, "m.lora_A.weight", 2, 0) = 1;
  EXPECT_THAT(*StrongestComponents(delta, start, 2), ElementsAre(false, false, true, false, true, false));
}

TEST(PrimitivesTest, RankAfter_PrunesWhenTheTailShrank) {
  proto::RankPruning pruning;
  pruning.set_gamma(0.67);
  Adapter start(TestLayout());
  for (float& value : start.values()) value = 1;
  Adapter trained = start.Clone();
  EXPECT_EQ(*RankAfter(pruning, 3, start, trained), 3);  // unchanged
  At(trained, "m.lora_A.weight", 2, 1) = 0.5f;           // component 2: the tail of rank 3
  EXPECT_EQ(*RankAfter(pruning, 3, start, trained), 2);
  At(trained, "n.lora_B.weight", 0, 2) = 4;  // the sum over both modules has grown
  EXPECT_EQ(*RankAfter(pruning, 3, start, trained), 3);
  trained = start.Clone();
  At(trained, "m.lora_A.weight", 2, 1) = 0.5f;
  EXPECT_EQ(*RankAfter(pruning, 2, start, trained), 2);  // beyond what was trained
  At(trained, "m.lora_A.weight", 1, 1) = 0.5f;
  EXPECT_EQ(*RankAfter(pruning, 2, start, trained), 1);
  EXPECT_EQ(*RankAfter(pruning, 1, start, trained), 1);  // nothing left to prune
}

TEST(PrimitivesTest, NextControl_OptionTwo) {
  const auto layout = *Layout::Create({{"a", "lora_a", {2}}, {"h", "head", {1}}});
  const auto controls = *Layout::Create({{"control.a", "control.lora_a", {2}}, {"control.h", "control.head", {1}}});
  proto::Plan plan;
  plan.add_roles_trained("lora_a");
  plan.mutable_training()->set_learning_rate(0.5);
  (*plan.mutable_learning_rate_scale())["lora_a"] = 0.25;
  Adapter own(controls), c(controls), x(layout), y(layout);
  own.values()[0] = 3;
  c.values()[0] = 1;
  x.values()[0] = 2;
  y.values()[0] = 1;
  own.values()[2] = 7;  // the head is not trained
  c.values()[2] = 1;
  // c_k - c + (x - y) / (T eta) = 3 - 1 + 1 / (4 * 0.5 * 0.25)
  EXPECT_THAT(NextControl(plan, 4, own, c, x, y)->values(), ElementsAre(4, 0, 7));
  EXPECT_THAT(NextControl(plan, 0, own, c, x, y)->values(), ElementsAre(3, 0, 7));
}

TEST(PrimitivesTest, EncodeClipped_WhatIsSentKeepsTheBound) {
  const auto layout = *Layout::Create({{"a", "lora_a", {1000}}, {"b", "head", {77}}});
  for (const char* values : {"f32", "bf16", "f16", "int8", "int4", "topk"}) {
    proto::EncodingConfig encoding;
    encoding.set_values(values);
    encoding.set_density(0.5);
    for (uint64_t seed = 1; seed <= 20; ++seed) {
      const Adapter delta = Random(layout, seed);
      const auto clipped = EncodeClipped(delta.Clone(), 1.5, encoding);
      ASSERT_TRUE(clipped.ok()) << values << ": " << clipped.status();
      EXPECT_LE(clipped->encoded.norm(), 1.5) << values;
      // Not scaled down for nothing: topk alone drops a part of the norm.
      EXPECT_GT(clipped->encoded.norm(), values == std::string("topk") ? 1.3 : 1.499) << values;
      const auto loose = EncodeClipped(delta.Clone(), 0, encoding);
      EXPECT_EQ(loose->clipped->ContentHash(), delta.ContentHash());
    }
  }
}

// A single value moves by whole steps of its encoding.
TEST(PrimitivesTest, EncodeClipped_OneValueAlone) {
  for (const char* values : {"bf16", "f16", "int8", "int4", "topk"}) {
    proto::EncodingConfig encoding;
    encoding.set_values(values);
    encoding.set_density(1);
    Adapter delta(*Layout::Create({{"a", "lora_a", {1}}}));
    delta.values()[0] = -3;
    const auto clipped = EncodeClipped(std::move(delta), 1.0 + 1.0 / 1000, encoding);
    ASSERT_TRUE(clipped.ok()) << values << ": " << clipped.status();
    EXPECT_LE(clipped->encoded.norm(), 1.001) << values;
    EXPECT_GT(clipped->encoded.norm(), 0.99) << values;
  }
}

TEST(PrimitivesTest, EncodeClipped_RefusesWhatCannotBeEncoded) {
  Adapter delta(*Layout::Create({{"a", "lora_a", {2}}}));
  delta.values()[1] = std::nanf("");
  proto::EncodingConfig encoding;
  encoding.set_values("int8");
  EXPECT_THAT(std::string(EncodeClipped(delta.Clone(), 0, encoding).status().message()),
              HasSubstr("tensor a holds NaN"));
  EXPECT_EQ(EncodeClipped(delta.Clone(), 1, {}).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(EncodeClipped(delta.Clone(), 0, {}).ok());  // plain: for the receiver to refuse
}

}  // namespace
}  // namespace weft
