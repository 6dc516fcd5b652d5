#include "client/primitives.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "adapters/factors.h"
#include "common/status_macros.h"
#include "privacy/clipping/clip.h"
#include "training/trainer.h"

namespace weft {
namespace {

constexpr char kControl[] = "control.";

// Squared norm of components begin <= j < end of a factor of `rank` components.
double ComponentsSquared(std::span<const float> factor, const std::string& role, int64_t rank, int64_t begin,
                         int64_t end) {
  const bool rows = *RankAxis(role) == 0;
  const auto other = static_cast<int64_t>(factor.size()) / rank;  // the other dimension
  double sum = 0;
  for (int64_t i = 0; i < other; ++i) {
    for (int64_t j = begin; j < end; ++j) {
      const double value = factor[static_cast<size_t>(rows ? j * other + i : i * rank + j)];
      sum += value * value;
    }
  }
  return sum;
}

double TailProduct(const Adapter& adapter, const std::vector<FactorPair>& pairs, int64_t begin, int64_t end) {
  double sum = 0;
  for (const FactorPair& pair : pairs) {
    const int64_t last = std::min(end, pair.rank);
    sum += std::sqrt(ComponentsSquared(adapter.tensor(*pair.a), pair.a->role, pair.rank, begin, last) *
                     ComponentsSquared(adapter.tensor(*pair.b), pair.b->role, pair.rank, begin, last));
  }
  return sum;
}

}  // namespace

bool IsLossy(const proto::EncodingConfig& encoding) { return !encoding.values().empty() && encoding.values() != "f32"; }

int64_t LargestRank(const Layout& layout) {
  int64_t rank = 0;
  for (const TensorSpec& tensor : layout.tensors()) {
    if (const auto axis = RankAxis(tensor.role); axis.has_value()) rank = std::max(rank, tensor.shape[*axis]);
  }
  return rank;
}

void KeepPrefix(int64_t rank, Adapter* adapter) {
  for (const TensorSpec& tensor : adapter->layout().tensors()) {
    const std::optional<int> axis = RankAxis(tensor.role);
    if (!axis.has_value() || tensor.shape[*axis] <= rank) continue;
    const std::span<float> values = adapter->tensor(tensor);
    const int64_t columns = tensor.shape[1];
    for (int64_t row = 0; row < tensor.shape[0]; ++row) {
      const int64_t keep = *axis == 0 ? (row < rank ? columns : 0) : rank;
      std::fill(values.begin() + row * columns + keep, values.begin() + (row + 1) * columns, 0.0f);
    }
  }
}

absl::Status CheckPart(const Layout& part, const Layout& whole, const char* what) {
  for (const TensorSpec& tensor : part.tensors()) {
    const TensorSpec* own = whole.Find(tensor.name);
    if (own != nullptr && own->role == tensor.role && own->shape == tensor.shape) continue;
    return absl::InvalidArgumentError(absl::StrCat(what, ": tensor \"", tensor.name, "\" of role ", tensor.role,
                                                   " is missing or of another shape; expected all tensors of the job"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<Adapter>> WithRoles(const Layout& whole, const std::set<std::string>& roles,
                                                   const Adapter* also) {
  std::vector<TensorSpec> tensors;
  for (const TensorSpec& tensor : whole.tensors()) {
    const bool held = also != nullptr && also->layout().Find(tensor.name) != nullptr;
    if (held || roles.count(tensor.role) > 0) tensors.push_back(tensor);
  }
  if (tensors.empty()) return nullptr;
  WEFT_ASSIGN_OR_RETURN(std::shared_ptr<const Layout> layout, Layout::Create(std::move(tensors)));
  auto adapter = std::make_shared<Adapter>(std::move(layout));
  if (also != nullptr) PutBack(*also, adapter.get());
  return adapter;
}

absl::StatusOr<std::vector<bool>> StrongestComponents(const Adapter& delta, const Adapter& start, int64_t keep) {
  WEFT_ASSIGN_OR_RETURN(const std::vector<FactorPair> pairs, FactorPairs(start.layout()));
  std::vector<double> scores;
  for (const TensorSpec& tensor : delta.layout().tensors()) {
    const std::optional<int> axis = RankAxis(tensor.role);
    if (!axis.has_value()) continue;
    const auto pair = std::find_if(pairs.begin(), pairs.end(), [&](const FactorPair& p) {
      return p.a->name == tensor.name || p.b->name == tensor.name;
    });
    if (pair == pairs.end()) {
      return absl::InvalidArgumentError(absl::StrCat("tensor \"", tensor.name, "\" is no factor of the job"));
    }
    const TensorSpec& partner = pair->a->name == tensor.name ? *pair->b : *pair->a;
    const int64_t rank = tensor.shape[*axis];
    for (int64_t j = 0; j < rank; ++j) {
      const double score = std::sqrt(ComponentsSquared(delta.tensor(tensor), tensor.role, rank, j, j + 1) *
                                     ComponentsSquared(start.tensor(partner), partner.role, pair->rank, j, j + 1));
      // NaN has no place in an order; it is sent, and refused there by name.
      scores.push_back(std::isnan(score) ? std::numeric_limits<double>::infinity() : score);
    }
  }
  std::vector<size_t> order(scores.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return scores[a] > scores[b]; });
  std::vector<bool> kept(scores.size(), false);
  for (size_t i = 0; i < order.size() && static_cast<int64_t>(i) < keep; ++i) kept[order[i]] = true;
  return kept;
}

absl::StatusOr<int64_t> RankAfter(const proto::RankPruning& pruning, int64_t rank, const Adapter& start,
                                  const Adapter& trained) {
  WEFT_ASSIGN_OR_RETURN(const std::vector<FactorPair> pairs, FactorPairs(start.layout()));
  const int64_t pruned = PrunedRank(pruning, rank);
  const bool shrank = TailProduct(trained, pairs, pruned, rank) < TailProduct(start, pairs, pruned, rank);
  return shrank ? pruned : rank;
}

std::shared_ptr<const Adapter> NextControl(const proto::Plan& plan, int64_t steps, const Adapter& own,
                                           const Adapter& broadcast, const Adapter& start, const Adapter& trained) {
  auto next = std::make_shared<Adapter>(own.Clone());
  for (const TensorSpec& tensor : own.layout().tensors()) {
    const std::string role = tensor.role.substr(sizeof(kControl) - 1);
    const auto& roles = plan.roles_trained();
    if (std::find(roles.begin(), roles.end(), role) == roles.end()) continue;
    const auto scale = plan.learning_rate_scale().find(role);
    const double eta =
        plan.training().learning_rate() * (scale == plan.learning_rate_scale().end() ? 1.0 : scale->second);
    const double distance = static_cast<double>(steps) * eta;
    if (!(distance > 0)) continue;  // nothing was learned about this tensor's gradient
    const TensorSpec& factor = *start.layout().Find(tensor.name.substr(sizeof(kControl) - 1));
    const std::span<const float> c = broadcast.tensor(*broadcast.layout().Find(tensor.name));
    const std::span<const float> x = start.tensor(factor), y = trained.tensor(factor);
    const std::span<float> values = next->tensor(tensor);
    for (size_t i = 0; i < values.size(); ++i) {
      values[i] = static_cast<float>(double{values[i]} - c[i] + (double{x[i]} - y[i]) / distance);
    }
  }
  return next;
}

absl::StatusOr<EncodedDelta> EncodeClipped(Adapter delta, double max_norm, const proto::EncodingConfig& encoding) {
  // A lossy encoding may round the norm above the bound again. Codes scale with their block, so that the second or
  // third try is the last.
  constexpr int kTries = 16;
  if (max_norm > 0) WEFT_RETURN_IF_ERROR(privacy::ClipToNorm(max_norm, delta).status());
  // Who receives plain values checks them; a pass here would find the same.
  if (!IsLossy(encoding)) {
    auto plain = std::make_shared<const Adapter>(std::move(delta));
    return EncodedDelta{EncodedUpdate::Of(plain), plain};
  }
  for (int i = 0; i < kTries; ++i) {
    WEFT_ASSIGN_OR_RETURN(EncodedUpdate encoded, EncodedUpdate::Encode(delta, encoding));
    if (max_norm == 0) return EncodedDelta{std::move(encoded), std::make_shared<const Adapter>(std::move(delta))};
    WEFT_ASSIGN_OR_RETURN(const privacy::Clipped sent, privacy::ClipFactor(max_norm, encoded.Decode()));
    if (!sent.clipped()) return EncodedDelta{std::move(encoded), std::make_shared<const Adapter>(std::move(delta))};
    const double factor = sent.factor * (1 - std::ldexp(1.0, i - kTries - 2));
    for (float& value : delta.values()) value = static_cast<float>(value * factor);
  }
  return absl::InvalidArgumentError(absl::StrCat("the update can't be encoded as ", encoding.values(),
                                                 " with an L2 norm of at most ", max_norm,
                                                 "; take another encoding or a larger clip"));
}

}  // namespace weft
