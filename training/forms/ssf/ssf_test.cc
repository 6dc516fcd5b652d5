#include "training/forms/ssf/ssf.h"

#include <ATen/Context.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "training/forms/test_members.h"

namespace weft {
namespace {

using ::testing::HasSubstr;

// Against the formula under autograd in fp32, over the largest value: measured 9e-8. In bf16, where what comes out is
// rounded once more: measured 3.7e-3.
constexpr double kTolerance = 1e-6;
constexpr double kBf16Tolerance = 8e-3;

constexpr int64_t kWidth = 24, kRows = 27;
const Segments kSegments = SegmentsOf({9, 0, 15});  // and three rows of nobody's

BaseDescription Base() {
  BaseDescription base;
  base.linears = {LinearOf("layer.key", kWidth, 40), LinearOf("layer.query", kWidth, 40)};
  base.norms.resize(1);
  base.norms[0].name = "layer.norm";
  base.norms[0].width = kWidth;
  base.transformer.emplace();
  base.transformer->hidden = kWidth;
  base.transformer->patches.emplace();
  base.transformer->patches->projection = "patches";
  return base;
}

std::unique_ptr<TorchForm> Ssf() {
  auto form = CreateTorchSsf(FormConfig("ssf", "{}"));
  EXPECT_TRUE(form.ok()) << form.status();
  return *std::move(form);
}

std::vector<MemberTensors> Members(const std::string& module = "layer.query") {
  at::manual_seed(3);
  std::vector<MemberTensors> members;
  for (int k = 0; k < 3; ++k) {
    members.push_back({{module + ".ssf_scale", Trained(at::randn({kWidth}))},
                       {module + ".ssf_shift", Trained(at::randn({kWidth}))},
                       {"classifier.weight", Trained(at::randn({3, 7}))}});
  }
  return members;
}

struct Outcome {
  at::Tensor out, y_gradient;
};

// y is a slice of columns, as of a product of several modules.
at::Tensor Given(at::ScalarType dtype) {
  at::manual_seed(4);
  return at::randn({kRows, kWidth + 4}).to(dtype).slice(1, 2, kWidth + 2);
}

at::Tensor Weights(at::ScalarType dtype) {
  at::manual_seed(5);
  return at::randn({kRows, kWidth}).to(dtype);
}

Outcome Apply(const std::vector<MemberTensors>& members, at::ScalarType dtype = at::kFloat,
              bool wants_gradient = true) {
  const auto attached = Ssf()->Attach(Base(), members);
  EXPECT_TRUE(attached.ok()) << attached.status();
  const at::Tensor y = Given(dtype).detach().requires_grad_(wants_gradient);
  const at::Tensor out = attached->linear_outputs[1]->Forward(y, kSegments);
  EXPECT_EQ(out.scalar_type(), dtype);
  if (out.requires_grad()) (out * Weights(dtype)).sum().backward();
  return {.out = out.detach(), .y_gradient = y.grad()};
}

double FromFormula(const Outcome& found, const std::vector<MemberTensors>& members, double factor = 1) {
  const at::ScalarType dtype = found.out.scalar_type();
  const at::Tensor given = Given(dtype).to(at::kFloat);
  double error = 0;
  for (int k = 0; k < 3; ++k) {
    const MemberTensor scale = Trained(members[k].at("layer.query.ssf_scale").value),
                       shift = Trained(members[k].at("layer.query.ssf_shift").value);
    const at::Tensor y = RowsOf(given, kSegments, k).clone().requires_grad_();
    if (y.size(0) == 0) continue;
    const at::Tensor out = y * scale.value * factor + shift.value;
    (out * RowsOf(Weights(dtype), kSegments, k).to(at::kFloat)).sum().backward();
    error = std::max(error, Difference(RowsOf(found.out, kSegments, k), out.detach()));
    if (found.y_gradient.defined()) {
      error = std::max(error, Difference(RowsOf(found.y_gradient, kSegments, k), y.grad()));
    }
    error = std::max(error, Difference(members[k].at("layer.query.ssf_scale").gradient, scale.gradient));
    error = std::max(error, Difference(members[k].at("layer.query.ssf_shift").gradient, shift.gradient));
  }
  return error;
}

TEST(SsfTest, Forward_EqualsTheFormulaUnderAutograd) {
  const std::vector<MemberTensors> members = Members(), bf16 = Members(), bottom = Members();
  const Outcome run = Apply(members);
  EXPECT_LT(FromFormula(run, members), kTolerance);
  EXPECT_GT(FromFormula(run, members, 1.001), kTolerance);
  const Outcome half = Apply(bf16, at::kBFloat16);
  EXPECT_LT(FromFormula(half, bf16), kBf16Tolerance);
  EXPECT_GT(FromFormula(half, bf16, 1.03), kBf16Tolerance);
  EXPECT_LT(FromFormula(Apply(bottom, at::kFloat, /*wants_gradient=*/false), bottom), kTolerance);
}

TEST(SsfTest, Forward_NobodysRowsPassThrough) {
  const Outcome run = Apply(Members());
  EXPECT_TRUE(run.out.slice(0, 24).equal(Given(at::kFloat).slice(0, 24)));
  EXPECT_TRUE(run.y_gradient.slice(0, 24).equal(Weights(at::kFloat).slice(0, 24)));
}

TEST(SsfTest, Forward_CompanyChangesNothing) {
  const std::vector<MemberTensors> together = Members(), apart = Members();
  const Outcome run = Apply(together);
  const auto attached = Ssf()->Attach(Base(), {&apart[2], 1});
  const at::Tensor out =
      attached->linear_outputs[1]->Forward(RowsOf(Given(at::kFloat), kSegments, 2).contiguous(), SegmentsOf({15}));
  (out * RowsOf(Weights(at::kFloat), kSegments, 2)).sum().backward();
  EXPECT_LT(Difference(out.detach(), RowsOf(run.out, kSegments, 2)), kTolerance);
  for (const char* name : {"layer.query.ssf_scale", "layer.query.ssf_shift"}) {
    EXPECT_LT(Difference(apart[2].at(name).gradient, together[2].at(name).gradient), kTolerance);
  }
}

TEST(SsfTest, Backward_GradientsAddUpAndConstantsGetNone) {
  const std::vector<MemberTensors> once = Members(), twice = Members();
  Apply(once);
  Apply(twice);
  Apply(twice);
  std::vector<MemberTensors> fixed = Members(), one = Members();
  for (MemberTensors& member : one) member["layer.query.ssf_scale"] = Constant(member["layer.query.ssf_scale"].value);
  Apply(one);
  for (MemberTensors& member : fixed) {
    for (auto& [name, tensor] : member) tensor = Constant(tensor.value);
  }
  EXPECT_TRUE(Apply(fixed).out.equal(Apply(Members()).out));
  EXPECT_FALSE(Apply(fixed, at::kFloat, /*wants_gradient=*/false).y_gradient.defined());
  for (const char* name : {"layer.query.ssf_scale", "layer.query.ssf_shift"}) {
    EXPECT_LT(Difference(twice[0].at(name).gradient, once[0].at(name).gradient * 2), kTolerance);
    EXPECT_EQ(once[1].at(name).gradient.count_nonzero().item<int64_t>(), 0) << "has no rows";
    EXPECT_FALSE(fixed[0].at(name).value.grad().defined());
  }
  EXPECT_FALSE(one[0].at("layer.query.ssf_scale").value.grad().defined());
  EXPECT_TRUE(one[0].at("layer.query.ssf_shift").gradient.equal(once[0].at("layer.query.ssf_shift").gradient));
}

TEST(SsfTest, Attach_OnLinearsNormsAndThePatchProjection) {
  const auto attach = [](const char* module) { return *Ssf()->Attach(Base(), Members(module)); };
  EXPECT_NE(attach("layer.key").linear_outputs[0], nullptr);
  EXPECT_EQ(attach("layer.key").linear_outputs[1], nullptr);
  EXPECT_NE(attach("layer.norm").norm_outputs[0], nullptr);
  EXPECT_EQ(attach("layer.norm").patch_output, nullptr);
  EXPECT_NE(attach("patches").patch_output, nullptr);
}

std::string Refusal(const std::vector<MemberTensors>& members) {
  const auto attached = Ssf()->Attach(Base(), members);
  EXPECT_EQ(attached.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(attached.status().message());
}

TEST(SsfTest, Attach_RefusesWhatDoesNotFit) {
  EXPECT_THAT(Refusal(Members("layer.value")),
              HasSubstr("the base has no linear, norm or patch projection module layer.value"));
  for (const char* name : {"layer.query.ssf_scale", "layer.query.ssf_shift"}) {
    std::vector<MemberTensors> members = Members();
    members[1].erase(name);
    EXPECT_THAT(Refusal(members), HasSubstr(std::string("comes without ") + name));
    for (MemberTensors& member : members) member.erase(name);
    EXPECT_THAT(Refusal(members), HasSubstr(std::string("comes without ") + name));
    members = Members();
    members[1][name] = Trained(at::randn({kWidth + 1}));
    EXPECT_THAT(Refusal(members), HasSubstr(std::string(name) + " has shape [25], the base asks for [24]"));
  }
  std::vector<MemberTensors> members = Members();
  members[1].clear();
  EXPECT_THAT(Refusal(members), HasSubstr("found it in 2 of 3 members"));
}

}  // namespace
}  // namespace weft
