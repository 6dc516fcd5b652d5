#include "training/forms/lora/lora.h"

#include <ATen/Context.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros_like.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "training/forms/member_dropout.h"
#include "training/forms/test_members.h"

namespace weft {
namespace {

using ::testing::HasSubstr;

// Against the same formula by composition in fp32, over the largest value: measured 2.2e-7. In bf16, where y and the
// gradient of x are rounded once more: measured 3.5e-3; those of A and B are not: measured 2.2e-7.
constexpr double kTolerance = 1e-6;
constexpr double kBf16Tolerance = 8e-3;

constexpr int64_t kIn = 40, kOut = 24, kRows = 27;
constexpr char kA[] = "layer.query.lora_A.weight", kB[] = "layer.query.lora_B.weight";
const Segments kSegments = SegmentsOf({9, 0, 15});  // and three rows of nobody's

BaseDescription Base() {
  BaseDescription base;
  base.linears = {LinearOf("layer.key", kOut, kIn), LinearOf("layer.query", kOut, kIn)};
  return base;
}

std::unique_ptr<TorchForm> Lora(const std::string& more = "") {
  auto form =
      CreateTorchLora(FormConfig("lora", R"({"rank": 4, "alpha": 8, "target_modules": ["query"])" + more + "}"));
  EXPECT_TRUE(form.ok()) << form.status();
  return *std::move(form);
}

// Members of ranks 4, 3 and 1.
std::vector<MemberTensors> Members() {
  at::manual_seed(3);
  std::vector<MemberTensors> members;
  for (const int64_t rank : {4, 3, 1}) {
    members.push_back({{kA, Trained(at::randn({rank, kIn}))},
                       {kB, Trained(at::randn({kOut, rank}))},
                       {"classifier.weight", Trained(at::randn({3, 7}))}});
  }
  return members;
}

// What goes in, and what Forward and Backward make of it.
struct Outcome {
  explicit Outcome(at::ScalarType dtype) {
    at::manual_seed(4);
    x = at::randn({kRows, kIn}).to(dtype);
    wide = at::randn({kRows, kOut + 10}).to(dtype);
    y_gradient = at::randn({kRows, kOut + 10}).to(dtype).slice(1, 5, 5 + kOut);
    x_gradient = at::randn({kRows, kIn}).to(dtype);
    y = wide.slice(1, 5, 5 + kOut);
  }
  at::Tensor x, wide, y, y_gradient, x_gradient;
};

Outcome Apply(const TorchForm& form, const std::vector<MemberTensors>& members, at::ScalarType dtype = at::kFloat,
              const PassRandom* random = nullptr, bool wants_x_gradient = true) {
  Outcome run(dtype);
  const auto attached = form.Attach(Base(), members);
  EXPECT_TRUE(attached.ok()) << attached.status();
  const LinearAdapter& adapter = *attached->linears[1];
  Kept kept;
  adapter.Forward(run.x, kSegments, random, run.y, &kept);
  if (!wants_x_gradient) run.x_gradient = at::Tensor();
  adapter.Backward(run.x, kSegments, random, run.y_gradient, kept, run.x_gradient);
  return run;
}

// Largest differences: of y and the gradient of x, and of those of A and B, from the formula under autograd.
struct Error {
  double rows, factors;
};

Error FromFormula(const Outcome& found, const std::vector<MemberTensors>& members, double scale,
                  const MemberDropout* dropout = nullptr, const PassRandom* random = nullptr) {
  Outcome run(at::kFloat);
  const Outcome given(found.x.scalar_type());
  const at::Tensor x = given.x.to(at::kFloat).requires_grad_();
  Error error = {};
  at::Tensor y = given.y.to(at::kFloat);
  std::vector<at::Tensor> parts;
  std::vector<MemberTensors> leaves;
  for (size_t k = 0; k < members.size(); ++k) {
    leaves.push_back({{kA, Trained(members[k].at(kA).value)}, {kB, Trained(members[k].at(kB).value)}});
    at::Tensor rows = RowsOf(x, kSegments, k);
    if (dropout != nullptr) rows = rows * dropout->Factors(k, *random, 0, rows.size(0), kIn);
    const at::Tensor own = at::linear(at::linear(rows, leaves[k].at(kA).value), leaves[k].at(kB).value) * scale;
    (own * RowsOf(given.y_gradient, kSegments, k).to(at::kFloat)).sum().backward();
    RowsOf(y, kSegments, k).add_(own.detach());
    if (rows.size(0) == 0) continue;
    for (const char* name : {kA, kB}) {
      error.factors = std::max(error.factors, Difference(members[k].at(name).gradient, leaves[k].at(name).gradient));
    }
  }
  error.rows = Difference(found.y, y);
  if (found.x_gradient.defined()) {
    error.rows = std::max(error.rows, Difference(found.x_gradient, given.x_gradient.to(at::kFloat) + x.grad()));
  }
  return error;
}

TEST(LoraTest, ForwardAndBackward_EqualTheFormulaUnderAutograd) {
  const std::vector<MemberTensors> members = Members();
  const Outcome run = Apply(*Lora(), members);
  EXPECT_LT(FromFormula(run, members, 2).rows, kTolerance);
  EXPECT_LT(FromFormula(run, members, 2).factors, kTolerance);
  EXPECT_GT(FromFormula(run, members, 2.001).rows, kTolerance);
  EXPECT_GT(FromFormula(run, members, 2.001).factors, kTolerance);
  const Outcome before(at::kFloat);
  EXPECT_TRUE(run.wide.slice(1, 0, 5).equal(before.wide.slice(1, 0, 5)));
  EXPECT_TRUE(run.wide.slice(0, kSegments.offsets.back()).equal(before.wide.slice(0, kSegments.offsets.back())));
  EXPECT_EQ(members[1].at(kA).gradient.count_nonzero().item<int64_t>(), 0);
}

TEST(LoraTest, ForwardAndBackward_EqualTheFormulaInBf16) {
  const std::vector<MemberTensors> members = Members();
  const Outcome run = Apply(*Lora(), members, at::kBFloat16);
  EXPECT_LT(FromFormula(run, members, 2).rows, kBf16Tolerance);
  EXPECT_LT(FromFormula(run, members, 2).factors, kTolerance);
  EXPECT_GT(FromFormula(run, members, 2.05).rows, kBf16Tolerance);
}

TEST(LoraTest, Forward_ScaleIsThatOfTheModule) {
  const std::vector<MemberTensors> rslora = Members(), pattern = Members();
  EXPECT_LT(FromFormula(Apply(*Lora(R"(, "use_rslora": true)"), rslora), rslora, 4).rows, kTolerance);
  EXPECT_LT(FromFormula(Apply(*Lora(R"(, "alpha_pattern": {"query": 12})"), pattern), pattern, 3).rows, kTolerance);
}

TEST(LoraTest, Backward_NothingBelowWantsAGradient) {
  const std::vector<MemberTensors> members = Members();
  const Outcome run = Apply(*Lora(), members, at::kFloat, nullptr, /*wants_x_gradient=*/false);
  EXPECT_FALSE(run.x_gradient.defined());
  EXPECT_LT(FromFormula(run, members, 2).factors, kTolerance);
}

TEST(LoraTest, Backward_GradientsAddUp) {
  const std::vector<MemberTensors> once = Members(), twice = Members();
  Apply(*Lora(), once);
  Apply(*Lora(), twice);
  Apply(*Lora(), twice);
  for (const int k : {0, 2}) {
    for (const char* name : {kA, kB}) {
      EXPECT_LT(Difference(twice[k].at(name).gradient, once[k].at(name).gradient * 2), kTolerance);
    }
    EXPECT_EQ(once[k].at("classifier.weight").gradient.count_nonzero().item<int64_t>(), 0);
  }
}

TEST(LoraTest, Backward_ConstantsGetNone) {
  for (const bool wants_x_gradient : {true, false}) {
    for (const char* constant : {kA, kB}) {
      const std::vector<MemberTensors> all = Members();
      std::vector<MemberTensors> members = Members();
      for (MemberTensors& member : members) member.at(constant) = Constant(member.at(constant).value);
      const Outcome expected = Apply(*Lora(), all),
                    run = Apply(*Lora(), members, at::kFloat, nullptr, wants_x_gradient);
      if (wants_x_gradient) {
        EXPECT_TRUE(run.x_gradient.equal(expected.x_gradient));
      }
      const char* trained = constant == kA ? kB : kA;
      EXPECT_FALSE(members[0].at(constant).value.grad().defined());
      EXPECT_TRUE(members[2].at(trained).gradient.equal(all[2].at(trained).gradient));
    }
  }
}

// A member alone comes to the same as in company, with its seed.
TEST(LoraTest, ForwardAndBackward_CompanyChangesNothing) {
  const std::unique_ptr<TorchForm> form = Lora(R"(, "dropout": 0.5)");
  const std::vector<MemberTensors> together = Members(), apart = Members();
  const PassRandom random = {.seeds = {1, 2, 3}, .step = 7};
  const Outcome run = Apply(*form, together, at::kFloat, &random);
  for (const int k : {0, 2}) {
    Outcome own(at::kFloat);
    const auto slice = [&](const at::Tensor& matrix) { return RowsOf(matrix, kSegments, k).contiguous(); };
    const auto attached = form->Attach(Base(), {&apart[k], 1});
    const PassRandom alone = {.seeds = {random.seeds[k]}, .step = 7};
    const Segments segments = SegmentsOf({kSegments.end(k) - kSegments.begin(k)});
    at::Tensor y = slice(own.y), x_gradient = slice(own.x_gradient);
    Kept kept;
    attached->linears[1]->Forward(slice(own.x), segments, &alone, y, &kept);
    attached->linears[1]->Backward(slice(own.x), segments, &alone, slice(own.y_gradient), kept, x_gradient);
    EXPECT_LT(Difference(y, RowsOf(run.y, kSegments, k)), kTolerance);
    EXPECT_LT(Difference(x_gradient, RowsOf(run.x_gradient, kSegments, k)), kTolerance);
    for (const char* name : {kA, kB}) {
      EXPECT_LT(Difference(apart[k].at(name).gradient, together[k].at(name).gradient), kTolerance);
    }
  }
}

TEST(LoraTest, ForwardAndBackward_DropoutActsOnTheAdaptersInput) {
  const std::unique_ptr<TorchForm> form = Lora(R"(, "dropout": 0.5)");
  const MemberDropout dropout("layer.query", 0.5);
  const PassRandom random = {.seeds = {1, 2, 3}, .step = 7}, next = {.seeds = {1, 2, 3}, .step = 8};
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    const std::vector<MemberTensors> members = Members();
    const Outcome run = Apply(*form, members, dtype, &random);
    const Error error = FromFormula(run, members, 2, &dropout, &random);
    EXPECT_LT(error.rows, dtype == at::kFloat ? kTolerance : kBf16Tolerance);
    EXPECT_LT(error.factors, kTolerance);  // twice a bf16 is one too
    EXPECT_GT(FromFormula(run, members, 2, &dropout, &next).rows, kBf16Tolerance);
  }
  const std::vector<MemberTensors> members = Members();
  EXPECT_LT(FromFormula(Apply(*form, members), members, 2).rows, kTolerance) << "while evaluating";
}

TEST(LoraTest, Attach_LeavesOtherModulesAlone) {
  const auto attached = Lora()->Attach(Base(), Members());
  ASSERT_TRUE(attached.ok()) << attached.status();
  EXPECT_EQ(attached->linears[0], nullptr);
  EXPECT_EQ(attached->prompt, nullptr);
}

std::string Refusal(const std::vector<MemberTensors>& members) {
  const auto attached = Lora()->Attach(Base(), members);
  EXPECT_EQ(attached.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(attached.status().message());
}

TEST(LoraTest, Attach_RefusesWhatDoesNotFit) {
  std::vector<MemberTensors> members = Members();
  members[1]["layer.value.lora_A.weight"] = members[1][kA];
  EXPECT_THAT(Refusal(members), HasSubstr("layer.value.lora_A.weight: the base has no linear module layer.value"));
  members = Members();
  members[1].erase(kB);
  EXPECT_THAT(Refusal(members), HasSubstr("layer.query.lora_A.weight comes without layer.query.lora_B.weight"));
  members = Members();
  members[1].erase(kA);
  members[1].erase(kB);
  EXPECT_THAT(Refusal(members), HasSubstr("found it in 2 of 3 members"));
  members = Members();
  for (MemberTensors& member : members) {
    member["layer.key.lora_A.weight"] = member[kA];
    member["layer.key.lora_B.weight"] = member[kB];
  }
  EXPECT_THAT(Refusal(members), HasSubstr("layer.key.lora_A.weight: adapter.config.target_modules do not name"));
  members = Members();
  members[2][kA] = Trained(at::randn({5, kIn}));  // more than the rank
  EXPECT_THAT(Refusal(members), HasSubstr("has shape [5, 40], the base asks for [4, 40]"));
  members = Members();
  members[2][kA] = Trained(at::randn({kIn}));
  EXPECT_THAT(Refusal(members), HasSubstr("has shape [40], the base asks for [4, 40]"));
  members = Members();
  members[1][kB] = Trained(at::randn({kOut, 2}));
  EXPECT_THAT(Refusal(members), HasSubstr("has shape [24, 2], the base asks for [24, 3]"));
}

}  // namespace
}  // namespace weft
