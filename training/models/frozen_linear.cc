#include "training/models/frozen_linear.h"

#include <ATen/Context.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>

#include <map>
#include <mutex>
#include <optional>
#include <string_view>
#include <utility>

namespace weft {
namespace {

// LibTorch gives its prepacked products to inductor only, by name; none has a C++ function.
at::Tensor Pack(const at::Tensor& weight) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("mkldnn::_reorder_linear_weight", "")
                             .typed<at::Tensor(const at::Tensor&, std::optional<int64_t>)>();
  constexpr int64_t kTypicalRows = 512;  // a hint for the choice of order
  return op.call(weight, kTypicalRows);
}

at::Tensor PackedProduct(const at::Tensor& x, const at::Tensor& packed, const std::optional<at::Tensor>& bias) {
  static const auto op =
      c10::Dispatcher::singleton()
          .findSchemaOrThrow("mkldnn::_linear_pointwise", "")
          .typed<at::Tensor(const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&, std::string_view,
                            c10::List<std::optional<at::Scalar>>, std::optional<std::string_view>)>();
  return op.call(x, packed, bias, "none", c10::List<std::optional<at::Scalar>>(), "");
}

bool PacksBf16() {
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("mkldnn::_is_mkldnn_bf16_supported", "").typed<bool()>();
  return op.call();
}

bool Packs(at::Device device, at::ScalarType dtype, int64_t elements) {
  // Measured: at 256 x 256 a packed product costs what a general one does, at 96 x 96 two and a half times that.
  constexpr int64_t kSmallestPacked = int64_t{1} << 16;
  return device.is_cpu() && at::globalContext().hasMKLDNN() && elements >= kSmallestPacked &&
         (dtype == at::kFloat || PacksBf16());
}

}  // namespace

struct FrozenLinear::Prepared {
  at::Tensor weight;                     // undefined where it is packed
  at::Tensor bias;                       // [out]; undefined: none
  at::Tensor packed, packed_transposed;  // W and W^T in oneDNN's order
};

struct FrozenLinear::Cache {
  std::mutex mutex;
  std::map<at::ScalarType, Prepared> prepared;
};

FrozenLinear::FrozenLinear(std::vector<Part> parts, at::Device device)
    : parts_(std::move(parts)), device_(device), cache_(std::make_shared<Cache>()) {
  int64_t begin = 0;
  for (Part& part : parts_) {
    part.begin = begin;
    begin = part.end();
  }
}

const FrozenLinear::Prepared& FrozenLinear::PreparedFor(at::ScalarType dtype) const {
  const std::lock_guard<std::mutex> lock(cache_->mutex);
  if (const auto found = cache_->prepared.find(dtype); found != cache_->prepared.end()) return found->second;
  Prepared prepared;
  std::vector<at::Tensor> weights, biases;
  bool biased = false;
  for (const Part& part : parts_) {
    weights.push_back(part.weight.to(device_, dtype));
    biased |= part.bias.defined();
    biases.push_back(part.bias.defined() ? part.bias.to(device_, dtype)
                                         : at::zeros({part.weight.size(0)}, weights.back().options()));
  }
  at::Tensor weight = weights.size() == 1 ? weights[0] : at::cat(weights);
  if (biased) prepared.bias = biases.size() == 1 ? biases[0] : at::cat(biases);
  if (Packs(device_, dtype, weight.numel())) {
    prepared.packed = Pack(weight.contiguous());
    prepared.packed_transposed = Pack(weight.t().contiguous());
  } else {
    prepared.weight = weight;
  }
  return cache_->prepared.emplace(dtype, std::move(prepared)).first->second;
}

at::Tensor FrozenLinear::Product(const at::Tensor& x) const {
  const Prepared& prepared = PreparedFor(x.scalar_type());
  const std::optional<at::Tensor> bias = prepared.bias.defined() ? std::make_optional(prepared.bias) : std::nullopt;
  return prepared.packed.defined() ? PackedProduct(x, prepared.packed, bias) : at::linear(x, prepared.weight, bias);
}

at::Tensor FrozenLinear::InputGradient(const at::Tensor& y_gradient) const {
  const Prepared& prepared = PreparedFor(y_gradient.scalar_type());
  return prepared.packed.defined() ? PackedProduct(y_gradient, prepared.packed_transposed, std::nullopt)
                                   : at::mm(y_gradient, prepared.weight);
}

bool FrozenLinear::IsPrepared(at::ScalarType dtype) const {
  const std::lock_guard<std::mutex> lock(cache_->mutex);
  return cache_->prepared.contains(dtype);
}

int64_t FrozenLinear::PreparedBytes(at::ScalarType dtype) const {
  const int64_t elements = in_features() * out_features();
  const int64_t copies = Packs(device_, dtype, elements) ? 2 : 1;
  return copies * elements * static_cast<int64_t>(c10::elementSize(dtype));
}

}  // namespace weft
