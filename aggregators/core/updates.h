#ifndef WEFT_AGGREGATORS_CORE_UPDATES_H_
#define WEFT_AGGREGATORS_CORE_UPDATES_H_

#include <google/protobuf/message.h>

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "aggregators/core/aggregator.h"
#include "aggregators/core/core.pb.h"
#include "proto/schema.h"

namespace weft::aggregators {

// What a rule asks of the updates of a round, whichever way it combines them. Immutable.
class UpdateTerms {
 public:
  struct Options {
    std::string rule;  // name and config as text: parts and saved states must agree on it
    proto::WeightsConfig weights = {};
    std::vector<std::string> roles_trained = {};  // in layout order
    std::vector<std::string> roles_sent = {};     // in layout order
    bool mixed_ranks = false;                     // updates of fewer components are taken
  };
  // INVALID_ARGUMENT: no tensor of the roles sent.
  static absl::StatusOr<UpdateTerms> Create(const CreateOptions& create, Options options);

  // Roles and the bound on examples.
  void FillPlan(proto::Plan* plan) const;
  // INVALID_ARGUMENT: 0 or absurdly many examples, a rank that is not taken, another layout.
  absl::Status Check(const ClientUpdate& update) const;
  // min(examples, bound), or 1 under uniform weights. Below 2^29.
  uint64_t Weight(const ClientUpdate& update) const;
  // The layout of an update of all components.
  const std::shared_ptr<const Layout>& layout() const { return layout_; }
  // ... of the first `rank` components (0: all); nullptr for a rank that is not taken.
  std::shared_ptr<const Layout> LayoutOf(int64_t rank) const;
  // Rule, config, round and layout of the state: with the sent layout all that parts of one sum must agree on.
  const std::string& binding() const { return binding_; }

 private:
  Options options_;
  std::shared_ptr<const Layout> layout_;
  std::vector<std::shared_ptr<const Layout>> cut_;  // by rank - 1, where mixed ranks are taken
  std::string binding_;
};

// A rule's own config out of the job, with defaults. INVALID_ARGUMENT naming the key ("aggregator.config.mu").
template <typename Config>
absl::StatusOr<Config> ReadConfig(const proto::JobConfig& job) {
  Config config;
  if (absl::Status read = proto::FromStruct(job.aggregator().config(), "aggregator.config", &config); !read.ok()) {
    return read;
  }
  return config;
}

// A rule's name and config as text, for UpdateTerms::Options::rule. The config must hold no map field.
std::string RuleText(std::string_view name, const google::protobuf::Message& config);

// INVALID_ARGUMENT when a cohort whose size the job's selection fixes could pass the total weight of one sum.
absl::Status CheckTotalWeight(const proto::JobConfig& job, const proto::WeightsConfig& weights);

// Refusal of a part that is not of this round.
absl::Status ForeignPart(const std::string& found, const std::string& expected);

}  // namespace weft::aggregators

#endif  // WEFT_AGGREGATORS_CORE_UPDATES_H_
