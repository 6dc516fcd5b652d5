#include "aggregators/core/registry.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <utility>

namespace weft::aggregators {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class NamedRule : public Rule {
 public:
  explicit NamedRule(std::string name) : name_(std::move(name)) {}
  std::string_view name() const override { return name_; }
  Facts facts() const override { return {}; }
  absl::Status CheckJob(const proto::JobConfig&, const Layout&) const override { return absl::OkStatus(); }
  int64_t MemoryBytes(const proto::JobConfig&, const Layout&, int64_t) const override { return 0; }
  absl::StatusOr<std::unique_ptr<Aggregator>> Create(const proto::JobConfig&, const CreateOptions&) const override {
    return absl::UnimplementedError("only a name");
  }

 private:
  std::string name_;
};

TEST(RegistryTest, Find_GivesTheRuleOfTheName) {
  Registry registry;
  ASSERT_TRUE(registry.Register(std::make_unique<NamedRule>("b")).ok());
  ASSERT_TRUE(registry.Register(std::make_unique<NamedRule>("a")).ok());
  EXPECT_THAT(registry.Names(), ElementsAre("a", "b"));
  const auto found = registry.Find("b");
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_EQ((*found)->name(), "b");
}

TEST(RegistryTest, Find_UnknownNameListsTheKnown) {
  Registry registry;
  EXPECT_THAT(registry.Find("x").status().message(), HasSubstr("none is linked in"));
  ASSERT_TRUE(registry.Register(std::make_unique<NamedRule>("a")).ok());
  ASSERT_TRUE(registry.Register(std::make_unique<NamedRule>("b")).ok());
  const absl::Status status = registry.Find("x").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(status.message(), "aggregator.name: found \"x\", expected one of: a, b");
}

TEST(RegistryTest, Register_SecondRuleOfOneNameIsRefused) {
  Registry registry;
  ASSERT_TRUE(registry.Register(std::make_unique<NamedRule>("a")).ok());
  const Rule* const first = *registry.Find("a");
  EXPECT_EQ(registry.Register(std::make_unique<NamedRule>("a")).code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(*registry.Find("a"), first);
}

TEST(RegistryTest, Global_IsOne) { EXPECT_EQ(&Registry::Global(), &Registry::Global()); }

}  // namespace
}  // namespace weft::aggregators
