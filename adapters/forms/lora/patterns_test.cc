#include "adapters/forms/lora/patterns.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace weft {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::json;

ModulePatterns Make(const std::map<std::string, double>& values) {
  auto patterns = ModulePatterns::Create("rank_pattern", values);
  EXPECT_TRUE(patterns.ok()) << patterns.status();
  return *std::move(patterns);
}

// What get_pattern_key of peft 0.21.2 gives: re.match(rf"(.*\.)?({key})$", name).
TEST(ModulePatternsTest, Find_AsPeft) {
  struct Case {
    const char* pattern;
    const char* module;
    bool matches;
  };
  const Case cases[] = {{"query", "a.query", true},
                        {"query", "query", true},
                        {"query", "a.query_key", false},
                        {"query", "a.b_query", false},
                        {"self.query", "a.self.query", true},
                        {"self.query", "a.selfxquery", true},
                        {"layer.[0-3].*query", "l.layer.2.self.query", true},
                        {"layer.[0-3].*query", "l.layer.4.self.query", false},
                        {"query|value", "a.value", true},
                        {"^query", "a.query", false},
                        {"^a.query", "a.query", true},
                        {"query$", "a.query", true},
                        {".*", "anything", true},
                        {"", "a.", true},
                        {"", "a", false}};
  for (const Case& c : cases) {
    EXPECT_EQ(Make({{c.pattern, 3}}).Find(c.module).has_value(), c.matches) << c.pattern << " " << c.module;
  }
  EXPECT_EQ(Make({{"query", 3}}).Find("a.query"), 3);
}

TEST(ModulePatternsTest, Create_RefusesWhatIsNoRegularExpression) {
  for (const char* pattern : {"(", "a(?=b)", "(a)\\1", "[z-a]"}) {
    const absl::Status status = ModulePatterns::Create("rank_pattern", {{pattern, 1}}).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << pattern;
    EXPECT_THAT(std::string(status.message()), HasSubstr("adapter.config.rank_pattern: \""));
    EXPECT_THAT(std::string(status.message()), HasSubstr("is no regular expression"));
  }
}

TEST(ModulePatternsTest, Check_RefusesTwoValuesForOneModule) {
  EXPECT_TRUE(Make({{"query", 3}, {"self.query", 3}}).Check({"self.query"}).ok()) << "which say the same";
  const absl::Status status = Make({{"query", 3}, {"self.query", 4}}).Check({"a.query", "self.query"});
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("module self.query is matched by \"query\" (3) and \"self.query\" (4)"));
}

TEST(ModulePatternsTest, Check_RefusesAPatternThatMatchesNothing) {
  const absl::Status status = Make({{"querry", 3}}).Check({"a.query", "a.value"});
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("\"querry\" matches none of the 2 target modules (a.query, ...)"));
}

TEST(ModulePatternsTest, ForPeft_NamesModulesWherePatternsSayOtherwise) {
  const ModulePatterns patterns = Make({{"b\\.query", 3}, {"value", 2.5}});
  EXPECT_EQ(patterns.ForPeft({"b.query", "b.value"}, {"b.query", "b.value"}), Json({{"b\\.query", 3}, {"value", 2.5}}));
  EXPECT_EQ(patterns.ForPeft({"b.query", "b.value"}, {"query", "value"}), Json({{"query", 3}, {"value", 2.5}}));
  EXPECT_EQ(Make({}).ForPeft({"b.query"}, {"query"}), Json::object());
}

TEST(ModulePatternsTest, QuotedPattern_MatchesTheTextAlone) {
  const ModulePatterns patterns = Make({{QuotedPattern("a.query"), 1}});
  EXPECT_TRUE(patterns.Find("a.query").has_value());
  EXPECT_FALSE(patterns.Find("axquery").has_value());
}

}  // namespace
}  // namespace weft
