#include "privacy/accountant/rdp.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "common/status_macros.h"

namespace weft::privacy {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr int64_t kMaxSteps = int64_t{1} << 53;  // counts are exact as doubles
constexpr char kFormat[] = "weft-rdp 1";
constexpr double kLeastMultiplier = 0.01;
constexpr double kLargestMultiplier = 1e6;
// A series ends when its terms are this small beside its largest one, as a logarithm: 1e-15.
constexpr double kLogTolerance = -34.5;
constexpr int kMaxTerms = 1'000'000;

std::vector<double> MakeOrders() {
  std::vector<double> orders;
  for (int tenth = 1; tenth < 100; ++tenth) orders.push_back(1 + tenth / 10.0);
  for (int order = 11; order < 64; ++order) orders.push_back(order);
  for (const int order : {128, 256, 512, 1024}) orders.push_back(order);
  return orders;
}

// log(exp(a) + exp(b)).
double LogAdd(double a, double b) {
  const double high = std::max(a, b);
  if (high == -kInf) return high;
  return high + std::log1p(std::exp(std::min(a, b) - high));
}

// log(erfc(x)), also where erfc is below the smallest double.
double LogErfc(double x) {
  if (x < 20) return std::log(std::erfc(x));
  const double y = 1 / (2 * x * x);  // the asymptotic series; its next term is below 1e-9 of 1 at x = 20
  return -x * x - std::log(x * std::sqrt(std::numbers::pi)) + std::log1p(-y * (1 - 3 * y * (1 - 5 * y)));
}

// log(A - 1), where A = sum_j binom(n,j) (1-q)^(n-j) q^j exp((j^2-j)/(2 sigma^2)) is the moment of integer order n. As
// the weights of the sum add up to 1, A - 1 is the same sum with exp() - 1: all terms are positive, nothing cancels.
double LogMomentLessOne(double q, double sigma, int n) {
  const double log_q = std::log(q);
  const double log_rest = std::log1p(-q);
  double log_binomial = std::log(n);  // of j = 1
  double sum = -kInf;
  for (int j = 2; j <= n; ++j) {
    log_binomial += std::log(n - j + 1) - std::log(j);
    const double exponent = (static_cast<double>(j) * j - j) / (2 * sigma * sigma);
    const double log_growth =
        exponent > 1 ? exponent + std::log1p(-std::exp(-exponent)) : std::log(std::expm1(exponent));
    sum = LogAdd(sum, log_binomial + j * log_q + (n - j) * log_rest + log_growth);
  }
  return sum;
}

// log A for an order that is no integer: the integral is cut at z, where the two densities of the mixture are equal,
// and each side is a binomial series of erfc's (section 3.3 of the paper). From k > order on the signs alternate.
double LogMomentFractional(double q, double sigma, double order) {
  const double log_q = std::log(q);
  const double log_rest = std::log1p(-q);
  const double z = sigma * sigma * (log_rest - log_q) + 0.5;
  const double width = std::numbers::sqrt2 * sigma;
  const auto term = [&](double of_q, double of_rest, double edge) {
    return of_q * log_q + of_rest * log_rest + (of_q * of_q - of_q) / (2 * sigma * sigma) - std::numbers::ln2 +
           LogErfc(edge / width);
  };
  double positive = -kInf;
  double negative = -kInf;
  double log_binomial = 0;
  bool is_positive = true;
  for (int k = 0; k < kMaxTerms; ++k) {
    const double rest = order - k;
    const double both = log_binomial + LogAdd(term(k, rest, k - z), term(rest, k, z - rest));
    double& sum = is_positive ? positive : negative;
    sum = LogAdd(sum, both);
    if (rest < 0 && both < positive + kLogTolerance) break;
    log_binomial += std::log(std::abs(rest)) - std::log(k + 1);
    is_positive = is_positive == (rest > 0);
  }
  return positive + std::log1p(-std::exp(negative - positive));
}

absl::Status CheckDelta(double delta) {
  if (delta > 0 && delta < 1) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("found delta ", delta, ", expected a value in (0, 1); take one well below 1 / number of clients"));
}

absl::Status CheckStep(double q, double noise_multiplier, int64_t steps) {
  if (!(q > 0 && q <= 1)) {
    return absl::InvalidArgumentError(absl::StrCat("found sampling probability ", q, ", expected one in (0, 1]"));
  }
  if (!(noise_multiplier >= 1e-6 && noise_multiplier <= 1e9)) {
    return absl::InvalidArgumentError(absl::StrCat("found noise multiplier ", noise_multiplier,
                                                   ", expected one from 1e-6 to 1e9; no noise, no privacy to account"));
  }
  if (steps < 1 || steps > kMaxSteps) {
    return absl::InvalidArgumentError(absl::StrCat("found ", steps, " steps, expected 1 to 2^53"));
  }
  return absl::OkStatus();
}

}  // namespace

std::span<const double> RdpOrders() {
  static const std::vector<double>* const orders = new std::vector<double>(MakeOrders());
  return *orders;
}

