#include "adapters/forms/prompt/prompt.h"

#include <cmath>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "adapters/forms/peft_fields.h"
#include "adapters/forms/prompt/prompt.pb.h"
#include "common/random.h"
#include "common/status_macros.h"
#include "proto/schema.h"

namespace weft {
namespace {

using Json = nlohmann::json;

constexpr char kPrompt[] = "prompt_embeddings", kDeepPrompt[] = "deep_prompt_embeddings";
constexpr char kRolePrompt[] = "prompt";

bool OfImages(const BaseDescription& base) {
  return base.transformer.has_value() && base.transformer->patches.has_value();
}

class Prompt : public Form {
 public:
  explicit Prompt(proto::PromptConfig config) : config_(std::move(config)) {}

  absl::StatusOr<std::vector<TensorSpec>> Tensors(const BaseDescription& base) const override {
    if (!base.transformer.has_value()) {
      return absl::InvalidArgumentError(
          absl::StrCat("adapter.form: found prompt on a base of model_type \"", base.model_type,
                       "\", expected a transformer, which reads tokens; ", "use form lora or ssf"));
    }
    const Transformer& transformer = *base.transformer;
    if (!OfImages(base) && config_.deep()) {
      return absl::InvalidArgumentError(
          "adapter.config.deep: found true on a base that reads texts, expected false; prompts for each layer are for "
          "images");
    }
    if (!OfImages(base) && config_.tokens() >= transformer.max_positions) {
      return absl::InvalidArgumentError(absl::StrCat("adapter.config.tokens: found ", config_.tokens(),
                                                     ", but the base has ", transformer.max_positions,
                                                     " positions, and a text needs some behind them; lower it"));
    }
    std::vector<TensorSpec> tensors = {{kPrompt, kRolePrompt, {config_.tokens(), base.hidden_size}}};
    const auto layers = static_cast<int64_t>(transformer.layers.size());
    if (config_.deep() && layers > 1) {
      tensors.push_back({kDeepPrompt, kRolePrompt, {layers - 1, config_.tokens(), base.hidden_size}});
    }
    return tensors;
  }

  void Initialise(const BaseDescription& base, uint64_t seed, Adapter* adapter) const override {
    for (const TensorSpec& spec : adapter->layout().tensors()) {
      if (spec.role != kRolePrompt) continue;
      Philox random(seed, StreamId(spec.name));
      if (OfImages(base)) {
        const Patches& patches = *base.transformer->patches;
        const auto fan_in = static_cast<double>(patches.channels * patches.patch_size * patches.patch_size);
        const double bound = std::sqrt(6 / (fan_in + static_cast<double>(base.hidden_size)));
        for (float& value : adapter->tensor(spec)) value = static_cast<float>((2.0 * random.NextFloat() - 1) * bound);
      } else {
        for (float& value : adapter->tensor(spec)) {
          value = static_cast<float>(random.NextNormal() * base.initializer_range);
        }
      }
    }
  }

  absl::StatusOr<Json> PeftConfig(const BaseDescription& base, const TaskDescription& task) const override {
    (void)task;
    if (OfImages(base)) {
      return Json{{"peft_type", kVptPeftType},
                  {"num_virtual_tokens", config_.tokens()},
                  {"deep", config_.deep()},
                  {"dropout", config_.dropout()}};
    }
    return Json{{"peft_type", kPromptPeftType},
                {"num_virtual_tokens", config_.tokens()},
                {"token_dim", base.hidden_size},
                {"num_layers", base.transformer->layers.size()},
                {"num_attention_heads", base.transformer->heads},
                {"num_transformer_submodules", 1},
                {"prompt_tuning_init", "RANDOM"},
                {"prompt_tuning_init_text", nullptr},
                {"tokenizer_name_or_path", nullptr},
                {"tokenizer_kwargs", nullptr}};
  }

  std::string PeftName(const std::string& name, const std::string& role) const override {
    return role == kRolePrompt ? name : absl::StrCat("base_model.", name);  // no tuner wraps the task's model
  }

 private:
  const proto::PromptConfig config_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Form>> CreatePrompt(const google::protobuf::Struct& config) {
  proto::PromptConfig prompt;
  WEFT_RETURN_IF_ERROR(proto::FromStruct(config, "adapter.config", &prompt));
  return std::make_unique<Prompt>(std::move(prompt));
}

absl::StatusOr<google::protobuf::Struct> PromptFromPeft(const Json& peft_config) {
  google::protobuf::Struct config;
  WEFT_RETURN_IF_ERROR(CopyNumber(peft_config, "num_virtual_tokens", "tokens", &config));
  if (peft_config.value("peft_type", Json()) == kVptPeftType) {
    WEFT_RETURN_IF_ERROR(CheckOthersOff(peft_config, {"num_virtual_tokens", "deep", "dropout"}));
    WEFT_RETURN_IF_ERROR(CopyNumber(peft_config, "dropout", "dropout", &config));
    const Json deep = peft_config.value("deep", Json());
    if (!deep.is_boolean()) return RefusedField("deep", deep, "expected true or false");
    (*config.mutable_fields())["deep"].set_bool_value(deep.get<bool>());
    return config;
  }
  // Facts of the base, or about how the tokens start.
  WEFT_RETURN_IF_ERROR(CheckOthersOff(
      peft_config,
      {"num_virtual_tokens", "token_dim", "num_layers", "num_attention_heads", "num_transformer_submodules",
       "prompt_tuning_init", "prompt_tuning_init_text", "tokenizer_name_or_path", "tokenizer_kwargs"}));
  const Json submodules = peft_config.value("num_transformer_submodules", Json());
  if (submodules.is_null() || submodules == 1) return config;
  return RefusedField("num_transformer_submodules", submodules, "weft knows models of one transformer only");
}

}  // namespace weft
