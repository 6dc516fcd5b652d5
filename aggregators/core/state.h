#ifndef WEFT_AGGREGATORS_CORE_STATE_H_
#define WEFT_AGGREGATORS_CORE_STATE_H_

// The state of a job: the job's adapter, followed by the tensors of its rule (aggregator.h).

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "adapters/adapter.h"

namespace weft::aggregators {

inline constexpr std::string_view kServerPrefix = "server.";    // never leaves the coordinator
inline constexpr std::string_view kControlPrefix = "control.";  // SCAFFOLD's c, one per tensor of a trained role

// Whether clients receive tensors of this role.
bool IsBroadcast(std::string_view role);
// Whether tensors of this role are of the job's adapter, not of the rule.
bool IsAdapterRole(std::string_view role);
// Roles of the job's adapter that can be trained, once each, in layout order: without those that begin with "fixed.".
std::vector<std::string> AdapterRoles(const Layout& layout);
bool HasRole(const Layout& layout, std::string_view role);

// The tensors of `layout` under "<prefix><name>" and role "<prefix><role>": a companion for each.
std::vector<TensorSpec> Companions(const Layout& layout, std::string_view prefix);
// The state with `extra` tensors, all zeros, after its own. INVALID_ARGUMENT as Layout::Create.
absl::StatusOr<Adapter> Extend(const Adapter& state, const std::vector<TensorSpec>& extra);
// A copy of `state` to which the tensors of `delta` are added where they have the same name; every tensor of `delta`
// must be one of the state's.
Adapter Plus(const Adapter& state, const Adapter& delta);

}  // namespace weft::aggregators

#endif  // WEFT_AGGREGATORS_CORE_STATE_H_