double SampledGaussianRdp(double q, double noise_multiplier, double order) {
  if (q == 1) return order / (2 * noise_multiplier * noise_multiplier);
  double log_moment = 0;
  if (order == std::floor(order)) {
    const double log_excess = LogMomentLessOne(q, noise_multiplier, static_cast<int>(order));
    log_moment = LogAdd(0, log_excess);
  } else {
    log_moment = LogMomentFractional(q, noise_multiplier, order);
  }
  return std::max(0.0, log_moment / (order - 1));
}

absl::Status RdpAccountant::Add(double q, double noise_multiplier, int64_t steps) {
  WEFT_RETURN_IF_ERROR(CheckStep(q, noise_multiplier, steps));
  if (steps > kMaxSteps - total_steps_) {
    return absl::InvalidArgumentError(
        absl::StrCat("found ", steps, " steps after ", total_steps_, ", expected at most 2^53 in all"));
  }
  Entry& entry = entries_[{q, noise_multiplier}];
  if (entry.rdp.empty()) {
    for (const double order : RdpOrders()) entry.rdp.push_back(SampledGaussianRdp(q, noise_multiplier, order));
  }
  entry.steps += steps;
  total_steps_ += steps;
  return absl::OkStatus();
}

absl::StatusOr<RdpAccountant::Spent> RdpAccountant::Epsilon(double delta) const {
  WEFT_RETURN_IF_ERROR(CheckDelta(delta));
  if (entries_.empty()) return Spent{};
  const std::span<const double> orders = RdpOrders();
  Spent best{.epsilon = kInf, .order = orders.back()};
  for (size_t i = 0; i < orders.size(); ++i) {
    double rdp = 0;
    for (const auto& [pair, entry] : entries_) rdp += static_cast<double>(entry.steps) * entry.rdp[i];
    const double epsilon = rdp + std::log1p(-1 / orders[i]) - std::log(delta * orders[i]) / (orders[i] - 1);
    if (epsilon < best.epsilon) best = {.epsilon = std::max(0.0, epsilon), .order = orders[i]};
  }
  return best;
}

std::string RdpAccountant::Save() const {
  std::string text = absl::StrCat(kFormat, "\n");
  for (const auto& [pair, entry] : entries_) {
    absl::StrAppendFormat(&text, "%.17g %.17g %d\n", pair.first, pair.second, entry.steps);
  }
  return text;
}

absl::StatusOr<RdpAccountant> RdpAccountant::Restore(const std::string& text) {
  const std::vector<std::string> lines = absl::StrSplit(text, '\n');
  if (lines.size() < 2 || lines.front() != kFormat || !lines.back().empty()) {
    return absl::InvalidArgumentError(absl::StrCat("saved accountant: found no first line \"", kFormat,
                                                   "\" or no line end at the end, expected what Save writes"));
  }
  RdpAccountant accountant;
  for (size_t i = 1; i + 1 < lines.size(); ++i) {
    const std::vector<std::string> words = absl::StrSplit(lines[i], ' ');
    double q = 0;
    double noise_multiplier = 0;
    int64_t steps = 0;
    if (words.size() != 3 || !absl::SimpleAtod(words[0], &q) || !absl::SimpleAtod(words[1], &noise_multiplier) ||
        !absl::SimpleAtoi(words[2], &steps)) {
      return absl::InvalidArgumentError(absl::StrCat("saved accountant, line ", i + 1, ": found \"", lines[i],
                                                     "\", expected \"q noise_multiplier steps\""));
    }
    WEFT_RETURN_IF_ERROR(accountant.Add(q, noise_multiplier, steps));
  }
  return accountant;
}

absl::StatusOr<double> NoiseMultiplierFor(const NoiseTarget& target) {
  if (!(target.epsilon > 0 && std::isfinite(target.epsilon))) {
    return absl::InvalidArgumentError(
        absl::StrCat("found target epsilon ", target.epsilon, ", expected a positive one"));
  }
  WEFT_RETURN_IF_ERROR(CheckDelta(target.delta));
  WEFT_RETURN_IF_ERROR(CheckStep(target.q, 1, target.steps));
  const auto is_enough = [&target](double noise_multiplier) {
    RdpAccountant accountant;
    return accountant.Add(target.q, noise_multiplier, target.steps).ok() &&
           accountant.Epsilon(target.delta)->epsilon <= target.epsilon;
  };
  double high = 1;
  while (high < kLargestMultiplier && !is_enough(high)) high *= 2;
  double low = high / 2;
  if (high == 1) {
    while (low > kLeastMultiplier && is_enough(low)) low /= 2;
    high = 2 * low;
  }
  if (low < kLeastMultiplier || high > kLargestMultiplier) {
    return absl::InvalidArgumentError(absl::StrCat(
        "found target epsilon ", target.epsilon, " at delta ", target.delta, ", which no noise multiplier from ",
        kLeastMultiplier, " to ", kLargestMultiplier, " brings about; change epsilon or the number of steps"));
  }
  while (high - low > 1e-6 * high) {
    const double middle = (low + high) / 2;
    (is_enough(middle) ? high : low) = middle;
  }
  return high;
}

}  // namespace weft::privacy
