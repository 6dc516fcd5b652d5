#include "proto/schema.h"

#include <gmock/gmock.h>
#include <google/protobuf/util/json_util.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "proto/daemon.pb.h"
#include "proto/job.pb.h"
#include "proto/schema_test_message.pb.h"

namespace weft::proto {
namespace {

using google::protobuf::Struct;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::StartsWith;

void ExpectRefused(const absl::Status& status, const std::string& start, const std::string& part = "") {
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  EXPECT_THAT(std::string(status.message()), AllOf(StartsWith(start), HasSubstr(part)));
}

Struct FromJson(const std::string& json) {
  Struct result;
  EXPECT_TRUE(google::protobuf::util::JsonStringToMessage(json, &result).ok()) << json;
  return result;
}

SchemaTestMessage Good() {
  SchemaTestMessage message;
  ApplyDefaults(&message);
  return message;
}

absl::Status Set(SchemaTestMessage* message, const std::string& name, const std::string& text) {
  const google::protobuf::FieldDescriptor* field = nullptr;
  const absl::Status status = FindField(*message, name, "", &field);
  return status.ok() ? SetFromText(message, field, text) : status;
}

JobConfig GoodJob() {
  JobConfig job;
  job.set_name("demo");
  job.mutable_base()->set_path("/base");
  ApplyDefaults(&job);
  return job;
}

TEST(SchemaTest, ApplyDefaults_FillsAJob) {
  const JobConfig job = GoodJob();
  EXPECT_EQ(job.adapter().form(), "lora");
  EXPECT_TRUE(job.adapter().head());
  EXPECT_EQ(job.aggregator().name(), "fedavg");
  EXPECT_EQ(job.training().batch_size(), 32);
  EXPECT_EQ(job.training().learning_rate(), 1e-3);
  EXPECT_EQ(job.round().progress_timeout().seconds(), 60);
  EXPECT_EQ(job.seed(), 42u);
  EXPECT_TRUE(Validate(job).ok()) << Validate(job);
}

TEST(SchemaTest, ApplyDefaults_LeavesAbsentWhatHasNone) {
  const JobConfig job = GoodJob();
  EXPECT_FALSE(job.adapter().has_config());
  EXPECT_FALSE(job.stop().has_time());
  EXPECT_FALSE(job.stop().has_patience());
  EXPECT_FALSE(job.selection().has_clients());
}

TEST(SchemaTest, ApplyDefaults_KeepsWhatIsGiven) {
  JobConfig job;
  job.mutable_training()->set_batch_size(0);  // present, though zero
  job.mutable_adapter()->set_head(false);
  job.mutable_adapter()->set_form("ssf");
  job.mutable_round()->mutable_progress_timeout();
  ApplyDefaults(&job);
  EXPECT_EQ(job.training().batch_size(), 0);
  EXPECT_FALSE(job.adapter().head());
  EXPECT_EQ(job.adapter().form(), "ssf");
  EXPECT_EQ(job.round().progress_timeout().seconds(), 0);
}

TEST(SchemaTest, ApplyDefaults_ReadsFractionsOfSeconds) {
  ClientConfig client;
  ApplyDefaults(&client);
  EXPECT_EQ(client.reconnect_min().seconds(), 0);
  EXPECT_EQ(client.reconnect_min().nanos(), 200'000'000);
  EXPECT_EQ(client.reconnect_max().seconds(), 10);
}

TEST(SchemaTest, ApplyDefaults_ReachesRepeatedFieldsAndOneofs) {
  SchemaTestMessage message;
  message.add_parts();
  message.mutable_right();
  ApplyDefaults(&message);
  EXPECT_THAT(message.steps(), ElementsAre(0.5));
  EXPECT_EQ(message.parts(0).size(), 3);
  EXPECT_EQ(message.right().size(), 3);
  EXPECT_FALSE(message.has_left());
  EXPECT_EQ(message.section().size(), 3);
}

TEST(SchemaTest, ApplyDefaults_TwiceIsOnce) {
  SchemaTestMessage once = Good();
  SchemaTestMessage twice = Good();
  ApplyDefaults(&twice);
  EXPECT_EQ(once.SerializeAsString(), twice.SerializeAsString());
}

// Every default must be readable and in range, or it would silently not apply.
TEST(SchemaTest, ApplyDefaults_OwnConfigsAreValid) {
  CoordinatorConfig coordinator;
  coordinator.set_state_dir("/state");
  ApplyDefaults(&coordinator);
  EXPECT_TRUE(Validate(coordinator).ok()) << Validate(coordinator);
  ClientConfig client;
  client.set_coordinator("127.0.0.1:1");
  client.set_client_id("a");
  client.set_base("/base");
  client.set_data("/data");
  ApplyDefaults(&client);
  EXPECT_TRUE(Validate(client).ok()) << Validate(client);
}

TEST(SchemaTest, Validate_BelowAndAboveTheBounds) {
  JobConfig job = GoodJob();
  job.mutable_training()->set_batch_size(0);
  ExpectRefused(Validate(job), "training.batch_size: found 0, expected ", "at least 1 and at most 65536");
  job.mutable_training()->set_batch_size(65537);
  ExpectRefused(Validate(job), "training.batch_size: found 65537");
  for (const int64_t inside : {1, 65536}) {
    job.mutable_training()->set_batch_size(inside);
    EXPECT_TRUE(Validate(job).ok());
  }
}

TEST(SchemaTest, Validate_PutsThePrefixBefore) {
  TrainingConfig training;
  training.set_batch_size(0);
  ExpectRefused(Validate(training, "training"), "training.batch_size: found 0");
}

TEST(SchemaTest, Validate_ExclusiveLowerBound) {
  SchemaTestMessage message = Good();
  message.set_double_value(0);
  ExpectRefused(Validate(message), "double_value: found 0, expected a value above 0 and at most 1e-3");
  message.set_double_value(1e-300);
  EXPECT_TRUE(Validate(message).ok());
}

TEST(SchemaTest, Validate_NegativeBounds) {
  SchemaTestMessage message = Good();
  message.set_int32_value(-5);
  EXPECT_TRUE(Validate(message).ok());
  message.set_int32_value(-6);
  ExpectRefused(Validate(message), "int32_value: found -6");
}

TEST(SchemaTest, Validate_RefusesWhatIsNotFinite) {
  for (const double value : {std::nan(""), HUGE_VAL, -HUGE_VAL}) {
    JobConfig job = GoodJob();
    job.mutable_training()->set_learning_rate(value);
    ExpectRefused(Validate(job), "training.learning_rate: found ", "expected a finite number");
    SchemaTestMessage message = Good();
    message.set_float_value(static_cast<float>(value));  // without bounds
    ExpectRefused(Validate(message), "float_value: found ", "expected a finite number");
  }
}

TEST(SchemaTest, Validate_BoundsOfDurationsAreSeconds) {
  SchemaTestMessage message = Good();
  message.mutable_wait()->set_nanos(499'999'999);
  ExpectRefused(Validate(message), "wait: found ", "at least 0.5 and at most 60 seconds");
  message.mutable_wait()->set_nanos(500'000'000);
  EXPECT_TRUE(Validate(message).ok());
  message.mutable_wait()->set_seconds(60);
  ExpectRefused(Validate(message), "wait: found 60.5s");
}

TEST(SchemaTest, Validate_RefusesDurationsThatAreNone) {
  const std::pair<int64_t, int32_t> cases[] = {
      {0, 1'000'000'000}, {1, -1}, {-1, 1}, {std::numeric_limits<int64_t>::max(), 0}};
  for (const auto& [seconds, nanos] : cases) {
    SchemaTestMessage message = Good();
    message.mutable_pause()->set_seconds(seconds);
    message.mutable_pause()->set_nanos(nanos);
    ExpectRefused(Validate(message), "pause: found ", "expected a duration");
  }
}

TEST(SchemaTest, Validate_RepeatedFieldsValueByValue) {
  SchemaTestMessage message = Good();
  message.add_sizes(9);
  message.add_words("a");
  message.add_parts()->set_size(1);
  message.add_waits()->set_seconds(10);
  EXPECT_TRUE(Validate(message).ok());
  SchemaTestMessage bad = message;
  bad.add_sizes(10);
  ExpectRefused(Validate(bad), "sizes[1]: found 10");
  bad = message;
  bad.add_words("c");
  ExpectRefused(Validate(bad), "words[1]: found \"c\", expected one of a, b");
  bad = message;
  bad.add_parts()->set_size(0);
  ExpectRefused(Validate(bad), "parts[1].size: found 0");
  bad = message;
  bad.add_waits()->set_seconds(11);
  ExpectRefused(Validate(bad), "waits[1]: found 11s");
}

TEST(SchemaTest, Validate_UnknownWordListsTheAllowedOnes) {
  SchemaTestMessage message = Good();
  message.set_word("peer");
  ExpectRefused(Validate(message), "word: found \"peer\", expected one of apple, pear; did you mean \"pear\"?");
  message.set_word("");  // absent
  EXPECT_TRUE(Validate(message).ok());
}

TEST(SchemaTest, Validate_RequiredFields) {
  SchemaTestRequired message;
  ApplyDefaults(&message);
  ExpectRefused(Validate(message), "modules: found nothing, expected at least one value");
  message.add_modules("query");
  ExpectRefused(Validate(message), "name: found nothing, expected a value");
  message.set_name("x");
  ExpectRefused(Validate(message), "section: found nothing, expected a value");
  message.mutable_section()->set_path("/p");
  EXPECT_TRUE(Validate(message).ok()) << Validate(message);
}

TEST(SchemaTest, Validate_LeavesStructsAlone) {
  SchemaTestMessage message = Good();
  (*message.mutable_free()->mutable_fields())["anything"].set_number_value(std::nan(""));
  EXPECT_TRUE(Validate(message).ok());
}

TEST(SchemaTest, SetFromText_EveryKind) {
  SchemaTestMessage m;
  const std::pair<const char*, const char*> texts[] = {{"int32_value", "-4"},
                                                       {"uint32_value", "4294967295"},
                                                       {"int64_value", "-9223372036854775808"},
                                                       {"bool_value", "true"},
                                                       {"uint64_value", "18446744073709551615"},
                                                       {"float_value", "0.25"},
                                                       {"double_value", "1e-4"},
                                                       {"color", "green"},
                                                       {"word", "8"},
                                                       {"wait", "1m500ms"}};
  for (const auto& [name, text] : texts) EXPECT_TRUE(Set(&m, name, text).ok()) << name;
  EXPECT_EQ(m.int32_value(), -4);
  EXPECT_EQ(m.uint32_value(), 4294967295u);
  EXPECT_EQ(m.int64_value(), std::numeric_limits<int64_t>::min());
  EXPECT_EQ(m.uint64_value(), std::numeric_limits<uint64_t>::max());
  EXPECT_TRUE(m.bool_value());
  EXPECT_EQ(m.float_value(), 0.25f);
  EXPECT_EQ(m.double_value(), 1e-4);
  EXPECT_EQ(m.color(), SchemaTestMessage::GREEN);
  EXPECT_EQ(m.word(), "8");
  EXPECT_EQ(m.wait().seconds(), 60);
  EXPECT_EQ(m.wait().nanos(), 500'000'000);
}

TEST(SchemaTest, SetFromText_AppendsToRepeatedFields) {
  SchemaTestMessage m;
  for (const char* text : {"1", "2"}) ASSERT_TRUE(Set(&m, "sizes", text).ok());
  for (const char* text : {"b", "a"}) ASSERT_TRUE(Set(&m, "words", text).ok());
  for (const char* text : {"1s", "1h"}) ASSERT_TRUE(Set(&m, "waits", text).ok());
  EXPECT_THAT(m.sizes(), ElementsAre(1, 2));
  EXPECT_THAT(m.words(), ElementsAre("b", "a"));
  ASSERT_EQ(m.waits_size(), 2);
  EXPECT_EQ(m.waits(1).seconds(), 3600);
}

TEST(SchemaTest, SetFromText_WrongKindIsRefusedAndChangesNothing) {
  const struct {
    const char *name, *text, *kind;
  } cases[] = {
      {"int32_value", "2.5", "a whole number"},
      {"int32_value", "2147483648", "a whole number"},
      {"int64_value", "", "a whole number"},
      {"int64_value", "1e3", "a whole number"},
      {"uint32_value", "-1", "a whole number of 0 or more"},
      {"uint64_value", "18446744073709551616", "a whole number of 0 or more"},
      {"double_value", "abc", "a finite number"},
      {"double_value", "nan", "a finite number"},
      {"double_value", "-inf", "a finite number"},
      {"double_value", "1e999", "a finite number"},
      {"float_value", "1e39", "a finite number"},
      {"bool_value", "yes", "true or false"},
      {"bool_value", "1", "true or false"},
      {"color", "blue", "a word"},
      {"wait", "30", "a duration such as 30s"},
      {"wait", "inf", "a duration such as 30s"},
      {"wait", "100000000h", "a duration such as 30s"},
      {"section", "x", "a mapping"},
      {"free", "x", "a mapping"},
  };
  for (const auto& c : cases) {
    SchemaTestMessage m;
    const absl::Status status = Set(&m, c.name, c.text);
    ExpectRefused(status, std::string("\"") + c.text + "\" is not " + c.kind);
    EXPECT_EQ(m.ByteSizeLong(), 0u) << c.name;
  }
}

TEST(SchemaTest, FindField_Known) {
  const google::protobuf::FieldDescriptor* field = nullptr;
  ASSERT_TRUE(FindField(TrainingConfig(), "batch_size", "training", &field).ok());
  EXPECT_EQ(field->name(), "batch_size");
}

TEST(SchemaTest, FindField_UnknownNamesTheNearest) {
  const google::protobuf::FieldDescriptor* field = nullptr;
  ExpectRefused(FindField(TrainingConfig(), "batchsize", "training", &field),
                "training.batchsize: found an unknown key, expected one of steps, epochs, batch_size",
                "did you mean \"batch_size\"?");
  ExpectRefused(FindField(ClientConfig(), "thread", "", &field), "thread: found", "did you mean \"threads\"?");
}

TEST(SchemaTest, FromStruct_EveryKind) {
  SchemaTestMessage m;
  const absl::Status status =
      FromStruct(FromJson(R"({"int32_value": 5, "uint32_value": 8, "uint64_value": 9007199254740992, "float_value": 0.5,
                   "double_value": 1e-4, "bool_value": false, "color": "green", "word": "pear", "wait": "2s",
                   "sizes": [1, 2], "parts": [{"name": "x"}, {"size": 4}], "left": {"size": 2},
                   "free": {"any": [null, 1]}, "waits": ["1s"]})"),
                 "form.config", &m);
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(m.int32_value(), 5);
  EXPECT_EQ(m.uint32_value(), 8u);
  EXPECT_EQ(m.uint64_value(), 9007199254740992u);
  EXPECT_EQ(m.double_value(), 1e-4);
  EXPECT_TRUE(m.has_bool_value());
  EXPECT_EQ(m.color(), SchemaTestMessage::GREEN);
  EXPECT_EQ(m.wait().seconds(), 2);
  EXPECT_THAT(m.sizes(), ElementsAre(1, 2));
  EXPECT_EQ(m.parts(0).size(), 3);  // the default
  EXPECT_EQ(m.parts(1).size(), 4);
  EXPECT_EQ(m.left().size(), 2);
  EXPECT_EQ(m.free().fields().at("any").list_value().values_size(), 2);
  EXPECT_EQ(m.int64_value(), -7);  // the default
}

TEST(SchemaTest, FromStruct_ReplacesWhatWasThere) {
  SchemaTestMessage m;
  m.add_sizes(5);
  m.set_word("apple");
  ASSERT_TRUE(FromStruct(FromJson(R"({"sizes": [6]})"), "c", &m).ok());
  EXPECT_THAT(m.sizes(), ElementsAre(6));
  EXPECT_EQ(m.word(), "");
}

TEST(SchemaTest, FromStruct_DoublesKeepTheirBits) {
  Struct from;
  (*from.mutable_fields())["double_value"].set_number_value(1e-3 / 3);
  SchemaTestMessage m;
  ASSERT_TRUE(FromStruct(from, "c", &m).ok());
  EXPECT_EQ(m.double_value(), 1e-3 / 3);
}

TEST(SchemaTest, FromStruct_RefusesWrongKinds) {
  const std::pair<const char*, const char*> cases[] = {
      {R"({"int32_value": 2.5})", "c.int32_value: found 2.5, expected a whole number"},
      {R"({"int32_value": 3e9})", "c.int32_value: found 3e+09, expected a whole number"},
      {R"({"int64_value": 1e300})", "c.int64_value: found 1e+300, expected a whole number"},
      {R"({"uint32_value": -1})", "c.uint32_value: found -1, expected a whole number of 0 or more"},
      {R"({"int32_value": "3"})", "c.int32_value: found the text \"3\", expected a whole number"},
      {R"({"double_value": true})", "c.double_value: found true, expected a finite number"},
      {R"({"bool_value": 1})", "c.bool_value: found 1, expected true or false"},
      {R"({"word": 8})", "c.word: found 8, expected text"},
      {R"({"wait": 30})", "c.wait: found 30, expected a duration"},
      {R"({"color": "blue"})", "c.color: found the text \"blue\", expected a word"},
      {R"({"word": null})", "c.word: found nothing, expected text"},
      {R"({"sizes": 3})", "c.sizes: found 3, expected a list"},
      {R"({"sizes": [1, "x"]})", "c.sizes[1]: found the text \"x\", expected a whole number"},
      {R"({"section": [1]})", "c.section: found a list, expected a mapping"},
      {R"({"free": 1})", "c.free: found 1, expected a mapping"},
      {R"({"word": {"a": 1}})", "c.word: found a mapping, expected text"},
      {R"({"counts": [1]})", "c.counts: found a list, expected a mapping"},
      {R"({"counts": {"a": 1, "b": "x"}})", "c.counts[\"b\"]: found the text \"x\", expected a whole number"},
  };
  for (const auto& [json, message] : cases) {
    SchemaTestMessage m;
    ExpectRefused(FromStruct(FromJson(json), "c", &m), message);
  }
}

TEST(SchemaTest, FromStruct_MappingsOfNumbers) {
  SchemaTestMessage m;
  ASSERT_TRUE(FromStruct(FromJson(R"({"counts": {"a": 1, "b": 9}, "ratios": {"x.y": 0.5}})"), "c", &m).ok());
  EXPECT_EQ(m.counts_size(), 2);
  EXPECT_EQ(m.counts().at("a"), 1);
  EXPECT_EQ(m.counts().at("b"), 9);
  EXPECT_EQ(m.ratios().at("x.y"), 0.5);
  ExpectRefused(FromStruct(FromJson(R"({"counts": {"a": 1, "b": 10}})"), "c", &m),
                "c.counts[\"b\"]: found 10, expected a value at least 1 and at most 9");
  ExpectRefused(FromStruct(FromJson(R"({"ratios": {"a": 0}})"), "c", &m),
                "c.ratios[\"a\"]: found 0, expected a value above 0");
}

TEST(SchemaTest, FromStruct_RefusesWhatIsNotFinite) {
  Struct from;
  (*from.mutable_fields())["double_value"].set_number_value(std::nan(""));
  SchemaTestMessage m;
  ExpectRefused(FromStruct(from, "c", &m), "c.double_value: found nan, expected a finite number");
}

TEST(SchemaTest, FromStruct_UnknownKeyAndRangeAndRequired) {
  SchemaTestMessage m;
  ExpectRefused(FromStruct(FromJson(R"({"section": {"sise": 1}})"), "c", &m), "c.section.sise: found an unknown key",
                "did you mean \"size\"?");
  ExpectRefused(FromStruct(FromJson(R"({"parts": [{"size": 0}]})"), "c", &m), "c.parts[0].size: found 0");
  SchemaTestRequired required;
  ExpectRefused(FromStruct(FromJson(R"({"name": "x"})"), "c", &required), "c.modules: found nothing");
}

}  // namespace
}  // namespace weft::proto
