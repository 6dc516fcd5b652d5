#include "adapters/forms/form.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "adapters/forms/lora/lora.h"
#include "adapters/forms/lora_sb/lora_sb.h"
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

// A form is a folder here and one line in this table.
constexpr NamedForm kForms[] = {{"lora", CreateLora, "LORA", LoraFromPeft},
                                {"lora_sb", CreateLoraSb, kLoraSbPeftType, LoraSbFromPeft}};

std::string Listed(const char* NamedForm::*member) {
  std::string text;
  for (const NamedForm& form : kForms) absl::StrAppend(&text, text.empty() ? "" : ", ", form.*member);
  return text;
}

std::string HeadTensor(const BaseDescription& base, const char* parameter) {
  return absl::StrCat(base.head_name, ".", parameter);
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

absl::StatusOr<std::shared_ptr<const Layout>> MakeLayout(const proto::AdapterConfig& config,
                                                         const proto::TaskConfig& task, const BaseDescription& base) {
  WEFT_ASSIGN_OR_RETURN(const std::unique_ptr<Form> form, CreateForm(config));
  WEFT_ASSIGN_OR_RETURN(std::vector<TensorSpec> tensors, form->Tensors(base));
  if (config.head()) {
    const int64_t labels = task.labels_size();
    if (labels == 0) {
      return absl::InvalidArgumentError(
          "task.labels: found none, but adapter.head trains a head of one row a label; name them");
    }
    tensors.push_back({HeadTensor(base, "weight"), kRoleHead, {labels, base.hidden_size}});
    tensors.push_back({HeadTensor(base, "bias"), kRoleHead, {labels}});
  }
  return Layout::Create(std::move(tensors));
}

absl::StatusOr<Adapter> MakeInitialAdapter(const proto::AdapterConfig& config, const BaseDescription& base,
                                           std::shared_ptr<const Layout> layout, uint64_t seed) {
  WEFT_ASSIGN_OR_RETURN(const std::unique_ptr<Form> form, CreateForm(config));
  Adapter adapter(std::move(layout));  // zeros, as the head's bias starts
  form->Initialise(seed, &adapter);
  if (const TensorSpec* weight = adapter.layout().Find(HeadTensor(base, "weight")); weight != nullptr) {
    Philox random(seed, StreamId(weight->name));
    for (float& value : adapter.tensor(*weight)) {
      value = static_cast<float>(random.NextNormal() * base.initializer_range);
    }
  }
  return adapter;
}

}  // namespace weft
