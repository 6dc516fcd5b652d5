#include "adapters/forms/lora_sb/lora_sb.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "adapters/forms/lora_sb/lora_sb.pb.h"
#include "adapters/forms/peft_fields.h"
#include "adapters/forms/target_modules.h"
#include "common/random.h"
#include "common/status_macros.h"
#include "proto/schema.h"

namespace weft {
namespace {

using Json = nlohmann::json;

constexpr char kEndA[] = ".lora_sb_A.weight", kEndR[] = ".lora_sb_R.weight", kEndB[] = ".lora_sb_B.weight";
constexpr char kRoleA[] = "fixed.lora_a", kRoleR[] = "lora_r", kRoleB[] = "fixed.lora_b";

// Subtracts from `vector` its projections on `others`, all of which have norm 1.
void Project(const std::vector<std::vector<double>>& others, std::vector<double>* vector) {
  for (const std::vector<double>& other : others) {
    double product = 0;
    for (size_t i = 0; i < other.size(); ++i) product += other[i] * (*vector)[i];
    for (size_t i = 0; i < other.size(); ++i) (*vector)[i] -= product * other[i];
  }
}

// `count` <= size random orthonormal vectors: normal draws by Gram-Schmidt, each projected twice, after which what is
// left along the others is rounding.
std::vector<std::vector<double>> Orthonormal(int64_t count, int64_t size, Philox random) {
  std::vector<std::vector<double>> vectors;
  while (static_cast<int64_t>(vectors.size()) < count) {
    std::vector<double> vector(size);
    double before = 0, after = 0;
    for (double& x : vector) {
      x = random.NextNormal();
      before += x * x;
    }
    Project(vectors, &vector);
    Project(vectors, &vector);
    for (const double x : vector) after += x * x;
    if (after < 1e-12 * before) continue;  // nearly all of it lay along the others: draw again
    for (double& x : vector) x /= std::sqrt(after);
    vectors.push_back(std::move(vector));
  }
  return vectors;
}

// scale * b r, b [out, rank] and r [rank, rank].
void MultiplyInto(std::span<const float> b, std::span<const float> r, int64_t rank, double scale, std::span<float> to) {
  for (size_t row = 0; row < b.size() / rank; ++row) {
    for (int64_t j = 0; j < rank; ++j) {
      double sum = 0;
      for (int64_t k = 0; k < rank; ++k) sum += static_cast<double>(b[(row * rank) + k]) * r[(k * rank) + j];
      to[(row * rank) + j] = static_cast<float>(scale * sum);
    }
  }
}

class LoraSb : public Form {
 public:
  explicit LoraSb(proto::LoraSbConfig config) : config_(std::move(config)) {}

  absl::StatusOr<std::vector<TensorSpec>> Tensors(const BaseDescription& base) const override {
    WEFT_ASSIGN_OR_RETURN(const std::vector<LinearModule> modules, FindTargets(base, config_.target_modules()));
    const int64_t rank = config_.rank();
    std::vector<TensorSpec> tensors;
    for (const LinearModule& module : modules) {
      if (const int64_t most = std::min(module.in_features, module.out_features); rank > most) {
        return absl::InvalidArgumentError(absl::StrCat(
            "adapter.config.rank: found ", rank, ", but module ", module.name, " has ", module.in_features,
            " inputs and ", module.out_features, " outputs, so that factors of orthonormal rows and columns have ",
            most, " at most; lower it"));
      }
      tensors.push_back({module.name + kEndA, kRoleA, {rank, module.in_features}});
      tensors.push_back({module.name + kEndR, kRoleR, {rank, rank}});
      tensors.push_back({module.name + kEndB, kRoleB, {module.out_features, rank}});
    }
    return tensors;
  }

  void Initialise(const BaseDescription& base, uint64_t seed, Adapter* adapter) const override {
    (void)base;
    for (const TensorSpec& spec : adapter->layout().tensors()) {
      const std::span<float> values = adapter->tensor(spec);
      if (spec.role == kRoleR) std::fill(values.begin(), values.end(), 0.0f);
      if (spec.role != kRoleA && spec.role != kRoleB) continue;
      const bool is_a = spec.role == kRoleA;
      const int64_t count = spec.shape[is_a ? 0 : 1], size = spec.shape[is_a ? 1 : 0];
      const auto vectors = Orthonormal(count, size, Philox(seed, StreamId(spec.name)));
      for (int64_t j = 0; j < count; ++j) {
        for (int64_t i = 0; i < size; ++i) {
          values[is_a ? j * size + i : i * count + j] = static_cast<float>(vectors[j][i]);
        }
      }
    }
  }

