// The rule "fedsvd": Lee et al., "FedSVD: Adaptive Orthogonalization for Private Federated Learning with LoRA",
// arXiv 2505.12805: B is trained, sent and averaged with A frozen; then, per module, U S V^T = Bbar A and the next
// factors are A = V_r^T, of orthonormal rows, and B = U_r S_r. The product, which has rank r at most, stays what it
// was. A depends on the updates through Bbar alone: post-processing of a mean. The first A is orthonormalised in the
// same way. A head is trained, sent and averaged beside B.

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "adapters/factors.h"
#include "aggregators/core/factored.h"
#include "aggregators/core/factored_svd.h"
#include "aggregators/core/form_check.h"
#include "aggregators/core/linear.h"
#include "aggregators/core/registry.h"
#include "aggregators/core/state.h"
#include "aggregators/fedsvd/fedsvd.pb.h"
#include "common/status_macros.h"

namespace weft::aggregators {
namespace {

constexpr char kName[] = "fedsvd";

// One module: A becomes orthonormal, B A stays.
absl::Status Orthonormalise(const FactorPair& pair, Adapter* state) {
  const ClientFactors factors{.a = state->tensor(*pair.a), .b = state->tensor(*pair.b), .rank = pair.rank, .weight = 1};
  WEFT_ASSIGN_OR_RETURN(FactorStack stack, FactorStack::Create(pair.in, pair.out, {factors}));
  const Svd svd = TruncatedSvd(stack, {.rank = pair.rank});
  svd.factors.a.CopyTo(state->tensor(*pair.a));
  svd.factors.b.CopyTo(state->tensor(*pair.b));
  return absl::OkStatus();
}

// All modules.
absl::Status Orthonormalise(Adapter* state, int threads) {
  WEFT_ASSIGN_OR_RETURN(const std::vector<FactorPair> pairs, FactorPairs(state->layout()));
  std::vector<absl::Status> statuses(pairs.size());
  ForEachModule(static_cast<int64_t>(pairs.size()), threads,
                [&](int64_t i) { statuses[i] = Orthonormalise(pairs[i], state); });
  for (const absl::Status& status : statuses) WEFT_RETURN_IF_ERROR(status);
  return absl::OkStatus();
}

class FedSvd : public LinearAggregator {
 public:
  using LinearAggregator::LinearAggregator;

 private:
  absl::StatusOr<Adapter> Next(const Adapter& mean, int64_t) override {
    Adapter next = Plus(state(), mean);
    WEFT_RETURN_IF_ERROR(Orthonormalise(&next, threads()));
    return next;
  }
};

class FedSvdRule : public Rule {
 public:
  std::string_view name() const override { return kName; }

  Facts facts() const override {
    return {.linear = true,
            .works_under_secure_aggregation = true,
            .works_under_central_dp = true,
            .finishes_from_mean = true,
            .rebases_factors = true};
  }

  absl::Status CheckJob(const proto::JobConfig& job, const Layout& layout) const override {
    WEFT_ASSIGN_OR_RETURN(const proto::FedSvdConfig config, ReadConfig<proto::FedSvdConfig>(job));
    WEFT_RETURN_IF_ERROR(CheckLoraFactors(kName, job, layout));
    WEFT_RETURN_IF_ERROR(CheckTotalWeight(job, config.weights()));
    WEFT_ASSIGN_OR_RETURN(const std::vector<FactorPair> pairs, FactorPairs(layout));
    for (const FactorPair& pair : pairs) {
      if (pair.rank <= pair.in) continue;
      return absl::InvalidArgumentError(
          absl::StrCat("adapter.config: found rank ", pair.rank, " of ", pair.module, ", which has ", pair.in,
                       " inputs and so no room for as many orthonormal rows; use a rank of at most ", pair.in,
                       " or aggregator ffa_lora"));
    }
    const std::string& encoding = job.encoding().values();
    if (encoding.empty() || encoding == "f32" || !job.encoding().error_feedback()) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat("encoding.error_feedback: found true with encoding.values ",
                                                   encoding,
                                                   " under fedsvd, which turns the factors every round: what a client "
                                                   "kept back belongs to components that are gone; "
                                                   "set encoding.error_feedback: false, or use aggregator ffa_lora"));
  }

  absl::StatusOr<Adapter> InitialState(const proto::JobConfig&, Adapter initial) const override {
    WEFT_RETURN_IF_ERROR(Orthonormalise(&initial, /*threads=*/1));
    return initial;
  }

  // Beside the sum: copies in fp64 of the factors of as many modules as there are threads, at most of all; a few of
  // each.
  int64_t MemoryBytes(const proto::JobConfig&, const Layout& state, int64_t) const override {
    return LinearAggregator::MemoryBytes(state) + (4 * 8 * state.num_elements());
  }

  absl::StatusOr<std::unique_ptr<Aggregator>> Create(const proto::JobConfig& job,
                                                     const CreateOptions& options) const override {
    WEFT_ASSIGN_OR_RETURN(const proto::FedSvdConfig config, ReadConfig<proto::FedSvdConfig>(job));
    const std::vector<std::string> roles = AdapterRolesWithout(options.global->layout(), kRoleLoraA);
    WEFT_ASSIGN_OR_RETURN(UpdateTerms terms, UpdateTerms::Create(options, {.rule = RuleText(kName, config),
                                                                           .weights = config.weights(),
                                                                           .roles_trained = roles,
                                                                           .roles_sent = roles}));
    return std::make_unique<FedSvd>(options, std::move(terms));
  }
};

WEFT_REGISTER_RULE(FedSvdRule);

}  // namespace
}  // namespace weft::aggregators
