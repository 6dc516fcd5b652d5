#include "training/forms/lora_sb/lora_sb.h"

#include <ATen/ops/zeros.h>

#include <set>
#include <string>
#include <utility>
#include <vector>

#include "adapters/forms/form.h"
#include "adapters/forms/lora_sb/lora_sb.pb.h"
#include "common/status_macros.h"
#include "proto/schema.h"
#include "training/forms/grouped_factors.h"
#include "training/forms/member_dropout.h"
#include "training/forms/member_tensors.h"

namespace weft {
namespace {

constexpr const char* kSuffixes[] = {".lora_sb_A.weight", ".lora_sb_R.weight", ".lora_sb_B.weight"};

// Between low = x A^T and low R^T all members have one rank, so that these are matrices [rows, rank] as well.
class LoraSbAdapter : public LinearAdapter {
 public:
  struct Factors {
    GroupedFactor a, r, b;
  };
  LoraSbAdapter(Factors factors, double scale, MemberDropout dropout)
      : factors_(std::move(factors)), scale_(scale), dropout_(dropout) {}

  void Forward(const at::Tensor& x, const Segments& segments, const PassRandom* random, at::Tensor& y,
               Kept* kept) const override {
    const at::Tensor input = Drops(random) ? dropout_.Dropped(x, segments, *random) : x;
    const at::Tensor low = NewLow(factors_.a, segments, x.device()), turned = NewLow(factors_.r, segments, x.device());
    ProjectAndExpand(segments, FactorRows{&factors_.a, input}, low, std::nullopt);
    ProjectAndExpand(segments, FactorRows{&factors_.r, Rows(low)}, turned, FactorRows{&factors_.b, y, scale_});
    if (kept != nullptr) kept->push_back(low);
  }

  void Backward(const at::Tensor& x, const Segments& segments, const PassRandom* random, const at::Tensor& y_gradient,
                const Kept& kept, at::Tensor& x_gradient) const override {
    const at::Tensor turned = NewLow(factors_.r, segments, x.device());
    const at::Tensor low = NewLow(factors_.a, segments, x.device(), /*zeros=*/true);
    ProjectAndExpand(segments, FactorRows{&factors_.b, y_gradient, scale_}, turned, FactorRows{&factors_.r, Rows(low)});
    const FactorGradient gradient = {{&factors_.r, Rows(kept.front())}, turned};
    AddGradients(segments, {&gradient, 1});
    if (!x_gradient.defined()) return;
    if (!Drops(random)) return ProjectAndExpand(segments, std::nullopt, low, FactorRows{&factors_.a, x_gradient});
    const at::Tensor dropped = at::zeros(x.sizes(), x.options().dtype(at::kFloat));
    ProjectAndExpand(segments, std::nullopt, low, FactorRows{&factors_.a, dropped});
    dropout_.AddDropped(dropped, segments, *random, x_gradient);
  }

 private:
  bool Drops(const PassRandom* random) const { return random != nullptr && dropout_.rate() > 0; }
  at::Tensor Rows(const at::Tensor& low) const { return low.view({-1, factors_.r.width()}); }

  const Factors factors_;
  const double scale_;
  const MemberDropout dropout_;
};

class TorchLoraSb : public TorchForm {
 public:
  explicit TorchLoraSb(proto::LoraSbConfig config) : config_(std::move(config)) {}

  absl::StatusOr<AttachedForm> Attach(const BaseDescription& base,
                                      std::span<const MemberTensors> members) const override {
    std::set<std::string> modules;
    for (const LinearModule& linear : base.linears) modules.insert(linear.name);
    WEFT_RETURN_IF_ERROR(CheckModules(members, kSuffixes, modules, "linear"));
    AttachedForm attached(base);
    for (size_t i = 0; i < base.linears.size(); ++i) {
      const LinearModule& linear = base.linears[i];
      const auto collect = [&](int part) { return Collect(members, linear.name + kSuffixes[part]); };
      LoraSbAdapter::Factors factors = {.a = {.members = collect(0), .transposed = false},
                                        .r = {.members = collect(1), .transposed = false},
                                        .b = {.members = collect(2), .transposed = true}};
      if (factors.a.members.empty()) continue;
      const int64_t rank = config_.rank();
      const int64_t shapes[][2] = {{rank, linear.in_features}, {rank, rank}, {linear.out_features, rank}};
      for (int part = 0; part < 3; ++part) {
        WEFT_RETURN_IF_ERROR(CheckShapes(linear.name + kSuffixes[part], collect(part), shapes[part]));
      }
      attached.linears[i] = std::make_unique<LoraSbAdapter>(std::move(factors), config_.scale(),
                                                            MemberDropout(linear.name, config_.dropout()));
    }
    return attached;
  }

 private:
  const proto::LoraSbConfig config_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<TorchForm>> CreateTorchLoraSb(const proto::AdapterConfig& config) {
  WEFT_RETURN_IF_ERROR(CreateForm(config).status());
  proto::LoraSbConfig lora_sb;
  WEFT_RETURN_IF_ERROR(proto::FromStruct(config.config(), "adapter.config", &lora_sb));
  return std::make_unique<TorchLoraSb>(std::move(lora_sb));
}

}  // namespace weft
