#ifndef WEFT_PRIVACY_ACCOUNTANT_RDP_H_
#define WEFT_PRIVACY_ACCOUNTANT_RDP_H_

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace weft::privacy {

// The orders at which divergences are kept: 1.1 to 10.9 in steps of 0.1, 11 to 63, 128, 256, 512, 1024.
std::span<const double> RdpOrders();

// Renyi divergence of order `order` (> 1) of one step of the Poisson-sampled Gaussian mechanism under adding or
// removing one record: each record takes part with probability q on its own, and N(0, (noise_multiplier *
// sensitivity)^2) is added to the sum (Mironov, Talwar, Zhang, "Renyi differential privacy of the sampled Gaussian
// mechanism", 2019, section 3). 0 < q <= 1, 1e-6 <= noise_multiplier <= 1e9.
double SampledGaussianRdp(double q, double noise_multiplier, double order);

// Privacy spent by a sequence of Poisson-sampled Gaussian mechanisms, which may differ in q and noise.
//
// What it covers: every record (or client, at user level) is sampled by itself with probability q, or takes part in
// every step (q = 1). A cohort of fixed size is NOT covered by the formula for q < 1: account it at q = 1. The noise
// multiplier is the noise's standard deviation over the L2 sensitivity.
//
// The state is how many steps were made with each (q, noise multiplier), and Epsilon is computed from these alone: so a
// job that goes on after a kill gets the same epsilon, bit for bit, from the counts that it stored, however they were
// added up. Copyable: ask a copy what one more round would cost. Not thread-safe for Add.
class RdpAccountant {
 public:
  struct Spent {
    double epsilon = 0;
    double order = 0;  // the order that gave the least epsilon; 0 when there were no steps
  };

  // INVALID_ARGUMENT: q outside (0, 1], a noise multiplier outside [1e-6, 1e9], steps < 1, or more than
  // 2^53 steps in all. On error nothing has changed.
  absl::Status Add(double q, double noise_multiplier, int64_t steps);

  // The epsilon at this delta: the least over the orders a of
  //   rdp(a) + log(1 - 1/a) - log(delta a) / (a - 1)
  // and never below 0 (Canonne, Kamath, Steinke, "The discrete Gaussian for differential privacy", 2020, proposition
  // 12). Infinite where no order gives a bound. INVALID_ARGUMENT when delta is outside (0, 1).
  absl::StatusOr<Spent> Epsilon(double delta) const;

  // Steps added so far.
  int64_t steps() const { return total_steps_; }

  // Text, one line "q noise_multiplier steps" for each pair after a line that names the format; exact.
  std::string Save() const;
  // INVALID_ARGUMENT when the text is not what Save writes.
  static absl::StatusOr<RdpAccountant> Restore(const std::string& text);

 private:
  struct Entry {
    int64_t steps = 0;
    std::vector<double> rdp;  // of one step, by order
  };
  std::map<std::pair<double, double>, Entry> entries_;  // by (q, noise multiplier): sums have one order
  int64_t total_steps_ = 0;
};

struct NoiseTarget {
  double epsilon = 0;  // > 0
  double delta = 0;    // in (0, 1)
  double q = 1;        // sampling probability, in (0, 1]
  int64_t steps = 0;   // >= 1
};

// The least noise multiplier (to 1e-6 of itself, from above) whose epsilon after all steps is at most the target.
// INVALID_ARGUMENT: a value outside its range, or an epsilon that no multiplier from 0.01 to 1e6 brings about.
absl::StatusOr<double> NoiseMultiplierFor(const NoiseTarget& target);

}  // namespace weft::privacy

#endif  // WEFT_PRIVACY_ACCOUNTANT_RDP_H_
