#ifndef WEFT_TRAINING_FORMS_MEMBER_TENSORS_H_
#define WEFT_TRAINING_FORMS_MEMBER_TENSORS_H_

// What Attach of every form checks and collects.

#include <cstdint>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "training/forms/form.h"

namespace weft {

// Each tensor that is called "<module><suffix>" by one of these suffixes has a module that the base has (`kind`, for
// the message), its partners by the others, and its like in every member. INVALID_ARGUMENT naming it.
absl::Status CheckModules(std::span<const MemberTensors> members, std::span<const char* const> suffixes,
                          const std::set<std::string>& modules, absl::string_view kind);

// The tensor of each member by this name; empty where none has it.
std::vector<MemberTensor> Collect(std::span<const MemberTensors> members, const std::string& name);

// INVALID_ARGUMENT: another shape.
absl::Status CheckShape(const std::string& name, const at::Tensor& tensor, std::span<const int64_t> shape);
absl::Status CheckShapes(const std::string& name, std::span<const MemberTensor> members,
                         std::span<const int64_t> shape);

}  // namespace weft

#endif  // WEFT_TRAINING_FORMS_MEMBER_TENSORS_H_
