#include "training/forms/lora_sb/lora_sb.h"

#include <ATen/Context.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/randn.h>
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

// Against the same formula by composition in fp32, over the largest value: measured 3.8e-7. In bf16, where y and the
// gradient of x are rounded once more: measured 3e-3.
constexpr double kTolerance = 2e-6;
constexpr double kBf16Tolerance = 8e-3;

constexpr int64_t kIn = 40, kOut = 24, kRows = 27, kRank = 5;
constexpr char kA[] = "layer.query.lora_sb_A.weight", kR[] = "layer.query.lora_sb_R.weight",
               kB[] = "layer.query.lora_sb_B.weight";
const Segments kSegments = SegmentsOf({9, 0, 15});  // and three rows of nobody's

BaseDescription Base() {
  BaseDescription base;
  base.linears = {LinearOf("layer.key", kOut, kIn), LinearOf("layer.query", kOut, kIn)};
  return base;
}

std::unique_ptr<TorchForm> LoraSb(const std::string& dropout = "0") {
  auto form = CreateTorchLoraSb(
      FormConfig("lora_sb", R"({"rank": 5, "scale": 3, "target_modules": ["query"], "dropout": )" + dropout + "}"));
  EXPECT_TRUE(form.ok()) << form.status();
  return *std::move(form);
}

std::vector<MemberTensors> Members() {
  at::manual_seed(3);
  std::vector<MemberTensors> members;
  for (int k = 0; k < 3; ++k) {
    members.push_back({{kA, Constant(at::randn({kRank, kIn}))},
                       {kR, Trained(at::randn({kRank, kRank}))},
                       {kB, Constant(at::randn({kOut, kRank}))},
                       {"classifier.weight", Trained(at::randn({3, 7}))}});
  }
  return members;
}

struct Outcome {
  at::Tensor x, y, y_gradient, x_gradient;
};

Outcome Given(at::ScalarType dtype) {
  at::manual_seed(4);
  return {.x = at::randn({kRows, kIn}).to(dtype),
          .y = at::randn({kRows, kOut + 6}).to(dtype).slice(1, 2, kOut + 2),
          .y_gradient = at::randn({kRows, kOut + 6}).to(dtype).slice(1, 2, kOut + 2),
          .x_gradient = at::randn({kRows, kIn}).to(dtype)};
}

Outcome Apply(const TorchForm& form, const std::vector<MemberTensors>& members, at::ScalarType dtype = at::kFloat,
              const PassRandom* random = nullptr, bool wants_x_gradient = true) {
  Outcome run = Given(dtype);
  const auto attached = form.Attach(Base(), members);
  EXPECT_TRUE(attached.ok()) << attached.status();
  Kept kept;
  attached->linears[1]->Forward(run.x, kSegments, random, run.y, &kept);
  if (!wants_x_gradient) run.x_gradient = at::Tensor();
  attached->linears[1]->Backward(run.x, kSegments, random, run.y_gradient, kept, run.x_gradient);
  return run;
}

// The largest difference of y, the gradient of x and those of R from the formula under autograd.
double FromFormula(const Outcome& found, const std::vector<MemberTensors>& members, double scale = 3,
                   const MemberDropout* dropout = nullptr, const PassRandom* random = nullptr) {
  const Outcome given = Given(found.x.scalar_type());
  const at::Tensor x = given.x.to(at::kFloat).requires_grad_(), y = given.y.to(at::kFloat);
  double error = 0;
  for (int k = 0; k < 3; ++k) {
    const MemberTensor r = Trained(members[k].at(kR).value);
    at::Tensor rows = RowsOf(x, kSegments, k);
    if (dropout != nullptr) rows = rows * dropout->Factors(k, *random, 0, rows.size(0), kIn);
    const at::Tensor low = at::linear(at::linear(rows, members[k].at(kA).value), r.value);
    const at::Tensor own = at::linear(low, members[k].at(kB).value) * scale;
    (own * RowsOf(given.y_gradient, kSegments, k).to(at::kFloat)).sum().backward();
    RowsOf(y, kSegments, k).add_(own.detach());
    if (rows.size(0) > 0) error = std::max(error, Difference(members[k].at(kR).gradient, r.gradient));
  }
  error = std::max(error, Difference(found.y, y));
  if (!found.x_gradient.defined()) return error;
  return std::max(error, Difference(found.x_gradient, given.x_gradient.to(at::kFloat) + x.grad()));
}

