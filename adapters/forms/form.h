#ifndef WEFT_ADAPTERS_FORMS_FORM_H_
#define WEFT_ADAPTERS_FORMS_FORM_H_

#include <google/protobuf/struct.pb.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "adapters/adapter.h"
#include "adapters/base.h"
#include "nlohmann/json.hpp"
#include "proto/job.pb.h"

namespace weft {

// An adapter with the config of its form.
struct FormedAdapter {
  proto::AdapterConfig config;
  Adapter adapter;
};

// A module of a base as merging sees it: a linear one, a norm, or the patch projection.
struct MergedModule {
  std::string name;
  int64_t rows = 0;     // width of the output
  int64_t columns = 1;  // values of the input that each output reads; 1 of a norm
  bool bias = true;     // the base has one
};

// The torch-free half of an adapter form: which tensors it adds to a base, how they start, how Hugging Face PEFT names
// them, what they make of the base's weights. Stateless; one object per job. The other half is training/forms/<form>.
class Form {
 public:
  virtual ~Form() = default;

  // Tensors of the form on this base, in module order, without the head. INVALID_ARGUMENT: target modules that match
  // nothing (lists candidates), a base that the form can't sit on.
  virtual absl::StatusOr<std::vector<TensorSpec>> Tensors(const BaseDescription& base) const = 0;
  // Seeded initial values of the form's tensors in `adapter` (Philox stream per tensor name); others untouched.
  virtual void Initialise(const BaseDescription& base, uint64_t seed, Adapter* adapter) const = 0;
  // The same for a form whose initial values do not depend on the base: what Plan.reinitialise draws anew.
  // INVALID_ARGUMENT: of any other.
  virtual absl::Status Reinitialise(uint64_t seed, Adapter* adapter) const;

  // adapter_config.json of PEFT without the fields that depend on the task (task_type, modules_to_save) and
  // base_model_name_or_path. Module names are those of the task's model.
  virtual absl::StatusOr<nlohmann::json> PeftConfig(const BaseDescription& base, const TaskDescription& task) const = 0;
  // The key in adapter_model.safetensors of the tensor that the task's model calls `name`.
  virtual std::string PeftName(const std::string& name, const std::string& role) const;
  // Of a form that PEFT does not know: the same change of the base in one that it does. Tensors of other owners are
  // copied. nullopt: PEFT knows the form, or none that it knows is the same. `adapter` is of this form.
  virtual absl::StatusOr<std::optional<FormedAdapter>> ForPeft(const Adapter& adapter) const;

  // What multiplies the tensors of a module where they act (alpha / rank of LoRA), 1 where nothing does: values made
  // under one scale are another adapter under another.
  virtual double Scale(const std::string& module) const;
  // Of a form with LoRA factors: the config under which each module has `rank` components at the scale it has now.
  // INVALID_ARGUMENT: of any other.
  virtual absl::StatusOr<google::protobuf::Struct> WithRank(const BaseDescription& base, int64_t rank) const;

  // Merges the adapter into a module that tensors of it are named after: changes its weight [rows, columns] or its bias
  // [rows] (the other is empty), so that the base alone computes what it did with the adapter. INVALID_ARGUMENT saying
  // why not.
  virtual absl::Status Merge(const Adapter& adapter, const MergedModule& module, std::span<float> weight,
                             std::span<float> bias) const;
};

// `config` is the form's own message as a Struct. INVALID_ARGUMENT: unknown form (lists the known ones), unknown key,
// value out of range.
absl::StatusOr<std::unique_ptr<Form>> CreateForm(const proto::AdapterConfig& config);
// Reads back what PeftConfig wrote (or PEFT itself): the AdapterConfig that a folder's adapter_config.json stands for.
absl::StatusOr<proto::AdapterConfig> FormFromPeftConfig(const nlohmann::json& peft_config);

// Whether rows of the task have labels: others take none.
bool IsClassification(const proto::TaskConfig& task);

// The whole adapter of a job: the form's tensors, then, with adapter.head set, "<module>.weight" [out or labels, in]
// and
// "<module>.bias" of each module of the task's head with role "head"; a task without a head gets none. `config` must
// have passed proto/schema defaults. INVALID_ARGUMENT: a task that the base does not do; labels missing where the head
// has a row for each; labels of a task that has none.
absl::StatusOr<std::shared_ptr<const Layout>> MakeLayout(const proto::AdapterConfig& config,
                                                         const proto::TaskConfig& task, const BaseDescription& base);
// Initial values: the form's, and for the head normal(0, initializer_range of the base) weights with zero bias, as
// transformers does.
absl::StatusOr<Adapter> MakeInitialAdapter(const proto::AdapterConfig& config, const BaseDescription& base,
                                           std::shared_ptr<const Layout> layout, uint64_t seed);

}  // namespace weft

#endif  // WEFT_ADAPTERS_FORMS_FORM_H_
