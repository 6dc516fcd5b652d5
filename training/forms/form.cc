#include "training/forms/form.h"

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "training/forms/lora/lora.h"
#include "training/forms/lora_sb/lora_sb.h"
#include "training/forms/prompt/prompt.h"
#include "training/forms/ssf/ssf.h"

namespace weft {
namespace {

struct NamedForm {
  const char* name;
  absl::StatusOr<std::unique_ptr<TorchForm>> (*create)(const proto::AdapterConfig& config);
};

constexpr NamedForm kForms[] = {
    {"lora", CreateTorchLora}, {"lora_sb", CreateTorchLoraSb}, {"prompt", CreateTorchPrompt}, {"ssf", CreateTorchSsf}};

}  // namespace

absl::StatusOr<std::unique_ptr<TorchForm>> CreateTorchForm(const proto::AdapterConfig& config) {
  std::string known;
  for (const NamedForm& form : kForms) {
    if (config.form() == form.name) return form.create(config);
    absl::StrAppend(&known, known.empty() ? "" : ", ", form.name);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("adapter.form: the trainer has no form \"", config.form(), "\"; known: ", known));
}

}  // namespace weft
