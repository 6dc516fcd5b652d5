#include "training/forms/lora_sb/lora_sb.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/linear.h>

#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "adapters/forms/lora_sb/lora_sb.pb.h"
#include "common/status_macros.h"
#include "proto/schema.h"

namespace weft {
namespace {

constexpr char kPart[] = ".lora_sb_";
constexpr const char* kSuffixes[] = {".lora_sb_A.weight", ".lora_sb_R.weight", ".lora_sb_B.weight"};

// Composed of differentiable products: unlike LoRA's, the thin ones with R are all there is to train.
class LoraSbAdapter : public LinearAdapter {
 public:
  LoraSbAdapter(at::Tensor a, at::Tensor r, at::Tensor b, double scale, double dropout)
      : a_(std::move(a)), r_(std::move(r)), b_(std::move(b)), scale_(scale), dropout_(dropout) {}

  at::Tensor Forward(const FrozenLinear& linear, const at::Tensor& x, DropoutSource& dropout) const override {
    at::Tensor kept = x;
    if (dropout_ > 0 && dropout.has_value()) {
      kept = x * at::empty_like(x, x.options().device(at::kCPU))
                     .bernoulli_(1 - dropout_, *dropout)
                     .div_(1 - dropout_)
                     .to(x.device());
    }
    const at::Tensor low = at::linear(at::linear(kept, a_), r_);  // [n, r]
    return at::addmm(linear.Forward(x), low, b_.t(), /*beta=*/1, scale_);
  }

 private:
  const at::Tensor a_;  // [r, in]
  const at::Tensor r_;  // [r, r]
  const at::Tensor b_;  // [out, r]
  const double scale_;
  const double dropout_;
};

absl::Status CheckShape(const std::string& name, const at::Tensor& tensor, int64_t rows, int64_t columns) {
  if (tensor.dim() == 2 && tensor.size(0) == rows && tensor.size(1) == columns) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("adapter tensor ", name, " has shape [",
                                                 absl::StrJoin(tensor.sizes(), ", "), "], the base asks for [", rows,
                                                 ", ", columns, "]"));
}

class TorchLoraSb : public TorchForm {
 public:
  explicit TorchLoraSb(proto::LoraSbConfig config) : config_(std::move(config)) {}

  absl::StatusOr<AttachedForm> Attach(const std::vector<FrozenLinear>& linears,
                                      const NamedTensors& tensors) const override {
    WEFT_RETURN_IF_ERROR(CheckMatched(linears, tensors));
    AttachedForm attached(linears.size());
    const int64_t rank = config_.rank();
    for (size_t i = 0; i < linears.size(); ++i) {
      const auto a = tensors.find(linears[i].name() + kSuffixes[0]);
      if (a == tensors.end()) continue;
      const auto r = tensors.find(linears[i].name() + kSuffixes[1]), b = tensors.find(linears[i].name() + kSuffixes[2]);
      WEFT_RETURN_IF_ERROR(CheckShape(a->first, a->second, rank, linears[i].in_features()));
      WEFT_RETURN_IF_ERROR(CheckShape(r->first, r->second, rank, rank));
      WEFT_RETURN_IF_ERROR(CheckShape(b->first, b->second, linears[i].out_features(), rank));
      attached[i] =
          std::make_unique<LoraSbAdapter>(a->second, r->second, b->second, config_.scale(), config_.dropout());
    }
    return attached;
  }

 private:
  // Every tensor of the form has a module, and all three are there.
  static absl::Status CheckMatched(const std::vector<FrozenLinear>& linears, const NamedTensors& tensors) {
    for (const auto& [name, tensor] : tensors) {
      const size_t end = name.rfind(kPart);
      if (end == std::string::npos) continue;
      const std::string module = name.substr(0, end);
      bool known = false;
      for (const FrozenLinear& linear : linears) known |= linear.name() == module;
      if (!known) {
        return absl::InvalidArgumentError(
            absl::StrCat("adapter tensor ", name, ": the base has no linear module ", module));
      }
      for (const char* suffix : kSuffixes) {
        if (tensors.contains(module + suffix)) continue;
        return absl::InvalidArgumentError(absl::StrCat("adapter tensor ", name, " comes without ", module, suffix));
      }
    }
    return absl::OkStatus();
  }

  const proto::LoraSbConfig config_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<TorchForm>> CreateTorchLoraSb(const google::protobuf::Struct& config) {
  proto::LoraSbConfig lora_sb;
  WEFT_RETURN_IF_ERROR(proto::FromStruct(config, "adapter.config", &lora_sb));
  return std::make_unique<TorchLoraSb>(std::move(lora_sb));
}

}  // namespace weft
