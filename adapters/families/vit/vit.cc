#include "adapters/families/vit/vit.h"

#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "adapters/families/fields.h"
#include "adapters/families/transformer_names.h"
#include "common/status_macros.h"

namespace weft {
namespace {

constexpr int64_t kLargestImage = 1 << 14;  // pixels a side

constexpr TransformerKeys kKeys = {.head_dim = "head_dim", .vocabulary = nullptr, .positions = nullptr};

constexpr TransformerNames kNames = {
    .prefix = "vit.",
    .position_embeddings = "embeddings.position_embeddings",
    .patch_projection = "embeddings.patch_embeddings.projection",
    .class_token = "embeddings.cls_token",
    .query = "layers.$.attention.q_proj",
    .key = "layers.$.attention.k_proj",
    .value = "layers.$.attention.v_proj",
    .attention_output = "layers.$.attention.o_proj",
    .up = "layers.$.mlp.fc1",
    .down = "layers.$.mlp.fc2",
    .attention_norm = "layers.$.layernorm_before",
    .feed_forward_norm = "layers.$.layernorm_after",
    .final_norm = "layernorm",
    .ignored = {"classifier.", "decoder.", "vit.pooler.", "vit.embeddings.mask_token"},
};

// Checkpoints keep the names from before transformers 5.
constexpr TransformerNames kStored = {
    .prefix = "vit.",
    .query = "encoder.layer.$.attention.attention.query",
    .key = "encoder.layer.$.attention.attention.key",
    .value = "encoder.layer.$.attention.attention.value",
    .attention_output = "encoder.layer.$.attention.output.dense",
    .up = "encoder.layer.$.intermediate.dense",
    .down = "encoder.layer.$.output.dense",
    .attention_norm = "encoder.layer.$.layernorm_before",
    .feed_forward_norm = "encoder.layer.$.layernorm_after",
};

// Pixels a side, given as one number or as two that are equal.
absl::StatusOr<int64_t> ReadSide(const nlohmann::json& config, const char* key, int64_t otherwise, int64_t most) {
  if (!HasValue(config, key)) return otherwise;
  const nlohmann::json& found = *config.find(key);
  if (!found.is_array()) return ReadSize(config, key, most);
  if (found.size() == 2 && found[0] == found[1]) return ReadSize({{key, found[0]}}, key, most);
  return absl::InvalidArgumentError(
      absl::StrCat("config.json: \"", key, "\" must be one number or two that are equal, found ", Shown(found)));
}

absl::StatusOr<Patches> ReadPatches(const nlohmann::json& config) {
  Patches patches;
  WEFT_ASSIGN_OR_RETURN(patches.image_size, ReadSide(config, "image_size", 224, kLargestImage));
  WEFT_ASSIGN_OR_RETURN(patches.patch_size, ReadSide(config, "patch_size", 16, kLargestImage));
  WEFT_ASSIGN_OR_RETURN(patches.channels, ReadSizeOr(config, "num_channels", 3));
  if (patches.channels > kLargestSize / (patches.patch_size * patches.patch_size)) {
    return absl::InvalidArgumentError(absl::StrCat("config.json: \"num_channels\" ", patches.channels,
                                                   " of \"patch_size\" ", patches.patch_size, " squared are over ",
                                                   kLargestSize));
  }
  if (patches.image_size % patches.patch_size == 0) return patches;
  return absl::InvalidArgumentError(absl::StrCat("config.json: \"image_size\" ", patches.image_size,
                                                 " is not a multiple of \"patch_size\" ", patches.patch_size));
}

}  // namespace

absl::StatusOr<BaseDescription> DescribeVit(nlohmann::json config) {
  WEFT_ASSIGN_OR_RETURN(Transformer transformer, ReadTransformer(config, kKeys));
  WEFT_ASSIGN_OR_RETURN(transformer.patches, ReadPatches(config));
  transformer.max_positions = 1 + transformer.patches->count();
  transformer.position_embedding_rows = transformer.max_positions;
  transformer.norm_first = true;
  LinearChoices choices;
  WEFT_ASSIGN_OR_RETURN(choices.query_key_value_bias, ReadFlag(config, "qkv_bias", true));
  WEFT_ASSIGN_OR_RETURN(BaseDescription base, MakeTransformerBase("vit", std::move(config), std::move(transformer),
                                                                  kNames, kStored, choices));
  base.tasks["image_classification"] = {.read = TaskDescription::Read::kFirst,
                                        .head = {{.name = "classifier", .in_features = base.hidden_size}},
                                        .peft_task_type = ""};
  return base;
}

}  // namespace weft
