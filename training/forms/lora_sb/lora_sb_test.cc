#include "training/forms/lora_sb/lora_sb.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <gmock/gmock.h>
#include <google/protobuf/util/json_util.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

namespace weft {
namespace {

using ::testing::HasSubstr;

// Against the merged weight, whose sums run in another order; measured 3e-7.
constexpr double kTolerance = 2e-6;

std::unique_ptr<TorchForm> LoraSb(const std::string& dropout = "0") {
  proto::AdapterConfig config;
  config.set_form("lora_sb");
  const std::string json = R"({"rank": 2, "scale": 3, "target_modules": ["query"], "dropout": )" + dropout + "}";
  EXPECT_TRUE(google::protobuf::util::JsonStringToMessage(json, config.mutable_config()).ok());
  auto form = CreateTorchForm(config);
  EXPECT_TRUE(form.ok()) << form.status();
  return *std::move(form);
}

double Difference(const at::Tensor& a, const at::Tensor& b) {
  return ((a - b).abs().max() / b.abs().max()).item<double>();
}

class LoraSbTest : public ::testing::Test {
 protected:
  void SetUp() override {
    at::manual_seed(3);
    linears_.emplace_back("layer.key", at::randn({5, 7}), at::randn({5}));
    linears_.emplace_back("layer.query", at::randn({5, 7}), at::randn({5}));
    a_ = at::randn({2, 7});
    r_ = at::randn({2, 2}).requires_grad_();
    b_ = at::randn({5, 2});
    tensors_ = {{"layer.query.lora_sb_A.weight", a_},
                {"layer.query.lora_sb_R.weight", r_},
                {"layer.query.lora_sb_B.weight", b_},
                {"classifier.weight", at::randn({3, 7})}};
  }

  std::string Refusal(const NamedTensors& tensors) {
    const auto attached = LoraSb()->Attach(linears_, tensors);
    EXPECT_EQ(attached.status().code(), absl::StatusCode::kInvalidArgument);
    return std::string(attached.status().message());
  }

  const at::Tensor x_ = at::randn({4, 7});
  std::vector<FrozenLinear> linears_;
  at::Tensor a_, r_, b_;
  NamedTensors tensors_;
};

// Gradient of R of sum(y^2): scale B^T (2 y)^T x A^T.
TEST_F(LoraSbTest, Forward_EqualsTheMergedWeightWithItsGradients) {
  const at::Tensor x = x_.clone().requires_grad_();
  DropoutSource no_dropout;
  const auto attached = *LoraSb()->Attach(linears_, tensors_);
  const at::Tensor y = attached.at(1)->Forward(linears_[1], x, no_dropout);
  (y * y).sum().backward();
  const auto merged = [&](double scale) {
    return linears_[1].weight() + b_.mm(r_.detach()).mm(a_) * scale;  // [out, in]
  };
  const at::Tensor expected = x_.mm(merged(3).t()) + linears_[1].bias();
  EXPECT_LT(Difference(y.detach(), expected), kTolerance);
  EXPECT_GT(Difference(y.detach(), x_.mm(merged(3.01).t()) + linears_[1].bias()), kTolerance);
  EXPECT_LT(Difference(r_.grad(), (expected * 2).mm(b_).t().mm(x_.mm(a_.t())) * 3), kTolerance);
  EXPECT_LT(Difference(x.grad(), (expected * 2).mm(merged(3))), kTolerance);
}

TEST_F(LoraSbTest, Forward_ZeroRLeavesTheBaseAsItIsAndLearns) {
  DropoutSource no_dropout;
  tensors_["layer.query.lora_sb_R.weight"] = at::zeros({2, 2}).requires_grad_();
  const auto attached = *LoraSb()->Attach(linears_, tensors_);
  const at::Tensor y = attached.at(1)->Forward(linears_[1], x_, no_dropout);
  EXPECT_LT(Difference(y.detach(), linears_[1].Forward(x_)), 1e-6);
  (y * y).sum().backward();
  EXPECT_GT(tensors_["layer.query.lora_sb_R.weight"].grad().abs().min().item<double>(), 0);
}

TEST_F(LoraSbTest, Forward_DropoutActsOnTheAdaptersInputWhileTrainingOnly) {
  const std::unique_ptr<TorchForm> form = LoraSb("0.5");
  const auto attached = *form->Attach(linears_, tensors_);
  const auto run = [&](DropoutSource dropout) { return attached.at(1)->Forward(linears_[1], x_, dropout).detach(); };
  const at::Tensor dropped = run(at::detail::createCPUGenerator(1));
  const at::Tensor mask = at::empty_like(x_).bernoulli_(0.5, at::detail::createCPUGenerator(1)) * 2;
  const at::Tensor low = (x_ * mask).mm(a_.t()).mm(r_.detach().t());
  EXPECT_LT(Difference(dropped, linears_[1].Forward(x_) + low.mm(b_.t()) * 3), kTolerance);
  EXPECT_GT(Difference(run(std::nullopt), dropped), kTolerance);
}

TEST_F(LoraSbTest, Attach_LeavesOtherModulesAlone) {
  const auto attached = LoraSb()->Attach(linears_, tensors_);
  ASSERT_TRUE(attached.ok()) << attached.status();
  EXPECT_EQ(attached->at(0), nullptr);
  EXPECT_NE(attached->at(1), nullptr);
}

TEST_F(LoraSbTest, Attach_RefusesWhatDoesNotFit) {
  NamedTensors tensors = tensors_;
  tensors["layer.value.lora_sb_A.weight"] = a_;
  EXPECT_THAT(Refusal(tensors), HasSubstr("the base has no linear module layer.value"));
  for (const char* part : {"A", "R", "B"}) {
    const std::string name = std::string("layer.query.lora_sb_") + part + ".weight";
    tensors = tensors_;
    tensors.erase(name);
    EXPECT_THAT(Refusal(tensors), HasSubstr("comes without " + name));
    tensors = tensors_;
    tensors[name] = at::randn({3, 6});
    EXPECT_THAT(Refusal(tensors), HasSubstr(name + " has shape [3, 6], the base asks for ["));
  }
}

}  // namespace
}  // namespace weft