TEST(LoraSbTest, ForwardAndBackward_EqualTheFormulaUnderAutograd) {
  const std::vector<MemberTensors> members = Members(), without = Members(), bf16 = Members();
  const Outcome run = Apply(*LoraSb(), members);
  EXPECT_LT(FromFormula(run, members), kTolerance);
  EXPECT_GT(FromFormula(run, members, 3.001), kTolerance);
  EXPECT_LT(FromFormula(Apply(*LoraSb(), without, at::kFloat, nullptr, false), without), kTolerance);
  const Outcome half = Apply(*LoraSb(), bf16, at::kBFloat16);
  EXPECT_LT(FromFormula(half, bf16), kBf16Tolerance);
  EXPECT_GT(FromFormula(half, bf16, 3.1), kBf16Tolerance);
}

TEST(LoraSbTest, Backward_GradientsAddUpAndConstantsGetNone) {
  const std::vector<MemberTensors> once = Members(), twice = Members();
  Apply(*LoraSb(), once);
  Apply(*LoraSb(), twice);
  Apply(*LoraSb(), twice);
  EXPECT_LT(Difference(twice[2].at(kR).gradient, once[2].at(kR).gradient * 2), kTolerance);
  EXPECT_EQ(once[1].at(kR).gradient.count_nonzero().item<int64_t>(), 0) << "has no rows";
  for (const char* name : {kA, kB}) EXPECT_FALSE(once[0].at(name).value.grad().defined());
  std::vector<MemberTensors> constant = Members();
  for (MemberTensors& member : constant) member[kR] = Constant(member[kR].value);
  EXPECT_TRUE(Apply(*LoraSb(), constant).x_gradient.equal(Apply(*LoraSb(), once).x_gradient));
}

TEST(LoraSbTest, ForwardAndBackward_DropoutActsOnTheAdaptersInput) {
  const PassRandom random = {.seeds = {1, 2, 3}, .step = 7}, next = {.seeds = {1, 2, 3}, .step = 8};
  const MemberDropout dropout("layer.query", 0.5);
  const std::vector<MemberTensors> members = Members(), evaluated = Members();
  const Outcome run = Apply(*LoraSb("0.5"), members, at::kFloat, &random);
  EXPECT_LT(FromFormula(run, members, 3, &dropout, &random), kTolerance);
  EXPECT_GT(FromFormula(run, members, 3, &dropout, &next), kTolerance);
  EXPECT_LT(FromFormula(Apply(*LoraSb("0.5"), evaluated), evaluated), kTolerance);
}

// A member alone comes to the same as in company.
TEST(LoraSbTest, Forward_CompanyChangesNothing) {
  const std::vector<MemberTensors> members = Members();
  const Outcome run = Apply(*LoraSb(), members), given = Given(at::kFloat);
  const auto attached = LoraSb()->Attach(Base(), {&members[2], 1});
  at::Tensor y = RowsOf(given.y, kSegments, 2).contiguous();
  attached->linears[1]->Forward(RowsOf(given.x, kSegments, 2).contiguous(), SegmentsOf({15}), nullptr, y, nullptr);
  EXPECT_LT(Difference(y, RowsOf(run.y, kSegments, 2)), kTolerance);
}

TEST(LoraSbTest, Attach_LeavesOtherModulesAlone) {
  const auto attached = LoraSb()->Attach(Base(), Members());
  ASSERT_TRUE(attached.ok()) << attached.status();
  EXPECT_EQ(attached->linears[0], nullptr);
}

std::string Refusal(const std::vector<MemberTensors>& members) {
  const auto attached = LoraSb()->Attach(Base(), members);
  EXPECT_EQ(attached.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(attached.status().message());
}

TEST(LoraSbTest, Attach_RefusesWhatDoesNotFit) {
  std::vector<MemberTensors> members = Members();
  members[0]["layer.value.lora_sb_A.weight"] = members[0][kA];
  EXPECT_THAT(Refusal(members), HasSubstr("the base has no linear module layer.value"));
  for (const char* name : {kA, kR, kB}) {
    members = Members();
    members[1].erase(name);
    EXPECT_THAT(Refusal(members), HasSubstr(std::string("comes without ") + name));
    members = Members();
    members[1][name] = Trained(at::randn({3, 6}));
    EXPECT_THAT(Refusal(members), HasSubstr(std::string(name) + " has shape [3, 6], the base asks for ["));
  }
  members = Members();
  for (const char* name : {kA, kR, kB}) members[1].erase(name);
  EXPECT_THAT(Refusal(members), HasSubstr("found it in 2 of 3 members"));
}

}  // namespace
}  // namespace weft
