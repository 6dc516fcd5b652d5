#include "training/forms/lora/lora.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/ones.h>
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

// Against the same formula by composition; measured 4e-6 on values of order ten.
constexpr double kTolerance = 2e-5;

proto::AdapterConfig Config(const std::string& json) {
  proto::AdapterConfig config;
  config.set_form("lora");
  EXPECT_TRUE(google::protobuf::util::JsonStringToMessage(json, config.mutable_config()).ok());
  return config;
}

std::unique_ptr<TorchForm> Lora(const std::string& dropout = "0") {
  auto form =
      CreateTorchForm(Config(R"({"rank": 2, "alpha": 6, "target_modules": ["query"], "dropout": )" + dropout + "}"));
  EXPECT_TRUE(form.ok()) << form.status();
  return *std::move(form);
}

class LoraTest : public ::testing::Test {
 protected:
  void SetUp() override {
    at::manual_seed(3);
    linears_.emplace_back("layer.key", at::randn({5, 7}), at::randn({5}));
    linears_.emplace_back("layer.query", at::randn({5, 7}), at::randn({5}));
    a_ = at::randn({2, 7}).requires_grad_();
    b_ = at::randn({5, 2}).requires_grad_();
    tensors_ = {
        {"layer.query.lora_A.weight", a_}, {"layer.query.lora_B.weight", b_}, {"classifier.weight", at::randn({3, 7})}};
  }

  std::string Refusal(const NamedTensors& tensors) {
    const auto attached = Lora()->Attach(linears_, tensors);
    EXPECT_EQ(attached.status().code(), absl::StatusCode::kInvalidArgument);
    return std::string(attached.status().message());
  }

  // Output and the gradients of x, A and B under a fixed weighting.
  std::vector<at::Tensor> Outcome(bool by_composition, double alpha = 6) {
    const at::Tensor x = x_.clone().requires_grad_();
    for (at::Tensor* tensor : {&a_, &b_}) tensor->mutable_grad() = at::Tensor();
    DropoutSource no_dropout;
    const FrozenLinear& linear = linears_[1];
    const at::Tensor y = by_composition ? linear.Forward(x) + at::linear(at::linear(x, a_), b_) * (alpha / 2)
                                        : Lora()->Attach(linears_, tensors_)->at(1)->Forward(linear, x, no_dropout);
    (y * y).sum().backward();
    return {y.detach(), x.grad(), a_.grad(), b_.grad()};
  }

  const at::Tensor x_ = at::randn({4, 7});
  std::vector<FrozenLinear> linears_;
  at::Tensor a_, b_;
  NamedTensors tensors_;
};

double Difference(const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b) {
  double largest = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    largest = std::max(largest, ((a[i] - b[i]).abs().max() / b[i].abs().max()).item<double>());
  }
  return largest;
}

TEST_F(LoraTest, Forward_EqualsTheFormulaWithItsGradients) {
  EXPECT_LT(Difference(Outcome(false), Outcome(true)), kTolerance);
  EXPECT_GT(Difference(Outcome(false), Outcome(true, /*alpha=*/6.001)), kTolerance);
}

TEST_F(LoraTest, Attach_LeavesOtherModulesAlone) {
  const auto attached = Lora()->Attach(linears_, tensors_);
  ASSERT_TRUE(attached.ok()) << attached.status();
  EXPECT_EQ(attached->at(0), nullptr);
  EXPECT_NE(attached->at(1), nullptr);
}

TEST_F(LoraTest, Forward_NoGradientBelowTheFirstAdapter) {
  DropoutSource no_dropout;
  const auto attached = Lora()->Attach(linears_, tensors_);
  const at::Tensor y = attached->at(1)->Forward(linears_[1], x_, no_dropout);
  EXPECT_TRUE(y.requires_grad());
  y.sum().backward();
  EXPECT_FALSE(x_.grad().defined());
}

