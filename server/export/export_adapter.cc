#include "server/export/export_adapter.h"

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "adapters/factors.h"
#include "adapters/forms/form.h"
#include "common/status_macros.h"

namespace weft::server {
namespace {

constexpr char kStepA[] = ".base_A.weight";
constexpr char kStepB[] = ".base_B.weight";

// A pair of factors: a is [rank, in], b is [out, rank], both row-major.
struct Factors {
  std::span<const float> a;
  std::span<const float> b;
  int64_t rank = 0;
};

// The product of a module as a sum of factored terms.
struct Module {
  const FactorPair* pair = nullptr;
  std::vector<Factors> terms;
  int64_t rank = 0;  // of all terms together

  int64_t full_rank() const { return std::min(pair->in, pair->out); }
};

absl::Status Misfit(const TensorSpec& tensor, const std::string& expected) {
  return absl::InvalidArgumentError(absl::StrCat("base step: tensor ", tensor.name, " [",
                                                 absl::StrJoin(tensor.shape, ", "), "] of role ", tensor.role,
                                                 ", expected ", expected));
}

absl::Status AddStep(const Adapter& step, std::vector<Module>* modules) {
  size_t found = 0;
  for (Module& module : *modules) {
    const FactorPair& pair = *module.pair;
    const TensorSpec* a = step.layout().Find(absl::StrCat(pair.module, kStepA));
    const TensorSpec* b = step.layout().Find(absl::StrCat(pair.module, kStepB));
    if (a == nullptr && b == nullptr) continue;
    if (a == nullptr || b == nullptr) return Misfit(a == nullptr ? *b : *a, "a partner");
    const int64_t rank = a->shape[0];
    if (a->shape != std::vector<int64_t>{rank, pair.in}) return Misfit(*a, absl::StrCat("[R, ", pair.in, "]"));
    if (b->shape != std::vector<int64_t>{pair.out, rank}) {
      return Misfit(*b, absl::StrCat("[", pair.out, ", ", rank, "]"));
    }
    module.terms.push_back({step.tensor(*a), step.tensor(*b), rank});
    module.rank += rank;
    found += 2;
  }
  if (found == step.layout().tensors().size()) return absl::OkStatus();
  for (const TensorSpec& tensor : step.layout().tensors()) {
    std::string module = tensor.name;
    if (absl::EndsWith(module, kStepA) || absl::EndsWith(module, kStepB)) {
      module.resize(module.size() - (sizeof(kStepA) - 1));
    }
    const bool known =
        std::any_of(modules->begin(), modules->end(), [&](const Module& one) { return one.pair->module == module; });
    if (!known) return Misfit(tensor, "a module of the adapter");
  }
  return absl::OkStatus();
}

// The terms one after the other. `a` is [rank, in], `b` is [out, rank].
void Concatenate(const Module& module, int64_t rank, std::span<float> a, std::span<float> b) {
  int64_t component = 0;
  for (const Factors& term : module.terms) {
    std::copy(term.a.begin(), term.a.end(), a.begin() + component * module.pair->in);
    for (int64_t row = 0; row < module.pair->out; ++row) {
      std::copy_n(term.b.begin() + row * term.rank, term.rank, b.begin() + row * rank + component);
    }
    component += term.rank;
  }
}

// The product as one factor and the identity as the other.
void Multiply(const Module& module, int64_t rank, std::span<float> a, std::span<float> b) {
  const int64_t in = module.pair->in;
  const int64_t out = module.pair->out;
  const bool in_b = in <= out;
  std::vector<double> row(static_cast<size_t>(in));
  for (int64_t o = 0; o < out; ++o) {
    std::fill(row.begin(), row.end(), 0.0);
    for (const Factors& term : module.terms) {
      for (int64_t j = 0; j < term.rank; ++j) {
        const double factor = term.b[o * term.rank + j];
        for (int64_t i = 0; i < in; ++i) row[i] += factor * term.a[j * in + i];
      }
    }
    const std::span<float> to = in_b ? b.subspan(o * rank, in) : a.subspan(o * in, in);
    std::transform(row.begin(), row.end(), to.begin(), [](double value) { return static_cast<float>(value); });
  }
  for (int64_t j = 0; j < module.full_rank(); ++j) (in_b ? a[j * in + j] : b[j * rank + j]) = 1;
}

}  // namespace

absl::StatusOr<Adapter> WithBaseSteps(const Adapter& adapter, std::span<const Adapter> steps) {
  WEFT_ASSIGN_OR_RETURN(const std::vector<FactorPair> pairs, FactorPairs(adapter.layout()));
  std::vector<Module> modules;
  for (const FactorPair& pair : pairs) {
    modules.push_back({&pair, {{adapter.tensor(*pair.a), adapter.tensor(*pair.b), pair.rank}}, pair.rank});
  }
  for (const Adapter& step : steps) WEFT_RETURN_IF_ERROR(AddStep(step, &modules));
  int64_t rank = 0;
  for (const Module& module : modules) {
    rank = std::max(rank, std::min(module.rank, std::max(module.full_rank(), module.pair->rank)));
  }
  std::vector<TensorSpec> tensors = adapter.layout().tensors();
  for (TensorSpec& tensor : tensors) {
    if (const auto axis = RankAxis(tensor.role); axis.has_value()) tensor.shape[*axis] = rank;
  }
  WEFT_ASSIGN_OR_RETURN(std::shared_ptr<const Layout> layout, Layout::Create(std::move(tensors)));
  Adapter merged(std::move(layout));
  for (const TensorSpec& tensor : merged.layout().tensors()) {
    if (RankAxis(tensor.role).has_value()) continue;
    const std::span<const float> from = adapter.tensor(*adapter.layout().Find(tensor.name));
    std::copy(from.begin(), from.end(), merged.tensor(tensor).begin());
  }
  for (const Module& module : modules) {
    const std::span<float> a = merged.tensor(*merged.layout().Find(module.pair->a->name));
    const std::span<float> b = merged.tensor(*merged.layout().Find(module.pair->b->name));
    (module.rank <= rank ? Concatenate : Multiply)(module, rank, a, b);
  }
  return merged;
}

absl::StatusOr<Adapter> ExportAdapter(Adapter adapter, std::span<const Adapter> steps, const BaseDescription& base,
                                      proto::JobConfig* config) {
  if (steps.empty()) return adapter;
  WEFT_ASSIGN_OR_RETURN(const std::unique_ptr<Form> form, CreateForm(config->adapter()));
  WEFT_ASSIGN_OR_RETURN(Adapter merged, WithBaseSteps(adapter, steps));
  const auto axis_a = std::find_if(merged.layout().tensors().begin(), merged.layout().tensors().end(),
                                   [](const TensorSpec& tensor) { return tensor.role == kRoleLoraA; });
  const int64_t rank = axis_a->shape[0];
  WEFT_ASSIGN_OR_RETURN(*config->mutable_adapter()->mutable_config(), form->WithRank(base, rank));
  absl::StatusOr<std::shared_ptr<const Layout>> layout = MakeLayout(config->adapter(), config->task(), base);
  if (!layout.ok()) {
    return absl::Status(layout.status().code(),
                        absl::StrCat("the job's steps of the base make an adapter of rank ", rank,
                                     ", which the form does not allow: ", layout.status().message()));
  }
  if (!(**layout == merged.layout())) {
    return absl::InternalError("the exported adapter is laid out otherwise than its form says");
  }
  return merged;
}

}  // namespace weft::server
