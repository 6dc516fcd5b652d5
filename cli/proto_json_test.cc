#include "cli/proto_json.h"

#include <gtest/gtest.h>

#include "proto/adapter.pb.h"
#include "proto/service.pb.h"
#include "proto/status.pb.h"

namespace weft::cli {
namespace {

TEST(ProtoJsonTest, ToJson_ScalarsAreNumbersAndWords) {
  proto::JobStatus job;
  job.set_job_id("j");
  job.set_state(proto::RUNNING);
  job.set_bytes_up(uint64_t{1} << 60);
  job.set_seconds_left(-1.5);
  const auto json = ToJson(job);
  EXPECT_EQ(json["job_id"], "j");
  EXPECT_EQ(json["state"], "running");
  EXPECT_EQ(json["bytes_up"], uint64_t{1} << 60);
  EXPECT_EQ(json["seconds_left"], -1.5);
  EXPECT_EQ(json["round"], 0);
  EXPECT_EQ(json["rounds"], nlohmann::ordered_json::array());
}

TEST(ProtoJsonTest, ToJson_AbsentIsNull) {
  proto::JobStatus job;
  job.add_rounds()->set_round(1);
  const auto json = ToJson(job);
  EXPECT_TRUE(json["rounds"][0]["accuracy"].is_null());
  EXPECT_TRUE(json["config"].is_null());
  job.mutable_rounds(0)->set_accuracy(0.5);
  EXPECT_EQ(ToJson(job)["rounds"][0]["accuracy"], 0.5);
}

TEST(ProtoJsonTest, ToJson_DurationStructAndBytes) {
  proto::JobConfig config;
  config.mutable_round()->mutable_progress_timeout()->set_seconds(2);
  config.mutable_round()->mutable_progress_timeout()->set_nanos(500'000'000);
  (*config.mutable_adapter()->mutable_config()->mutable_fields())["rank"].set_number_value(8);
  config.mutable_task()->add_labels("a");
  const auto json = ToJson(config);
  EXPECT_EQ(json["round"]["progress_timeout"], 2.5);
  EXPECT_EQ(json["adapter"]["config"]["rank"], 8);
  EXPECT_EQ(json["task"]["labels"][0], "a");
  proto::TensorHeader header;
  header.set_sha256("\x01\xff");
  EXPECT_EQ(ToJson(header)["sha256"], "01ff");
}

TEST(ProtoJsonTest, ToJson_KeepsTheOrderOfTheSchema) {
  const auto json = ToJson(proto::StatusRequest());
  EXPECT_EQ(ToJson(proto::RoundStatus()).begin().key(), "round");
  EXPECT_EQ(json.dump(), R"({"job_id":""})");
}

}  // namespace
}  // namespace weft::cli
