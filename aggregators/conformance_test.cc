// Runs the laws over whatever is linked into //aggregators:all, so that no rule can be added without them.
#include "aggregators/core/conformance.h"

#include <gmock/gmock.h>
#include <google/protobuf/util/json_util.h>
#include <gtest/gtest.h>

#include <map>
#include <set>

#include "absl/strings/str_cat.h"
#include "adapters/base.h"
#include "adapters/forms/form.h"
#include "aggregators/core/registry.h"
#include "aggregators/core/seeded_noise.h"
#include "aggregators/core/testing/values.h"

namespace weft::aggregators {
namespace {

using ::testing::HasSubstr;

// What a rule needs beside its name: a rule that runs with no config on LoRA factors has no line here.
struct Needs {
  const char* config = "{}";
  std::shared_ptr<const Layout> layout;  // nullptr: LoRA factors and a head
};
const std::map<std::string, Needs>& KnownNeeds() {
  static const auto& needs = *new std::map<std::string, Needs>{
      // Noise from a seed: laws are about the same bits.
      {"dp",
       {.config = R"({"clip_norm": 2, "noise_multiplier": 1, "epsilon_budget": 100, "delta": 1e-5, "clients": 10,
                      "noise": "seeded", "for_tests": true})",
        .layout = nullptr}},
      {"scaffold", {.config = R"({"clients": 8})", .layout = nullptr}},
      {"lora_a2", {.config = R"({"budget": 1})", .layout = nullptr}},
      {"krum", {.config = R"({"f": 0})", .layout = nullptr}},
      {"median", {.config = R"({"allow_unpaired_factors": true})", .layout = nullptr}},
      {"trimmed_mean", {.config = R"({"allow_unpaired_factors": true})", .layout = nullptr}},
      {"fed_sb", {.layout = testing::FixedFactors()}}};
  return needs;
}

conformance::Subject SubjectOf(const std::string& name) {
  AllowSeededNoise();
  conformance::Subject subject = conformance::SmallSubject(*Registry::Global().Find(name));
  // What every rule takes and some ask for.
  subject.job.mutable_training()->set_optimizer("sgd");
  subject.job.mutable_round()->set_min_updates(3);
  EXPECT_TRUE(google::protobuf::util::JsonStringToMessage(R"({"target_modules": ["query"]})",
                                                          subject.job.mutable_adapter()->mutable_config())
                  .ok());
  const auto found = KnownNeeds().find(name);
  if (found == KnownNeeds().end()) return subject;
  auto* config = subject.job.mutable_aggregator()->mutable_config();
  EXPECT_TRUE(google::protobuf::util::JsonStringToMessage(found->second.config, config).ok());
  if (found->second.layout != nullptr) subject.layout = found->second.layout;
  return subject;
}

TEST(AllRulesTest, Conformance_EveryRegisteredRuleKeepsTheLaws) {
  const Registry& registry = Registry::Global();
  ASSERT_THAT(registry.Names(), ::testing::Contains("fedavg")) << "the registry must not be empty by a linking mistake";
  for (const std::string& name : registry.Names()) {
    conformance::Subject subject = SubjectOf(name);
    for (const proto::EncodingConfig& encoding : conformance::Encodings()) {
      subject.encoding = encoding;
      conformance::ExpectLawsHold(subject);
    }
  }
}

// Rules that average take the tensors of every form; rules on LoRA factors say so, and what to use instead.
TEST(AllRulesTest, Conformance_FormsWithoutFactorsAreKeptOrRefused) {
  std::vector<std::string> kept;
  for (const std::string& name : Registry::Global().Names()) {
    conformance::Subject subject = SubjectOf(name);
    subject.layout = testing::NoFactors();
    const absl::Status fits = subject.rule->CheckJob(subject.job, *subject.layout);
    if (!fits.ok()) {
      EXPECT_EQ(fits.code(), absl::StatusCode::kInvalidArgument) << name;
      EXPECT_THAT(fits.message(), HasSubstr("use ")) << name;
      continue;
    }
    kept.push_back(name);
    conformance::ExpectLawsHold(subject);
  }
  for (const char* name : {"fedavg", "fedprox", "scaffold", "fedopt"}) EXPECT_THAT(kept, ::testing::Contains(name));
  for (const char* name : {"ffa_lora", "rolora", "fedsa_lora", "fedsvd", "lora_a2", "fed_sb"}) {
    EXPECT_THAT(kept, ::testing::Not(::testing::Contains(name)));
  }
}

struct FormCase {
  const char* form;
  const char* config;
  const char* model_type;
  // Of the rules on factors those that take it; rules that average take every form.
  std::set<std::string> factor_rules;
};

