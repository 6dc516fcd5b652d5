#ifndef WEFT_ADAPTERS_FACTORS_H_
#define WEFT_ADAPTERS_FACTORS_H_

// The low-rank factors of an adapter: which tensors belong together, and what of them a client sends or receives.
// Component j of a pair is row j of A and column j of B.

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "adapters/adapter.h"
#include "adapters/layout.h"

namespace weft {

// Roles of the two factors of W + scale * B A.
inline constexpr char kRoleLoraA[] = "lora_a";  // [rank, in]
inline constexpr char kRoleLoraB[] = "lora_b";  // [out, rank]

// Refers to the layout's specs.
struct FactorPair {
  std::string module;             // the tensors' names without ".lora_A.weight" and ".lora_B.weight"
  const TensorSpec* a = nullptr;  // [rank, in]
  const TensorSpec* b = nullptr;  // [out, rank]
  int64_t rank = 0;
  int64_t in = 0;
  int64_t out = 0;
};

// The pairs in the order of their A in the layout; empty when there is no factor. INVALID_ARGUMENT naming the tensor: a
// factor that is no matrix, whose name has another ending, that has no partner, or one of another rank.
absl::StatusOr<std::vector<FactorPair>> FactorPairs(const Layout& layout);
// Such a layout must not go before its pairs.
absl::StatusOr<std::vector<FactorPair>> FactorPairs(Layout&&) = delete;

// The axis of a tensor of this role along which components are counted: 0 for lora_a, 1 for lora_b, none for others.
std::optional<int> RankAxis(std::string_view role);

// What travels: the tensors of `roles`, in layout order, factors cut to their first `rank` components (0: all; a factor
// that has no more is whole). INVALID_ARGUMENT: a negative rank, a role that no tensor has, no role.
absl::StatusOr<std::shared_ptr<const Layout>> SentLayout(const Layout& layout, const std::vector<std::string>& roles,
                                                         int64_t rank);

// The values of `full` that `cut` has room for. Every tensor of `cut` must be one of full's, as SentLayout makes them;
// anything else aborts.
Adapter Cut(const Adapter& full, const std::shared_ptr<const Layout>& cut);
// The reverse: writes the values of `cut` to their places in `full` and leaves everything else untouched.
void PutBack(const Adapter& cut, Adapter* full);

}  // namespace weft

#endif  // WEFT_ADAPTERS_FACTORS_H_
