#ifndef WEFT_ADAPTERS_FORMS_FORM_H_
#define WEFT_ADAPTERS_FORMS_FORM_H_

#include <memory>
#include <optional>
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

// The torch-free half of an adapter form: which tensors it adds to a base, how they start, how Hugging Face PEFT names
// them. Stateless; one object per job. The other half is training/forms/<form>.
class Form {
 public:
  virtual ~Form() = default;

  // Tensors of the form on this base, in module order, without the head. INVALID_ARGUMENT: target modules that match
  // nothing (lists candidates).
  virtual absl::StatusOr<std::vector<TensorSpec>> Tensors(const BaseDescription& base) const = 0;
  // Seeded initial values of the form's tensors in `adapter` (Philox stream per tensor name); others untouched.
  virtual void Initialise(uint64_t seed, Adapter* adapter) const = 0;
  // adapter_config.json of PEFT without the fields that depend on the task (task_type, modules_to_save,
  // base_model_name_or_path).
  virtual nlohmann::json PeftConfig() const = 0;
  // What multiplies the tensors where they act (alpha / rank of LoRA), 1 where nothing does: values made under one
  // scale are another adapter under another.
  virtual double Scale() const = 0;
  // Of a form that PEFT does not know: the same change of the base in one that it does. Tensors of other owners are
  // copied. nullopt: PEFT knows the form. `adapter` is of this form.
  virtual absl::StatusOr<std::optional<FormedAdapter>> ForPeft(const Adapter& adapter) const {
    (void)adapter;
    return std::nullopt;
  }
};

// `config` is the form's own message as a Struct. INVALID_ARGUMENT: unknown form (lists the known ones), unknown key,
// value out of range.
absl::StatusOr<std::unique_ptr<Form>> CreateForm(const proto::AdapterConfig& config);
// Reads back what PeftConfig wrote (or PEFT itself): the AdapterConfig that a folder's adapter_config.json stands for.
absl::StatusOr<proto::AdapterConfig> FormFromPeftConfig(const nlohmann::json& peft_config);

// The whole adapter of a job: the form's tensors, then the head's "<head>.weight" [labels, hidden] and "<head>.bias"
// [labels] with role "head" when adapter.head is set. `config` must have passed proto/schema defaults.
absl::StatusOr<std::shared_ptr<const Layout>> MakeLayout(const proto::AdapterConfig& config,
                                                         const proto::TaskConfig& task, const BaseDescription& base);
// Initial values: the form's, and for the head normal(0, initializer_range of the base) weights with zero bias, as
// transformers does.
absl::StatusOr<Adapter> MakeInitialAdapter(const proto::AdapterConfig& config, const BaseDescription& base,
                                           std::shared_ptr<const Layout> layout, uint64_t seed);

}  // namespace weft

#endif  // WEFT_ADAPTERS_FORMS_FORM_H_
