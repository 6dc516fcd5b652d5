#include "server/export/export_adapter.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "adapters/factors.h"
#include "adapters/forms/form.h"
#include "common/random.h"
#include "server/testing/small_job.h"

namespace weft::server {
namespace {

using ::testing::HasSubstr;
using Dense = std::map<std::string, std::vector<double>>;  // out x in, by module

constexpr int64_t kIn = 6, kOut = 4;

void Fill(uint64_t seed, Adapter* adapter) {
  Philox random(seed, StreamId("export_adapter_test"));
  for (float& value : adapter->values()) value = random.NextFloat() - 0.5f;
}

// Two modules, one as wide as the other is tall, and a head.
Adapter SmallAdapter(int64_t rank, uint64_t seed = 1) {
  Adapter adapter(*Layout::Create({{"m.lora_A.weight", "lora_a", {rank, kIn}},
                                   {"m.lora_B.weight", "lora_b", {kOut, rank}},
                                   {"n.lora_A.weight", "lora_a", {rank, kOut}},
                                   {"n.lora_B.weight", "lora_b", {kIn, rank}},
                                   {"head.bias", "head", {3}}}));
  Fill(seed, &adapter);
  return adapter;
}

Adapter Step(int64_t rank, uint64_t seed, bool both = true) {
  std::vector<TensorSpec> tensors = {{"m.base_A.weight", "base_a", {rank, kIn}},
                                     {"m.base_B.weight", "base_b", {kOut, rank}}};
  if (both) {
    tensors.push_back({"n.base_A.weight", "base_a", {rank, kOut}});
    tensors.push_back({"n.base_B.weight", "base_b", {kIn, rank}});
  }
  Adapter step(*Layout::Create(tensors));
  Fill(seed, &step);
  return step;
}

void AddProduct(const Adapter& from, const std::string& a_name, const std::string& b_name, std::vector<double>* sum) {
  const TensorSpec* a = from.layout().Find(a_name);
  const TensorSpec* b = from.layout().Find(b_name);
  if (a == nullptr) return;
  const int64_t rank = a->shape[0], in = a->shape[1], out = b->shape[0];
  sum->resize(static_cast<size_t>(in * out));
  for (int64_t o = 0; o < out; ++o) {
    for (int64_t i = 0; i < in; ++i) {
      for (int64_t j = 0; j < rank; ++j) {
        (*sum)[o * in + i] += double{from.tensor(*b)[o * rank + j]} * double{from.tensor(*a)[j * in + i]};
      }
    }
  }
}

Dense DenseOf(const Adapter& adapter, const std::vector<Adapter>& steps = {}) {
  Dense dense;
  for (const char* m : {"m", "n"}) {
    const std::string module = m;
    AddProduct(adapter, module + ".lora_A.weight", module + ".lora_B.weight", &dense[module]);
    for (const Adapter& step : steps) {
      AddProduct(step, module + ".base_A.weight", module + ".base_B.weight", &dense[module]);
    }
  }
  return dense;
}

double LargestDifference(const Dense& one, const Dense& other) {
  double largest = 0;
  for (const auto& [module, values] : one) {
    EXPECT_EQ(values.size(), other.at(module).size());
    for (size_t i = 0; i < values.size(); ++i) {
      largest = std::max(largest, std::abs(values[i] - other.at(module)[i]));
    }
  }
  return largest;
}

int64_t RankOf(const Adapter& adapter) { return adapter.layout().tensors()[0].shape[0]; }

TEST(WithBaseStepsTest, RanksThatFit_AreTheSumAndExact) {
  const Adapter adapter = SmallAdapter(1);
  const std::vector<Adapter> steps = [] {
    std::vector<Adapter> list;
    list.push_back(Step(1, 2));
    list.push_back(Step(2, 3));
    return list;
  }();
  const auto merged = WithBaseSteps(adapter, steps);
  ASSERT_TRUE(merged.ok()) << merged.status();
  EXPECT_EQ(RankOf(*merged), 4);
  const Dense expected = DenseOf(adapter, steps);
  // The factors are copied; the sums of this test run in another order, all in double.
  EXPECT_LT(LargestDifference(DenseOf(*merged), expected), 1e-15);
  EXPECT_GT(LargestDifference(DenseOf(adapter), expected), 0.01) << "a step left out";
  const TensorSpec* head = merged->layout().Find("head.bias");
  ASSERT_NE(head, nullptr);
  EXPECT_EQ(merged->tensor(*head)[2], adapter.tensor(*adapter.layout().Find("head.bias"))[2]);
}

TEST(WithBaseStepsTest, RanksBeyondTheModule_AreTheProductRoundedOnce) {
  const Adapter adapter = SmallAdapter(2);
  std::vector<Adapter> steps;
  for (uint64_t t = 0; t < 9; ++t) steps.push_back(Step(3, 10 + t));
  const auto merged = WithBaseSteps(adapter, steps);
  ASSERT_TRUE(merged.ok()) << merged.status();
  EXPECT_EQ(RankOf(*merged), kOut) << "min(in, out) of both modules";
  const Dense expected = DenseOf(adapter, steps);
  // Measured 2.9e-8: entries are of magnitude below 1, rounded to fp32 once.
  EXPECT_LT(LargestDifference(DenseOf(*merged), expected), 6e-8);
  steps.pop_back();
  EXPECT_GT(LargestDifference(DenseOf(*merged), DenseOf(adapter, steps)), 0.01);
}

TEST(WithBaseStepsTest, ModulesThatDoNotChange_AreFilledUpWithZeros) {
  const Adapter adapter = SmallAdapter(1);
  std::vector<Adapter> steps;
  steps.push_back(Step(2, 5, /*both=*/false));
  const auto merged = WithBaseSteps(adapter, steps);
  ASSERT_TRUE(merged.ok()) << merged.status();
  EXPECT_EQ(RankOf(*merged), 3);
  EXPECT_LT(LargestDifference(DenseOf(*merged), DenseOf(adapter, steps)), 1e-15);
  const std::span<const float> a = merged->tensor(*merged->layout().Find("n.lora_A.weight"));
  for (int64_t i = kOut; i < 3 * kOut; ++i) EXPECT_EQ(a[i], 0);
}

TEST(WithBaseStepsTest, AdapterRankBeyondTheModule_Stays) {
  const Adapter adapter = SmallAdapter(8);
  std::vector<Adapter> steps;
  steps.push_back(Step(1, 5));
  const auto merged = WithBaseSteps(adapter, steps);
  ASSERT_TRUE(merged.ok()) << merged.status();
  EXPECT_EQ(RankOf(*merged), 8);
  EXPECT_LT(LargestDifference(DenseOf(*merged), DenseOf(adapter, steps)), 6e-8);
}

TEST(WithBaseStepsTest, StepsThatDoNotFit_AreRefusedByName) {
  struct Case {
    std::vector<TensorSpec> tensors;
    const char* message;
  };
  const std::vector<Case> cases = {
      {{{"m.base_A.weight", "base_a", {1, kIn}}}, "m.base_A.weight [1, 6] of role base_a, expected a partner"},
      {{{"m.base_B.weight", "base_b", {kOut, 1}}}, "m.base_B.weight"},
      {{{"m.base_A.weight", "base_a", {1, 5}}, {"m.base_B.weight", "base_b", {kOut, 1}}}, "expected [R, 6]"},
      {{{"m.base_A.weight", "base_a", {1, kIn}}, {"m.base_B.weight", "base_b", {kOut, 2}}}, "expected [4, 1]"},
      {{{"x.base_A.weight", "base_a", {1, kIn}}, {"x.base_B.weight", "base_b", {kOut, 1}}}, "a module of the adapter"},
  };
  for (const Case& c : cases) {
    std::vector<Adapter> steps;
    steps.emplace_back(*Layout::Create(c.tensors));
    const absl::Status status = WithBaseSteps(SmallAdapter(1), steps).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(status.message(), HasSubstr(c.message));
  }
}

class ExportAdapterTest : public testing::Test {
 protected:
  ExportAdapterTest() : config_(SmallJob(1)), base_(*DescribeBase(config_.base().config_json())) {
    adapter_ = std::make_unique<Adapter>(*MakeInitialAdapter(config_.adapter(), base_, LayoutNow(), 7));
  }
  std::shared_ptr<const Layout> LayoutNow() const { return *MakeLayout(config_.adapter(), config_.task(), base_); }
  Adapter StepOf(int64_t rank) const {
    std::vector<TensorSpec> tensors;
    const std::vector<FactorPair> pairs = *FactorPairs(adapter_->layout());
    for (const FactorPair& pair : pairs) {
      tensors.push_back({pair.module + ".base_A.weight", "base_a", {rank, pair.in}});
      tensors.push_back({pair.module + ".base_B.weight", "base_b", {pair.out, rank}});
    }
    return Adapter(*Layout::Create(std::move(tensors)));
  }

