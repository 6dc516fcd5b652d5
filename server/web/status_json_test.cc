#include "server/web/status_json.h"

#include <gtest/gtest.h>

#include <string>

namespace weft::server {
namespace {

bool Has(const std::string& json, const std::string& part) { return json.find(part) != std::string::npos; }

TEST(StatusJsonTest, StatusJson_UsesProtoNamesAndPrintsZeros) {
  proto::CoordinatorStatus status;
  status.add_jobs()->set_state(proto::RUNNING);
  const std::string json = StatusJson(status);
  EXPECT_TRUE(Has(json, "\"job_id\":\"\"")) << json;
  EXPECT_TRUE(Has(json, "\"rounds_total\":\"0\"")) << json;
  EXPECT_TRUE(Has(json, "\"state\":\"RUNNING\"")) << json;
  EXPECT_TRUE(Has(json, "\"insecure\":false")) << json;
  EXPECT_TRUE(Has(json, "\"clients\":[]")) << json;
}

TEST(StatusJsonTest, StatusJson_LeavesOutFiguresThatAreNotThere) {
  proto::CoordinatorStatus status;
  proto::JobStatus* job = status.add_jobs();
  job->add_rounds()->set_round(1);
  for (const char* figure : {"\"accuracy\"", "\"f1\"", "\"perplexity\""}) {
    EXPECT_FALSE(Has(StatusJson(status), figure)) << figure;
  }
  job->mutable_rounds(0)->set_accuracy(0);
  job->mutable_rounds(0)->set_f1(0);
  EXPECT_TRUE(Has(StatusJson(status), "\"accuracy\":0"));
  EXPECT_TRUE(Has(StatusJson(status), "\"f1\":0"));
}

TEST(StatusJsonTest, StatusJson_IsOneLineWhateverTheTextsHold) {
  proto::CoordinatorStatus status;
  status.add_clients()->set_client_id("a\n\ndata: {}\"</script>");
  const std::string json = StatusJson(status);
  EXPECT_EQ(json.find('\n'), std::string::npos) << json;
  EXPECT_FALSE(Has(json, "</script>")) << json;
}

}  // namespace
}  // namespace weft::server
