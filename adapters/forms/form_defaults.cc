// What a form does that does not say otherwise.

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "adapters/forms/form.h"

namespace weft {

absl::Status Form::Reinitialise(uint64_t seed, Adapter* adapter) const {
  (void)seed, (void)adapter;
  return absl::InvalidArgumentError(
      "the form's initial values depend on the base, so that none are drawn anew within a job; use a rule that does "
      "not start factors anew");
}

std::string Form::PeftName(const std::string& name, const std::string& role) const {
  (void)role;
  return absl::StrCat("base_model.model.", name);  // attributes in which PeftModel and its tuner hold the task's model
}

absl::StatusOr<std::optional<FormedAdapter>> Form::ForPeft(const Adapter& adapter) const {
  (void)adapter;
  return std::nullopt;
}

double Form::Scale(const std::string& module) const {
  (void)module;
  return 1;
}

absl::StatusOr<google::protobuf::Struct> Form::WithRank(const BaseDescription& base, int64_t rank) const {
  (void)base, (void)rank;
  return absl::InvalidArgumentError("the form has no LoRA factors, and so no rank; use adapter.form lora");
}

absl::Status Form::Merge(const Adapter& adapter, const MergedModule& module, std::span<float> weight,
                         std::span<float> bias) const {
  (void)adapter, (void)weight, (void)bias;
  return absl::InvalidArgumentError(absl::StrCat("module ", module.name,
                                                 ": an adapter of this form can't be merged into weights; load it "
                                                 "beside the base"));
}

}  // namespace weft
