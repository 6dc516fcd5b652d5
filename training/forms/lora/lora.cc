#include "training/forms/lora/lora.h"

#include <ATen/ops/zeros.h>

#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "adapters/forms/form.h"
#include "adapters/forms/lora/lora.pb.h"
#include "common/status_macros.h"
#include "proto/schema.h"
#include "training/forms/grouped_factors.h"
#include "training/forms/member_dropout.h"
#include "training/forms/member_tensors.h"

namespace weft {
namespace {

constexpr char kSuffixA[] = ".lora_A.weight";
constexpr char kSuffixB[] = ".lora_B.weight";
constexpr const char* kSuffixes[] = {kSuffixA, kSuffixB};

class LoraAdapter : public LinearAdapter {
 public:
  LoraAdapter(GroupedFactor a, GroupedFactor b, double scale, MemberDropout dropout)
      : a_(std::move(a)), b_(std::move(b)), scale_(scale), dropout_(dropout) {}

  void Forward(const at::Tensor& x, const Segments& segments, const PassRandom* random, at::Tensor& y,
               Kept* kept) const override {
    const at::Tensor low = NewLow(a_, segments, x.device());
    ProjectAndExpand(segments, FactorRows{&a_, Input(x, segments, random)}, low, FactorRows{&b_, y, scale_});
    if (kept != nullptr) kept->push_back(low);
  }

  void Backward(const at::Tensor& x, const Segments& segments, const PassRandom* random, const at::Tensor& y_gradient,
                const Kept& kept, at::Tensor& x_gradient) const override {
    const at::Tensor low_gradient = NewLow(a_, segments, x.device());
    const FactorRows from = {&b_, y_gradient, scale_};
    const bool drops = Drops(random);
    if (x_gradient.defined() && drops) {
      const at::Tensor dropped = at::zeros(x.sizes(), x.options().dtype(at::kFloat));
      ProjectAndExpand(segments, from, low_gradient, FactorRows{&a_, dropped});
      dropout_.AddDropped(dropped, segments, *random, x_gradient);
    } else if (x_gradient.defined()) {
      ProjectAndExpand(segments, from, low_gradient, FactorRows{&a_, x_gradient});
    } else if (a_.IsTrained()) {
      ProjectAndExpand(segments, from, low_gradient, std::nullopt);
    }
    std::vector<FactorGradient> gradients;
    if (a_.IsTrained()) {
      const FactorRows input = {&a_, Input(x, segments, random)};
      gradients.push_back({input, low_gradient});
    }
    if (b_.IsTrained()) gradients.push_back({from, kept.front()});
    AddGradients(segments, gradients);
  }

 private:
  bool Drops(const PassRandom* random) const { return random != nullptr && dropout_.rate() > 0; }
  at::Tensor Input(const at::Tensor& x, const Segments& segments, const PassRandom* random) const {
    return Drops(random) ? dropout_.Dropped(x, segments, *random) : x;
  }

  const GroupedFactor a_, b_;
  const double scale_;
  const MemberDropout dropout_;
};

class TorchLora : public TorchForm {
 public:
  TorchLora(std::unique_ptr<Form> form, proto::LoraConfig config)
      : form_(std::move(form)), config_(std::move(config)) {}

  absl::StatusOr<AttachedForm> Attach(const BaseDescription& base,
                                      std::span<const MemberTensors> members) const override {
    std::set<std::string> modules;
    for (const LinearModule& linear : base.linears) modules.insert(linear.name);
    WEFT_RETURN_IF_ERROR(CheckModules(members, kSuffixes, modules, "linear"));
    WEFT_ASSIGN_OR_RETURN(const std::vector<TensorSpec> specs, form_->Tensors(base));
    std::map<std::string, int64_t> ranks;  // of whole factors, by the name of A
    for (const TensorSpec& spec : specs) ranks[spec.name] = spec.shape[0];
    AttachedForm attached(base);
    for (size_t i = 0; i < base.linears.size(); ++i) {
      const LinearModule& linear = base.linears[i];
      GroupedFactor a = {.members = Collect(members, linear.name + kSuffixA), .transposed = false};
      GroupedFactor b = {.members = Collect(members, linear.name + kSuffixB), .transposed = true};
      if (a.members.empty()) continue;
      const auto rank = ranks.find(linear.name + kSuffixA);
      if (rank == ranks.end()) {
        return absl::InvalidArgumentError(absl::StrCat("adapter tensor ", linear.name, kSuffixA,
                                                       ": adapter.config.target_modules do not name its module"));
      }
      for (size_t k = 0; k < members.size(); ++k) {
        WEFT_RETURN_IF_ERROR(CheckPair(linear, rank->second, a.members[k].value, b.members[k].value));
      }
      attached.linears[i] = std::make_unique<LoraAdapter>(std::move(a), std::move(b), form_->Scale(linear.name),
                                                          MemberDropout(linear.name, config_.dropout()));
    }
    return attached;
  }

 private:
  // A member of a smaller rank brings factors that are cut.
  static absl::Status CheckPair(const LinearModule& linear, int64_t whole, const at::Tensor& a, const at::Tensor& b) {
    const int64_t components = a.dim() == 2 ? a.size(0) : 0;
    const int64_t rank = components < 1 || components > whole ? whole : components;
    const int64_t a_shape[] = {rank, linear.in_features}, b_shape[] = {linear.out_features, rank};
    WEFT_RETURN_IF_ERROR(CheckShape(linear.name + kSuffixA, a, a_shape));
    return CheckShape(linear.name + kSuffixB, b, b_shape);
  }

  const std::unique_ptr<Form> form_;
  const proto::LoraConfig config_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<TorchForm>> CreateTorchLora(const proto::AdapterConfig& config) {
  WEFT_ASSIGN_OR_RETURN(std::unique_ptr<Form> form, CreateForm(config));
  proto::LoraConfig lora;
  WEFT_RETURN_IF_ERROR(proto::FromStruct(config.config(), "adapter.config", &lora));
  return std::make_unique<TorchLora>(std::move(form), std::move(lora));
}

}  // namespace weft
