#ifndef WEFT_AGGREGATORS_DP_DP_TERMS_H_
#define WEFT_AGGREGATORS_DP_DP_TERMS_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "aggregators/core/aggregator.h"
#include "aggregators/dp/dp.pb.h"
#include "proto/job.pb.h"

namespace weft::aggregators {

// What a job's config promises of each round. The numbers follow from the job alone, never from updates.
struct DpTerms {
  // INVALID_ARGUMENT naming the key: not exactly one of noise_multiplier and target_epsilon, no budget, delta of
  // 1 / clients or more, seeded noise where it is not allowed, a selection that does not say how many it asks, a target
  // that no noise meets, noise or weights that do not fit the sum.
  static absl::StatusOr<DpTerms> Read(const proto::JobConfig& job);

  proto::DpConfig config;
  double noise_multiplier = 0;
  // The probability that the accountant is told. Poisson sampling amplifies only when no draw is thrown away, that is
  // with round.min_updates 0; everything else counts as taking part in every round.
  double sampling_rate = 1;
  // How many clients' contributions differ, at most, between two populations that differ in one client. Where the
  // number of members is fixed, or drawn again when it is small, one client takes the place of another: then two.
  int differing = 1;
  // Expected number of updates of a round.
  double expected_updates = 1;
  // Of one client, an integer: what a weight of 1 is in the sum.
  int64_t largest_weight = 1;
  double epsilon_budget = 0;

  // Standard deviation of the noise on the weighted sum of deltas of `elements` values.
  double Deviation(int64_t elements) const;
  // What the sum is divided by.
  double Denominator() const { return expected_updates * static_cast<double>(largest_weight); }
  // After `rounds` rounds.
  absl::StatusOr<PrivacySpent> Spent(int64_t rounds) const;
};

}  // namespace weft::aggregators

#endif  // WEFT_AGGREGATORS_DP_DP_TERMS_H_
