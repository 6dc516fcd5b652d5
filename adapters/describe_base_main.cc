// Prints what DescribeBase makes of a config.json, as JSON: how a check in Python compares it with transformers.
//
//   describe_base CONFIG_JSON

#include <cstdio>
#include <string>

#include "adapters/base.h"
#include "common/file.h"
#include "nlohmann/json.hpp"

namespace weft {
namespace {

using Json = nlohmann::json;

constexpr const char* kReads[] = {"first", "last", "mean", "each"};
constexpr const char* kActivations[] = {"none", "relu", "tanh", "gelu", "gelu_tanh", "silu"};
constexpr const char* kScalings[] = {"none", "linear", "llama3", "yarn"};

template <typename Enum, size_t kCount>
const char* NameOf(const char* const (&names)[kCount], Enum value) {
  return names[static_cast<size_t>(value)];
}

// Where a checkpoint has it.
const std::string& Place(const std::string& name, const std::string& stored) { return stored.empty() ? name : stored; }

Json ToJson(const TaskDescription& task) {
  Json head = Json::array();
  for (const HeadModule& module : task.head) {
    head.push_back({{"name", module.name},
                    {"out_features", module.out_features},
                    {"in_features", module.in_features},
                    {"bias", module.bias},
                    {"activation", NameOf(kActivations, module.activation)}});
  }
  return {{"read", NameOf(kReads, task.read)},
          {"pooler", task.pooler},
          {"head", head},
          {"peft_task_type", task.peft_task_type},
          {"prefixed", task.prefixed}};
}

Json ToJson(const RotaryPositions& rotary) {
  return {{"theta", rotary.theta},
          {"rotated", rotary.rotated},
          {"scaling", NameOf(kScalings, rotary.scaling)},
          {"factor", rotary.factor},
          {"low_frequency_factor", rotary.low_frequency_factor},
          {"high_frequency_factor", rotary.high_frequency_factor},
          {"beta_fast", rotary.beta_fast},
          {"beta_slow", rotary.beta_slow},
          {"attention_factor", rotary.attention_factor},
          {"original_max_positions", rotary.original_max_positions}};
}

// Tensors that are no linear's and no norm's, by name, with their shapes.
Json Tensors(const Transformer& t) {
  Json tensors = Json::object();
  if (!t.word_embeddings.empty()) tensors[t.word_embeddings + ".weight"] = {t.vocabulary, t.hidden};
  if (!t.token_type_embeddings.empty()) tensors[t.token_type_embeddings + ".weight"] = {t.token_types, t.hidden};
  if (!t.lm_head.empty()) tensors[t.lm_head + ".weight"] = {t.vocabulary, t.hidden};
  if (t.patches.has_value()) {
    const Patches& p = *t.patches;
    tensors[t.position_embeddings] = {1, t.position_embedding_rows, t.hidden};
    tensors[p.class_token] = {1, 1, t.hidden};
    tensors[p.projection + ".weight"] = {t.hidden, p.channels, p.patch_size, p.patch_size};
    tensors[p.projection + ".bias"] = Json::array({t.hidden});
  } else if (!t.position_embeddings.empty()) {
    tensors[t.position_embeddings + ".weight"] = {t.position_embedding_rows, t.hidden};
  }
  return tensors;
}

Json ToJson(const Transformer& t) {
  Json layers = Json::array();
  for (const TransformerLayer& layer : t.layers) {
    layers.push_back({{"query_key_value", layer.query_key_value},
                      {"query", layer.query},
                      {"key", layer.key},
                      {"value", layer.value},
                      {"attention_output", layer.attention_output},
                      {"gate", layer.gate},
                      {"up", layer.up},
                      {"down", layer.down},
                      {"attention_norm", layer.attention_norm},
                      {"feed_forward_norm", layer.feed_forward_norm},
                      {"query_norm", layer.query_norm},
                      {"key_norm", layer.key_norm}});
  }
  return {{"hidden", t.hidden},
          {"heads", t.heads},
          {"key_heads", t.key_heads},
          {"head_dim", t.head_dim},
          {"intermediate", t.intermediate},
          {"vocabulary", t.vocabulary},
          {"max_positions", t.max_positions},
          {"norm_first", t.norm_first},
          {"rms_norm", t.rms_norm},
          {"norm_epsilon", t.norm_epsilon},
          {"causal", t.causal},
          {"sliding_window", t.sliding_window},
          {"activation", NameOf(kActivations, t.activation)},
          {"rotary", t.rotary.has_value() ? ToJson(*t.rotary) : Json()},
          {"first_position", t.first_position},
          {"embedding_norm", t.embedding_norm},
          {"final_norm", t.final_norm},
          {"lm_head", t.lm_head},
          {"layers", layers},
          {"ignored", t.ignored},
          {"tensors", Tensors(t)}};
}

Json ToJson(const BaseDescription& base) {
  Json linears = Json::array(), norms = Json::array(), tasks = Json::object();
  for (const LinearModule& linear : base.linears) {
    linears.push_back({{"name", linear.name},
                       {"place", Place(linear.name, linear.stored)},
                       {"out_features", linear.out_features},
                       {"in_features", linear.in_features},
                       {"bias", linear.bias},
                       {"stored_transposed", linear.stored_transposed}});
  }
  for (const NormModule& norm : base.norms) {
    norms.push_back(
        {{"name", norm.name}, {"place", Place(norm.name, norm.stored)}, {"width", norm.width}, {"bias", norm.bias}});
  }
  for (const auto& [name, task] : base.tasks) tasks[name] = ToJson(task);
  return {{"model_type", base.model_type},
          {"hidden_size", base.hidden_size},
          {"prefix", base.prefix},
          {"linears", linears},
          {"norms", norms},
          {"tasks", tasks},
          {"initializer_range", base.initializer_range},
          {"transformer", base.transformer.has_value() ? ToJson(*base.transformer) : Json()}};
}

int Main(const char* path) {
  const absl::StatusOr<std::string> config = ReadFile(path);
  const absl::StatusOr<BaseDescription> base = config.ok() ? DescribeBase(*config) : config.status();
  if (!base.ok()) {
    std::fprintf(stderr, "describe_base: %s\n", std::string(base.status().message()).c_str());
    return 1;
  }
  std::printf("%s\n", ToJson(*base).dump(1).c_str());
  return 0;
}

}  // namespace
}  // namespace weft

int main(int argc, char** argv) {
  if (argc == 2) return weft::Main(argv[1]);
  std::fprintf(stderr, "describe_base: expected the path of a config.json\n");
  return 2;
}
