#include "training/forms/member_tensors.h"

#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/status_macros.h"

namespace weft {
namespace {

absl::Status CheckModule(const MemberTensors& tensors, const std::string& name, const std::string& module,
                         std::span<const char* const> suffixes, const std::set<std::string>& modules,
                         absl::string_view kind) {
  if (!modules.contains(module)) {
    return absl::InvalidArgumentError(
        absl::StrCat("adapter tensor ", name, ": the base has no ", kind, " module ", module));
  }
  for (const char* suffix : suffixes) {
    if (tensors.contains(module + suffix)) continue;
    return absl::InvalidArgumentError(absl::StrCat("adapter tensor ", name, " comes without ", module, suffix));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckModules(std::span<const MemberTensors> members, std::span<const char* const> suffixes,
                          const std::set<std::string>& modules, absl::string_view kind) {
  std::map<std::string, size_t> owners;  // how many members have each tensor of the form
  for (const MemberTensors& tensors : members) {
    for (const auto& [name, tensor] : tensors) {
      for (const std::string_view suffix : suffixes) {
        if (!name.ends_with(suffix)) continue;
        const std::string module = name.substr(0, name.size() - suffix.size());
        WEFT_RETURN_IF_ERROR(CheckModule(tensors, name, module, suffixes, modules, kind));
        ++owners[name];
      }
    }
  }
  for (const auto& [name, count] : owners) {
    if (count == members.size()) continue;
    return absl::InvalidArgumentError(absl::StrCat("adapter tensor ", name, ": found it in ", count, " of ",
                                                   members.size(), " members; those of a pass have one layout"));
  }
  return absl::OkStatus();
}

std::vector<MemberTensor> Collect(std::span<const MemberTensors> members, const std::string& name) {
  std::vector<MemberTensor> found;
  for (const MemberTensors& tensors : members) {
    const auto tensor = tensors.find(name);
    if (tensor != tensors.end()) found.push_back(tensor->second);
  }
  return found;
}

absl::Status CheckShape(const std::string& name, const at::Tensor& tensor, std::span<const int64_t> shape) {
  if (tensor.sizes() == at::IntArrayRef(shape.data(), shape.size())) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("adapter tensor ", name, " has shape [",
                                                 absl::StrJoin(tensor.sizes(), ", "), "], the base asks for [",
                                                 absl::StrJoin(shape, ", "), "]"));
}

absl::Status CheckShapes(const std::string& name, std::span<const MemberTensor> members,
                         std::span<const int64_t> shape) {
  for (const MemberTensor& member : members) WEFT_RETURN_IF_ERROR(CheckShape(name, member.value, shape));
  return absl::OkStatus();
}

}  // namespace weft