TEST_F(LoraTest, Forward_DropoutActsOnTheAdaptersInputWhileTrainingOnly) {
  const std::unique_ptr<TorchForm> form = Lora("0.5");
  const auto attached = form->Attach(linears_, tensors_);
  const auto run = [&](DropoutSource dropout) { return attached->at(1)->Forward(linears_[1], x_, dropout).detach(); };
  const at::Tensor plain = run(std::nullopt);
  EXPECT_LT(Difference({plain}, {Outcome(true)[0]}), kTolerance);
  const at::Tensor dropped = run(at::detail::createCPUGenerator(1));
  EXPECT_GT(Difference({dropped}, {plain}), kTolerance);
  EXPECT_TRUE(dropped.equal(run(at::detail::createCPUGenerator(1))));
  EXPECT_FALSE(dropped.equal(run(at::detail::createCPUGenerator(2))));
}

// With x of ones and one A row of ones, the low-rank part counts kept inputs: its mean over many rows is the undropped
// value.
TEST_F(LoraTest, Forward_DropoutKeepsTheMean) {
  const std::vector<FrozenLinear> linears = {{"m", at::zeros({1, 100}), at::zeros({1})}};
  const NamedTensors tensors = {{"m.lora_A.weight", at::ones({2, 100})}, {"m.lora_B.weight", at::ones({1, 2})}};
  const std::unique_ptr<TorchForm> form = Lora("0.25");
  const auto attached = form->Attach(linears, tensors);
  DropoutSource dropout = at::detail::createCPUGenerator(1);
  const double mean = attached->at(0)->Forward(linears[0], at::ones({1000, 100}), dropout).mean().item<double>();
  EXPECT_NEAR(mean, 600, 3);  // standard error 1.1
}

TEST_F(LoraTest, Forward_DropoutGradientEqualsTheFormula) {
  const auto attached = Lora("0.5")->Attach(linears_, tensors_);
  const at::Tensor x = x_.clone().requires_grad_(), again = x_.clone().requires_grad_();
  DropoutSource dropout = at::detail::createCPUGenerator(1);
  const at::Tensor y = attached->at(1)->Forward(linears_[1], x, dropout);
  (y * y).sum().backward();
  const std::vector<at::Tensor> found = {y.detach(), x.grad(), a_.grad().clone(), b_.grad().clone()};
  a_.mutable_grad() = b_.mutable_grad() = at::Tensor();
  const at::Tensor mask = at::empty_like(x_).bernoulli_(0.5, at::detail::createCPUGenerator(1)) * 2;
  const at::Tensor expected = linears_[1].Forward(again) + at::linear(at::linear(again * mask, a_), b_) * 3;
  (expected * expected).sum().backward();
  EXPECT_LT(Difference(found, {expected.detach(), again.grad(), a_.grad(), b_.grad()}), kTolerance);
}

TEST_F(LoraTest, Attach_RefusesWhatDoesNotFit) {
  NamedTensors tensors = tensors_;
  tensors["layer.value.lora_A.weight"] = a_;
  EXPECT_THAT(Refusal(tensors), HasSubstr("the base has no linear module layer.value"));
  tensors = tensors_;
  tensors.erase("layer.query.lora_B.weight");
  EXPECT_THAT(Refusal(tensors), HasSubstr("layer.query.lora_A.weight comes without its partner"));
  tensors = tensors_;
  tensors["layer.query.lora_A.weight"] = at::randn({3, 7});
  EXPECT_THAT(Refusal(tensors), HasSubstr("has shape [3, 7], the base asks for [2, 7]"));
  tensors = tensors_;
  tensors["layer.query.lora_B.weight"] = at::randn({4, 2});
  EXPECT_THAT(Refusal(tensors), HasSubstr("has shape [4, 2], the base asks for [5, 2]"));
}

TEST(TorchFormTest, Create_RefusesUnknownFormAndBadConfig) {
  proto::AdapterConfig config = Config(R"({"rank": 2, "target_modules": ["query"]})");
  config.set_form("prefixx");
  EXPECT_THAT(std::string(CreateTorchForm(config).status().message()),
              HasSubstr("no form \"prefixx\"; known: lora, lora_sb"));
  EXPECT_EQ(CreateTorchForm(Config(R"({"rank": 0, "target_modules": ["query"]})")).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(CreateTorchForm(Config(R"({"ranc": 2, "target_modules": ["query"]})")).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace weft
