#include "adapters/families/fields.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace weft {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::json;

void ExpectRefused(const absl::Status& status, const std::string& why) {
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << why;
  EXPECT_THAT(std::string(status.message()), HasSubstr(why));
}

TEST(FieldsTest, ReadSize_Range) {
  EXPECT_EQ(*ReadSize({{"a", 1}}, "a"), 1);
  EXPECT_EQ(*ReadSize({{"a", kLargestSize}}, "a"), kLargestSize);
  ExpectRefused(ReadSize({{"a", 8}}, "a", 7).status(), "\"a\" must be an integer from 1 to 7, found 8");
  ExpectRefused(ReadSize({{"b", 8}}, "a").status(), "found nothing");
  ExpectRefused(ReadSize({{"a", ~0ull}}, "a").status(), "found 18446744073709551615");
}

TEST(FieldsTest, ReadSizeOr_NullIsAbsent) {
  EXPECT_EQ(*ReadSizeOr(Json::object(), "a", 3), 3);
  EXPECT_EQ(*ReadSizeOr({{"a", nullptr}}, "a", 3), 3);
  EXPECT_EQ(*ReadSizeOr({{"a", 4}}, "a", 3), 4);
  ExpectRefused(ReadSizeOr({{"a", 0}}, "a", 3).status(), "found 0");
}

TEST(FieldsTest, ReadNumber_Range) {
  EXPECT_EQ(*ReadNumber(Json::object(), "a", 0.5), 0.5);
  EXPECT_EQ(*ReadNumber({{"a", 0}}, "a", 0.5), 0);
  for (const Json& bad : {Json(-0.5), Json(9), Json("1"), Json()}) {
    ExpectRefused(ReadNumber({{"a", bad}}, "a", 0.5, 8).status(),
                  "\"a\" must be a number from 0 to 8, found " + bad.dump());
  }
}

TEST(FieldsTest, ReadPositive_NoneIsRefused) {
  EXPECT_EQ(*ReadPositive({{"a", 2.5}}, "a"), 2.5);
  for (const Json& bad : {Json(0), Json(-1), Json(9), Json("1"), Json()}) {
    ExpectRefused(ReadPositive({{"a", bad}}, "a", 8).status(),
                  "\"a\" must be a number above 0, up to 8, found " + bad.dump());
  }
  ExpectRefused(ReadPositive(Json::object(), "a").status(), "found nothing");
}

TEST(FieldsTest, ReadFlag_TrueOrFalse) {
  EXPECT_TRUE(*ReadFlag(Json::object(), "a", true));
  EXPECT_TRUE(*ReadFlag({{"a", nullptr}}, "a", true));
  EXPECT_FALSE(*ReadFlag({{"a", false}}, "a", true));
  ExpectRefused(ReadFlag({{"a", 0}}, "a", true).status(), "\"a\" must be true or false, found 0");
}

TEST(FieldsTest, ReadActivation_NamesOfTransformers) {
  EXPECT_EQ(*ReadActivation(Json::object(), "a", Activation::kSilu), Activation::kSilu);
  const std::pair<const char*, Activation> cases[] = {
      {"gelu", Activation::kGelu},          {"gelu_python", Activation::kGelu},
      {"gelu_new", Activation::kGeluTanh},  {"gelu_pytorch_tanh", Activation::kGeluTanh},
      {"gelu_fast", Activation::kGeluTanh}, {"silu", Activation::kSilu},
      {"swish", Activation::kSilu},         {"relu", Activation::kRelu},
      {"tanh", Activation::kTanh},
  };
  for (const auto& [name, activation] : cases) {
    EXPECT_EQ(*ReadActivation({{"a", name}}, "a", Activation::kNone), activation) << name;
  }
  ExpectRefused(
      ReadActivation({{"a", "quick_gelu"}}, "a", Activation::kGelu).status(),
      "\"a\" must be one of gelu, gelu_python, gelu_new, gelu_fast, gelu_pytorch_tanh, silu, swish, relu, tanh, "
      "found \"quick_gelu\"");
  ExpectRefused(ReadActivation({{"a", 3}}, "a", Activation::kGelu).status(), "found 3");
}

TEST(FieldsTest, RequireValue_AbsentIsWell) {
  EXPECT_TRUE(RequireValue(Json::object(), "a", true).ok());
  EXPECT_TRUE(RequireValue({{"a", true}}, "a", true).ok());
  ExpectRefused(RequireValue({{"a", false}}, "a", true),
                "\"a\" must be true (the network computes nothing else), found false");
}

TEST(FieldsTest, Shown_ReplacesBadText) { EXPECT_THAT(Shown(Json("a\xff")), HasSubstr("a")); }

}  // namespace
}  // namespace weft
