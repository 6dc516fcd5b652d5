#include "server/testing/small_job.h"

#include "proto/schema.h"

namespace weft::server {
namespace {

constexpr char kConfigJson[] = R"json({
  "architectures": ["BertModel"], "model_type": "bert", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
  "intermediate_size": 16, "hidden_act": "gelu", "max_position_embeddings": 32, "type_vocab_size": 2, "vocab_size": 64,
  "initializer_range": 0.02, "layer_norm_eps": 1e-12, "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1,
  "pad_token_id": 0, "position_embedding_type": "absolute"
})json";

}  // namespace

proto::JobConfig SmallJob(int64_t rounds) {
  proto::JobConfig config;
  config.set_name("small");
  config.mutable_base()->set_hash(std::string(64, 'b'));
  config.mutable_base()->set_config_json(kConfigJson);
  config.mutable_task()->add_labels("no");
  config.mutable_task()->add_labels("yes");
  auto& form = *config.mutable_adapter()->mutable_config()->mutable_fields();
  form["rank"].set_number_value(2);
  form["alpha"].set_number_value(4);
  for (const char* module : {"query", "value"}) {
    form["target_modules"].mutable_list_value()->add_values()->set_string_value(module);
  }
  config.mutable_training()->set_max_length(32);
  config.mutable_selection()->set_min_ready(2);
  config.mutable_stop()->set_rounds(rounds);
  proto::ApplyDefaults(&config);
  return config;
}

proto::CoordinatorConfig SmallCoordinator(const std::string& state_dir) {
  proto::CoordinatorConfig config;
  config.set_state_dir(state_dir);
  proto::ApplyDefaults(&config);
  return config;
}

}  // namespace weft::server
