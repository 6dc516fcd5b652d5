#include "adapters/forms/form.h"

#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "adapters/forms/lora/lora.h"
#include "adapters/forms/lora_sb/lora_sb.h"
#include "adapters/forms/prompt/prompt.h"
#include "adapters/forms/ssf/ssf.h"
#include "common/random.h"
#include "common/status_macros.h"

namespace weft {
namespace {

using Json = nlohmann::json;

constexpr char kRoleHead[] = "head";

struct NamedForm {
  const char* name;
  absl::StatusOr<std::unique_ptr<Form>> (*create)(const google::protobuf::Struct& config);
  const char* peft_type;
  absl::StatusOr<google::protobuf::Struct> (*from_peft)(const Json& peft_config);
};

// A form is a folder here and one line in this table for each peft_type of it.
constexpr NamedForm kForms[] = {{"lora", CreateLora, "LORA", LoraFromPeft},
                                {"lora_sb", CreateLoraSb, kLoraSbPeftType, LoraSbFromPeft},
                                {"ssf", CreateSsf, kSsfPeftType, SsfFromPeft},
                                {"prompt", CreatePrompt, kPromptPeftType, PromptFromPeft},
                                {"prompt", CreatePrompt, kVptPeftType, PromptFromPeft}};

std::string Listed(const char* NamedForm::*member) {
  std::string text;
  std::set<std::string> seen;
  for (const NamedForm& form : kForms) {
    if (seen.insert(form.*member).second) absl::StrAppend(&text, text.empty() ? "" : ", ", form.*member);
  }
  return text;
}

absl::Status CheckLabels(const proto::TaskConfig& task, const TaskDescription& description, bool with_head) {
  bool wanted = false;
  for (const HeadModule& module : description.head) wanted |= module.out_features == 0;
  if (!wanted && task.labels_size() > 0) {
    return absl::InvalidArgumentError(absl::StrCat("task.labels: found ", task.labels_size(), " labels, but task ",
                                                   task.type(), " of this base has none; remove them"));
  }
  if (!wanted || !with_head || task.labels_size() > 0) return absl::OkStatus();
  return absl::InvalidArgumentError(
      "task.labels: found none, but adapter.head trains a head of one row a label; name them");
}

void AddHead(const proto::TaskConfig& task, const TaskDescription& description, std::vector<TensorSpec>* tensors) {
  for (const HeadModule& module : description.head) {
    const int64_t out = module.out_features == 0 ? task.labels_size() : module.out_features;
    tensors->push_back({module.name + ".weight", kRoleHead, {out, module.in_features}});
    if (module.bias) tensors->push_back({module.name + ".bias", kRoleHead, {out}});
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<Form>> CreateForm(const proto::AdapterConfig& config) {
  for (const NamedForm& form : kForms) {
    if (config.form() == form.name) return form.create(config.config());
  }
  return absl::InvalidArgumentError(
      absl::StrCat("adapter.form: no form \"", config.form(), "\"; known: ", Listed(&NamedForm::name)));
}

absl::StatusOr<proto::AdapterConfig> FormFromPeftConfig(const Json& peft_config) {
  if (!peft_config.is_object()) {
    return absl::InvalidArgumentError(
        "adapter_config.json: found no JSON object, expected the config of a PEFT folder");
  }
  const Json type = peft_config.value("peft_type", Json());
  for (const NamedForm& form : kForms) {
    if (type != form.peft_type) continue;
    proto::AdapterConfig config;
    config.set_form(form.name);
    WEFT_ASSIGN_OR_RETURN(*config.mutable_config(), form.from_peft(peft_config));
    const Json saved = peft_config.value("modules_to_save", Json());
    config.set_head(saved.is_array() && !saved.empty());
    WEFT_RETURN_IF_ERROR(CreateForm(config).status());  // ranges
    return config;
  }
  return absl::InvalidArgumentError(absl::StrCat("adapter_config.json: no form for \"peft_type\" ",
                                                 type.dump(-1, ' ', false, Json::error_handler_t::replace),
                                                 "; known: ", Listed(&NamedForm::peft_type)));
}

bool IsClassification(const proto::TaskConfig& task) {
  return task.type() == "sequence_classification" || task.type() == "image_classification";
}

absl::StatusOr<std::shared_ptr<const Layout>> MakeLayout(const proto::AdapterConfig& config,
                                                         const proto::TaskConfig& task, const BaseDescription& base) {
  WEFT_ASSIGN_OR_RETURN(const std::unique_ptr<Form> form, CreateForm(config));
  WEFT_ASSIGN_OR_RETURN(const TaskDescription* description, FindTask(base, task.type()));
  WEFT_RETURN_IF_ERROR(CheckLabels(task, *description, config.head()));
  WEFT_ASSIGN_OR_RETURN(std::vector<TensorSpec> tensors, form->Tensors(base));
  if (config.head()) AddHead(task, *description, &tensors);
  return Layout::Create(std::move(tensors));
}

absl::StatusOr<Adapter> MakeInitialAdapter(const proto::AdapterConfig& config, const BaseDescription& base,
                                           std::shared_ptr<const Layout> layout, uint64_t seed) {
  WEFT_ASSIGN_OR_RETURN(const std::unique_ptr<Form> form, CreateForm(config));
  Adapter adapter(std::move(layout));  // zeros, as biases of a head start
  form->Initialise(base, seed, &adapter);
  for (const TensorSpec& spec : adapter.layout().tensors()) {
    if (spec.role != kRoleHead || spec.shape.size() != 2) continue;
    Philox random(seed, StreamId(spec.name));
    for (float& value : adapter.tensor(spec)) {
      value = static_cast<float>(random.NextNormal() * base.initializer_range);
    }
  }
  return adapter;
}

}  // namespace weft