  absl::StatusOr<Json> PeftConfig(const BaseDescription& base, const TaskDescription& task) const override {
    return Json{{"peft_type", kLoraSbPeftType},
                {"r", config_.rank()},
                {"scale", config_.scale()},
                {"dropout", config_.dropout()},
                {"target_modules", PeftTargets(base, task, config_.target_modules())}};
  }

  double Scale(const std::string& module) const override {
    (void)module;
    return config_.scale();
  }

  absl::StatusOr<std::optional<FormedAdapter>> ForPeft(const Adapter& adapter) const override {
    std::vector<TensorSpec> tensors;
    for (TensorSpec spec : adapter.layout().tensors()) {
      if (spec.role == kRoleR) continue;
      if (spec.role == kRoleA || spec.role == kRoleB) {
        const bool is_a = spec.role == kRoleA;
        spec.name = Module(spec) + (is_a ? ".lora_A.weight" : ".lora_B.weight");
        spec.role = is_a ? "lora_a" : "lora_b";
      }
      tensors.push_back(std::move(spec));
    }
    WEFT_ASSIGN_OR_RETURN(std::shared_ptr<const Layout> layout, Layout::Create(std::move(tensors)));
    Adapter plain(std::move(layout));
    for (const TensorSpec& to : plain.layout().tensors()) {
      if (to.role == "lora_b") {
        const std::string module = to.name.substr(0, to.name.rfind(".lora_B.weight"));
        MultiplyInto(adapter.tensor(*adapter.layout().Find(module + kEndB)),
                     adapter.tensor(*adapter.layout().Find(module + kEndR)), config_.rank(), config_.scale(),
                     plain.tensor(to));
        continue;
      }
      const std::string from =
          to.role == "lora_a" ? to.name.substr(0, to.name.rfind(".lora_A.weight")) + kEndA : to.name;
      const std::span<const float> values = adapter.tensor(*adapter.layout().Find(from));
      std::copy(values.begin(), values.end(), plain.tensor(to).begin());
    }
    proto::AdapterConfig config;
    config.set_form("lora");
    auto& fields = *config.mutable_config()->mutable_fields();
    fields["rank"].set_number_value(static_cast<double>(config_.rank()));
    fields["alpha"].set_number_value(static_cast<double>(config_.rank()));  // B holds the scale
    fields["dropout"].set_number_value(config_.dropout());
    for (const std::string& target : config_.target_modules()) {
      fields["target_modules"].mutable_list_value()->add_values()->set_string_value(target);
    }
    return std::optional(FormedAdapter{std::move(config), std::move(plain)});
  }

 private:
  static std::string Module(const TensorSpec& spec) { return spec.name.substr(0, spec.name.rfind(".lora_sb_")); }

  const proto::LoraSbConfig config_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Form>> CreateLoraSb(const google::protobuf::Struct& config) {
  proto::LoraSbConfig lora_sb;
  WEFT_RETURN_IF_ERROR(proto::FromStruct(config, "adapter.config", &lora_sb));
  return std::make_unique<LoraSb>(std::move(lora_sb));
}

absl::StatusOr<google::protobuf::Struct> LoraSbFromPeft(const Json& peft_config) {
  WEFT_RETURN_IF_ERROR(CheckOthersOff(peft_config, {"r", "scale", "dropout", "target_modules"}));
  google::protobuf::Struct config;
  WEFT_RETURN_IF_ERROR(CopyNumber(peft_config, "r", "rank", &config));
  WEFT_RETURN_IF_ERROR(CopyNumber(peft_config, "scale", "scale", &config));
  WEFT_RETURN_IF_ERROR(CopyNumber(peft_config, "dropout", "dropout", &config));
  WEFT_RETURN_IF_ERROR(CopyTargets(peft_config, &config));
  return config;
}

}  // namespace weft
