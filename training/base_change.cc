#include "training/base_change.h"

#include <ATen/ops/addmm.h>
#include <ATen/ops/from_blob.h>

#include <algorithm>
#include <set>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/status_macros.h"

namespace weft {
namespace {

constexpr char kRoleA[] = "base_a", kRoleB[] = "base_b";
constexpr char kSuffixA[] = ".base_A.weight", kSuffixB[] = ".base_B.weight";

struct Factors {
  const TensorSpec *a, *b;
};

// Every tensor of the step's roles must belong to a pair of one of the modules.
absl::Status CheckNames(const BaseDescription& base, const Layout& layout) {
  std::set<std::string> modules;
  for (const LinearModule& module : base.linears) modules.insert(module.name);
  bool any = false;
  for (const TensorSpec& spec : layout.tensors()) {
    if (spec.role != kRoleA && spec.role != kRoleB) continue;
    any = true;
    const bool is_a = spec.role == kRoleA;
    const std::string suffix = is_a ? kSuffixA : kSuffixB;
    if (!spec.name.ends_with(suffix)) {
      return absl::InvalidArgumentError(
          absl::StrCat("base step: tensor ", spec.name, " of role ", spec.role, " must be named <module>", suffix));
    }
    const std::string module = spec.name.substr(0, spec.name.size() - suffix.size());
    if (!modules.contains(module)) {
      return absl::InvalidArgumentError(
          absl::StrCat("base step: tensor ", spec.name, ": the base has no linear module ", module));
    }
    const TensorSpec* partner = layout.Find(absl::StrCat(module, is_a ? kSuffixB : kSuffixA));
    if (partner == nullptr || partner->role != (is_a ? kRoleB : kRoleA)) {
      return absl::InvalidArgumentError(
          absl::StrCat("base step: tensor ", spec.name, " comes without its partner of module ", module));
    }
  }
  if (any) return absl::OkStatus();
  return absl::InvalidArgumentError("base step: no tensors of roles base_a and base_b; expected a pair per module");
}

absl::Status CheckShapes(const LinearModule& linear, const Factors& factors) {
  const std::vector<int64_t>&a = factors.a->shape, &b = factors.b->shape;
  if (a.size() == 2 && b.size() == 2 && a[0] == b[1] && a[1] == linear.in_features && b[0] == linear.out_features) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "base step: tensors ", factors.a->name, " [", absl::StrJoin(a, ", "), "] and ", factors.b->name, " [",
      absl::StrJoin(b, ", "), "], expected [R, ", linear.in_features, "] and [", linear.out_features, ", R]"));
}

at::Tensor Values(const Adapter& step, const TensorSpec& spec) {
  auto* values = const_cast<float*>(step.tensor(spec).data());  // read from only
  return at::from_blob(values, spec.shape, at::TensorOptions(at::kFloat));
}

}  // namespace

absl::StatusOr<std::vector<FrozenLinear>> AddToLinears(const std::vector<FrozenLinear>& linears,
                                                       const BaseDescription& base, const Adapter& step,
                                                       const std::vector<double>& scales, at::Device device) {
  WEFT_RETURN_IF_ERROR(CheckNames(base, step.layout()));
  WEFT_RETURN_IF_ERROR(CheckFinite(step));
  std::vector<FrozenLinear> result;
  result.reserve(linears.size());
  for (const FrozenLinear& linear : linears) {
    std::vector<FrozenLinear::Part> parts = linear.parts();
    bool changed = false;
    for (FrozenLinear::Part& part : parts) {
      const LinearModule& module = base.linears[part.module];
      const Factors factors = {.a = step.layout().Find(absl::StrCat(module.name, kSuffixA)),
                               .b = step.layout().Find(absl::StrCat(module.name, kSuffixB))};
      if (factors.a == nullptr || factors.b == nullptr) continue;
      WEFT_RETURN_IF_ERROR(CheckShapes(module, factors));
      part.weight = at::addmm(part.weight.to(at::kFloat), Values(step, *factors.b), Values(step, *factors.a),
                              /*beta=*/1, scales[part.module]);
      changed = true;
    }
    result.push_back(changed ? FrozenLinear(std::move(parts), device) : linear);
  }
  return result;
}

}  // namespace weft
