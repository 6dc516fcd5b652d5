#include "adapters/families/mlp/mlp.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace weft {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::json;

Json Config(const Json& sizes = {64, 96, 32, 10}) {
  return {{"model_type", "mlp"}, {"sizes", sizes}, {"activation", "relu"}};
}

void ExpectRefused(const Json& config, const std::string& why) {
  const absl::Status status = DescribeMlp(config).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << why;
  EXPECT_THAT(std::string(status.message()), HasSubstr(why));
}

TEST(MlpTest, Describe_HiddenLayersThenTheHead) {
  const auto base = DescribeMlp(Config());
  ASSERT_TRUE(base.ok()) << base.status();
  EXPECT_EQ(base->model_type, "mlp");
  EXPECT_EQ(base->hidden_size, 32);
  EXPECT_EQ(base->initializer_range, 0.02);
  EXPECT_EQ(base->config, Config());
  ASSERT_EQ(base->linears.size(), 2u);
  EXPECT_EQ(base->linears[0].name, "layers.0");
  EXPECT_EQ(base->linears[0].out_features, 96);
  EXPECT_EQ(base->linears[0].in_features, 64);
  EXPECT_EQ(base->linears[1].name, "layers.1");
  EXPECT_EQ(base->linears[1].out_features, 32);
  EXPECT_EQ(base->linears[1].in_features, 96);
}

TEST(MlpTest, Describe_Tasks) {
  const BaseDescription base = *DescribeMlp(Config());
  ASSERT_EQ(base.tasks.size(), 2u);
  for (const auto& [name, task] : base.tasks) {
    ASSERT_EQ(task.head.size(), 1u) << name;
    EXPECT_EQ(task.head[0].name, "head");
    EXPECT_EQ(task.head[0].out_features, 0);
    EXPECT_EQ(task.head[0].in_features, 32);
    EXPECT_TRUE(task.head[0].bias);
    EXPECT_EQ(task.pooler, -1);
  }
  EXPECT_EQ(base.tasks.at("sequence_classification").peft_task_type, "SEQ_CLS");
  EXPECT_EQ(base.tasks.at("image_classification").peft_task_type, "");
  EXPECT_FALSE(base.transformer.has_value());
}

TEST(MlpTest, Describe_RefusesBadSizes) {
  Json config = Config();
  config.erase("sizes");
  ExpectRefused(config, "\"sizes\" must list 3 to 10000 sizes (features, each hidden layer, labels), found nothing");
  ExpectRefused(Config(7), "found 7");
  ExpectRefused(Config({64, 10}), "found 2");
  ExpectRefused(Config(Json(10'001, 4)), "found 10001");
  for (const Json& bad : {Json(0), Json(-1), Json(1.5), Json("8"), Json(~0ull), Json((1ll << 30) + 1), Json()}) {
    ExpectRefused(Config({64, bad, 10}), "\"sizes\" must be integers from 1 to 1073741824, found " + bad.dump());
  }
}

TEST(MlpTest, Describe_RefusesOtherActivationsAndRanges) {
  Json config = Config();
  config["activation"] = "tanh";
  ExpectRefused(config, "\"activation\" must be \"relu\", found \"tanh\"");
  config.erase("activation");
  ExpectRefused(config, "must be \"relu\", found null");
  config = Config();
  config["initializer_range"] = -1;
  ExpectRefused(config, "initializer_range");
}

}  // namespace
}  // namespace weft