// Rules that ask for tensors of certain roles.
const std::set<std::string>& FactorRules() {
  static const auto& rules =
      *new std::set<std::string>{"fed_sb", "fedex_lora", "fedsa_lora", "fedsvd",    "ffa_lora", "flexlora",
                                 "flora",  "hetlora",    "lora_a2",    "lora_fair", "rolora"};
  return rules;
}

std::vector<FormCase> FormCases() {
  std::set<std::string> on_lora = FactorRules();
  on_lora.erase("fed_sb");
  return {{"lora", R"({"rank": 2, "target_modules": ["query"]})", "bert", on_lora},
          // Modules of unlike rank and scale.
          {"lora",
           R"({"rank": 2, "use_rslora": true, "target_modules": ["query", "value"], "rank_pattern": {"value": 1},
               "alpha_pattern": {"query": 3}})",
           "bert", on_lora},
          {"lora_sb", R"({"rank": 2, "target_modules": ["query"]})", "bert", {"fed_sb"}},
          {"ssf", R"({"target_modules": ["query", "LayerNorm"]})", "bert", {}},
          {"prompt", R"({"tokens": 2})", "bert", {}},
          {"prompt", R"({"tokens": 1, "deep": true})", "vit", {}}};
}

conformance::Subject SubjectOf(const std::string& rule, const FormCase& form) {
  conformance::Subject subject = SubjectOf(rule);
  const absl::StatusOr<BaseDescription> base = DescribeBase(absl::StrCat(
      R"({"model_type": ")", form.model_type, R"(", "hidden_size": 2, "num_hidden_layers": 2, "num_attention_heads": 1,
          "intermediate_size": 2, "vocab_size": 8, "max_position_embeddings": 8, "type_vocab_size": 1, "image_size": 2,
          "patch_size": 1})"));
  EXPECT_TRUE(base.ok()) << base.status();
  proto::TaskConfig& task = *subject.job.mutable_task();
  task.set_type(base->model_type == "vit" ? "image_classification" : "sequence_classification");
  task.clear_labels();
  task.add_labels("no");
  task.add_labels("yes");
  proto::AdapterConfig& adapter = *subject.job.mutable_adapter();
  adapter.set_form(form.form);
  adapter.set_head(true);
  EXPECT_TRUE(google::protobuf::util::JsonStringToMessage(form.config, adapter.mutable_config()).ok());
  const auto layout = MakeLayout(adapter, task, *base);
  EXPECT_TRUE(layout.ok()) << layout.status();
  subject.layout = *layout;
  return subject;
}

// Every form under every rule: what fits keeps the laws, what does not is refused before the job starts, with a reason.
TEST(AllRulesTest, Conformance_EveryFormUnderEveryRule) {
  for (const FormCase& form : FormCases()) {
    for (const std::string& name : Registry::Global().Names()) {
      const conformance::Subject subject = SubjectOf(name, form);
      const bool expected = FactorRules().count(name) == 0 || form.factor_rules.count(name) > 0;
      const absl::Status fits = subject.rule->CheckJob(subject.job, *subject.layout);
      EXPECT_EQ(fits.ok(), expected) << form.form << " under " << name << ": " << fits;
      if (!fits.ok()) {
        EXPECT_EQ(fits.code(), absl::StatusCode::kInvalidArgument) << form.form << " under " << name;
        EXPECT_THAT(fits.message(), HasSubstr("use ")) << form.form << " under " << name;
      } else if (expected) {
        conformance::ExpectLawsHold(subject);
      }
    }
  }
}

// Rules that tear the factors of a client apart take those that send one factor a round, and no other.
TEST(AllRulesTest, Conformance_MedianAndTrimmedMeanStandAroundRulesThatSendOneFactor) {
  for (const char* wrapper : {"median", "trimmed_mean"}) {
    for (const auto& [inner, fits] : std::map<std::string, bool>{
             {"ffa_lora", true}, {"rolora", true}, {"fedsa_lora", true}, {"fedavg", false}, {"fedprox", false}}) {
      conformance::Subject subject = SubjectOf(wrapper);
      auto* config = subject.job.mutable_aggregator()->mutable_config();
      ASSERT_TRUE(
          google::protobuf::util::JsonStringToMessage("{\"rule\": {\"name\": \"" + inner + "\"}}", config).ok());
      const absl::Status status = subject.rule->CheckJob(subject.job, *subject.layout);
      EXPECT_EQ(status.ok(), fits) << wrapper << " around " << inner << ": " << status;
      if (fits) conformance::ExpectLawsHold(subject);
    }
  }
}

}  // namespace
}  // namespace weft::aggregators