  // Of the modules that the adapter has factors of.
  std::vector<double> Scales() const {
    std::vector<double> scales;
    const auto form = *CreateForm(config_.adapter());
    const std::vector<FactorPair> pairs = *FactorPairs(adapter_->layout());
    for (const FactorPair& pair : pairs) scales.push_back(form->Scale(pair.module));
    return scales;
  }

  proto::JobConfig config_;
  BaseDescription base_;
  std::unique_ptr<Adapter> adapter_;
};

TEST_F(ExportAdapterTest, WithoutSteps_NothingChanges) {
  const std::string before = config_.SerializeAsString();
  const auto exported = ExportAdapter(adapter_->Clone(), {}, base_, &config_);
  ASSERT_TRUE(exported.ok()) << exported.status();
  EXPECT_EQ(exported->ContentHash(), adapter_->ContentHash());
  EXPECT_EQ(config_.SerializeAsString(), before);
}

TEST_F(ExportAdapterTest, WithSteps_RankGrowsAndTheScaleStays) {
  const std::vector<double> scales = Scales();
  std::vector<Adapter> steps;
  steps.push_back(StepOf(3));
  const auto exported = ExportAdapter(adapter_->Clone(), steps, base_, &config_);
  ASSERT_TRUE(exported.ok()) << exported.status();
  EXPECT_EQ(exported->layout(), *LayoutNow()) << "as the form lays it out";
  EXPECT_EQ(config_.adapter().config().fields().at("rank").number_value(), 5);
  EXPECT_EQ(config_.adapter().config().fields().at("alpha").number_value(), 2 * 5) << "the scale is 2";
  EXPECT_EQ(Scales(), scales);
}

// Of rsLoRA the scale is alpha / sqrt(rank); with patterns each module has its own rank and alpha.
TEST_F(ExportAdapterTest, WithSteps_EachModuleKeepsItsScale) {
  auto& fields = *config_.mutable_adapter()->mutable_config()->mutable_fields();
  const auto pattern = [&](const char* name, const char* key, double value) {
    (*fields[name].mutable_struct_value()->mutable_fields())[key].set_number_value(value);
  };
  fields["use_rslora"].set_bool_value(true);
  pattern("rank_pattern", "value", 3);
  pattern("alpha_pattern", "0.attention.self.query", 7);
  adapter_ = std::make_unique<Adapter>(*MakeInitialAdapter(config_.adapter(), base_, LayoutNow(), 7));
  const std::vector<double> scales = Scales();
  std::vector<Adapter> steps;
  steps.push_back(StepOf(2));
  const auto exported = ExportAdapter(adapter_->Clone(), steps, base_, &config_);
  ASSERT_TRUE(exported.ok()) << exported.status();
  EXPECT_EQ(exported->layout(), *LayoutNow()) << "as the form lays it out";
  EXPECT_EQ(fields.at("rank").number_value(), 3 + 2);
  const std::vector<double> after = Scales();
  ASSERT_EQ(after.size(), scales.size());
  // alpha is scale * sqrt(rank), divided by it again.
  for (size_t i = 0; i < after.size(); ++i) EXPECT_NEAR(after[i], scales[i], 1e-15 * scales[i]);
  EXPECT_NE(scales.front(), scales.back()) << "or nothing is tested";
}

TEST_F(ExportAdapterTest, AlphaBeyondTheForm_SaysWhy) {
  auto& fields = *config_.mutable_adapter()->mutable_config()->mutable_fields();
  fields["alpha"].set_number_value(40000);
  std::vector<Adapter> steps;
  steps.push_back(StepOf(3));
  const absl::Status status = ExportAdapter(adapter_->Clone(), steps, base_, &config_).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("rank 5, which the form does not allow"));
}

}  // namespace
}  // namespace weft::server
