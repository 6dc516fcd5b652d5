#include "aggregators/dp/dp_terms.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "aggregators/core/exact_sum.h"
#include "aggregators/core/seeded_noise.h"
#include "aggregators/core/updates.h"
#include "common/status_macros.h"
#include "privacy/accountant/rdp.h"
#include "privacy/noise/gaussian.h"

namespace weft::aggregators {
namespace {

template <typename... Words>
absl::Status Refused(const Words&... words) {
  return absl::InvalidArgumentError(absl::StrCat("aggregator.config.", words...));
}

absl::Status CheckConfig(const proto::DpConfig& config) {
  if (config.has_noise_multiplier() == config.has_target_epsilon()) {
    return Refused(
        "noise_multiplier: found ", config.has_target_epsilon() ? "both it and" : "neither it nor",
        " target_epsilon, expected exactly one; say how much noise, or the epsilon that stop.rounds rounds may "
        "spend");
  }
  if (config.has_noise_multiplier() && !config.has_epsilon_budget()) {
    return Refused(
        "epsilon_budget: found none, expected one beside noise_multiplier; say at which epsilon the job stops");
  }
  if (config.delta() * static_cast<double>(config.clients()) >= 1) {
    return Refused("delta: found ", config.delta(), " with clients = ", config.clients(), ", expected less than ",
                   1.0 / static_cast<double>(config.clients()),
                   ", as publishing one whole client at random would meet it; lower delta");
  }
  const bool seeded = config.noise() == "seeded";
  if (seeded && !config.for_tests()) {
    return Refused(
        "noise: found seeded without for_tests: true, expected secure; whoever knows the seed takes such noise "
        "off again: use noise: secure");
  }
  if (seeded && !SeededNoiseAllowed()) {
    return Refused(
        "noise: found seeded, which only tests and simulations take, expected secure; use noise: "
        "secure here");
  }
  if (!seeded && config.for_tests()) return Refused("for_tests: has no effect with noise: secure; remove it");
  return absl::OkStatus();
}

absl::Status ReadSelection(const proto::JobConfig& job, DpTerms* terms) {
  const proto::SelectionConfig& selection = job.selection();
  const auto clients = static_cast<double>(terms->config.clients());
  terms->expected_updates = clients;  // all
  if (selection.rule() == "poisson") {
    if (!(selection.rate() > 0 && selection.rate() <= 1)) {
      return absl::InvalidArgumentError("selection.rate: found none, expected one above 0 to 1 under rule poisson");
    }
    terms->expected_updates = selection.rate() * clients;
    const bool keeps_every_draw = job.round().has_min_updates() && job.round().min_updates() == 0;
    if (keeps_every_draw) terms->sampling_rate = selection.rate();
    if (!keeps_every_draw) terms->differing = 2;
  } else if (selection.rule() == "uniform") {
    if (selection.clients() < 1) {
      return absl::InvalidArgumentError("selection.clients: found none, expected 1 or more under rule uniform");
    }
    terms->expected_updates = std::min(clients, static_cast<double>(selection.clients()));
    terms->differing = 2;
  }
  return absl::OkStatus();
}

absl::Status ReadNoise(const proto::JobConfig& job, DpTerms* terms) {
  const proto::DpConfig& config = terms->config;
  terms->epsilon_budget = config.has_epsilon_budget() ? config.epsilon_budget() : config.target_epsilon();
  terms->noise_multiplier = config.noise_multiplier();
  if (config.has_noise_multiplier()) return absl::OkStatus();
  if (job.stop().rounds() < 1) {
    return absl::InvalidArgumentError("stop.rounds: found none, expected 1 or more; target_epsilon is for that many");
  }
  const absl::StatusOr<double> found = privacy::NoiseMultiplierFor({.epsilon = config.target_epsilon(),
                                                                    .delta = config.delta(),
                                                                    .q = terms->sampling_rate,
                                                                    .steps = job.stop().rounds()});
  if (!found.ok()) return Refused("target_epsilon: ", found.status().message());
  terms->noise_multiplier = *found;
  return absl::OkStatus();
}

// The sum's range: no cohort of the population can be refused for its total weight, which would make what is taken of
// one client depend on the others.
absl::Status CheckRange(const DpTerms& terms) {
  const auto most = static_cast<int64_t>(ExactSum::kMaxTotalWeight) / terms.config.clients();
  if (terms.largest_weight > most) {
    return Refused("weights.max_examples: found ", terms.largest_weight, ", expected at most ", most,
                   " with clients = ", terms.config.clients(), ", so that the sum of weights fits; lower it");
  }
  const double deviation = terms.Deviation(0);
  if (deviation <= privacy::NoiseSource::kLargestDeviation / 2) return absl::OkStatus();
  return Refused("clip_norm: found ", terms.config.clip_norm(),
                 ", with which the noise on the sum has a standard deviation of ", deviation,
                 ", expected at most 2^39; lower clip_norm or weights.max_examples");
}

}  // namespace

absl::StatusOr<DpTerms> DpTerms::Read(const proto::JobConfig& job) {
  DpTerms terms;
  WEFT_ASSIGN_OR_RETURN(terms.config, ReadConfig<proto::DpConfig>(job));
  WEFT_RETURN_IF_ERROR(CheckConfig(terms.config));
  if (terms.config.weights().by() == "bounded") terms.largest_weight = terms.config.weights().max_examples();
  WEFT_RETURN_IF_ERROR(ReadSelection(job, &terms));
  WEFT_RETURN_IF_ERROR(ReadNoise(job, &terms));
  WEFT_RETURN_IF_ERROR(CheckRange(terms));
  return terms;
}

double DpTerms::Deviation(int64_t elements) const {
  // Each product of weight and value is rounded to a multiple of 2^-64 as it enters the sum, by 2^-65 at most: twice
  // that over all elements is added to the sensitivity. The last factor outweighs the rounding of this line.
  const double contribution =
      static_cast<double>(largest_weight) * config.clip_norm() + std::sqrt(static_cast<double>(elements)) * 0x1p-64;
  return noise_multiplier * differing * contribution * (1 + 0x1p-50);
}

absl::StatusOr<PrivacySpent> DpTerms::Spent(int64_t rounds) const {
  privacy::RdpAccountant accountant;
  if (rounds > 0) WEFT_RETURN_IF_ERROR(accountant.Add(sampling_rate, noise_multiplier, rounds));
  WEFT_ASSIGN_OR_RETURN(const privacy::RdpAccountant::Spent spent, accountant.Epsilon(config.delta()));
  return PrivacySpent{.epsilon = spent.epsilon,
                      .epsilon_budget = epsilon_budget,
                      .delta = config.delta(),
                      .noise_multiplier = noise_multiplier,
                      .sampling_rate = sampling_rate};
}

}  // namespace weft::aggregators
