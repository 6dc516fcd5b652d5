// weft-epsilon: what a sequence of Poisson-sampled Gaussian mechanisms costs, or the noise that a target needs.
#include <cstdio>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/exit_code.h"
#include "common/status_macros.h"
#include "privacy/accountant/rdp.h"

namespace weft::privacy {
namespace {

constexpr char kUsage[] =
    "usage: weft-epsilon DELTA Q NOISE_MULTIPLIER STEPS [Q NOISE_MULTIPLIER STEPS]...\n"
    "       weft-epsilon --noise-for EPSILON DELTA Q STEPS\n";

absl::StatusOr<std::vector<double>> Numbers(const std::vector<std::string>& words) {
  std::vector<double> numbers;
  for (const std::string& word : words) {
    double number = 0;
    if (!absl::SimpleAtod(word, &number)) {
      return absl::InvalidArgumentError(absl::StrCat("found \"", word, "\", expected a number\n", kUsage));
    }
    numbers.push_back(number);
  }
  return numbers;
}

absl::StatusOr<int64_t> Steps(double number) {
  if (!(number >= 1 && number <= 0x1p53) || number != static_cast<double>(static_cast<int64_t>(number))) {
    return absl::InvalidArgumentError(absl::StrCat("found ", number, " steps, expected a whole number from 1 to 2^53"));
  }
  return static_cast<int64_t>(number);
}

absl::Status Run(std::vector<std::string> words) {
  const bool noise_for = !words.empty() && words.front() == "--noise-for";
  if (noise_for) words.erase(words.begin());
  WEFT_ASSIGN_OR_RETURN(const std::vector<double> numbers, Numbers(words));
  if (noise_for ? numbers.size() != 4 : numbers.size() < 4 || numbers.size() % 3 != 1) {
    return absl::InvalidArgumentError(absl::StrCat("found ", numbers.size(), " numbers\n", kUsage));
  }
  if (noise_for) {
    WEFT_ASSIGN_OR_RETURN(const int64_t steps, Steps(numbers[3]));
    const NoiseTarget target{.epsilon = numbers[0], .delta = numbers[1], .q = numbers[2], .steps = steps};
    WEFT_ASSIGN_OR_RETURN(const double noise_multiplier, NoiseMultiplierFor(target));
    std::printf("noise_multiplier=%.10g\n", noise_multiplier);
    return absl::OkStatus();
  }
  RdpAccountant accountant;
  for (size_t i = 1; i < numbers.size(); i += 3) {
    WEFT_ASSIGN_OR_RETURN(const int64_t steps, Steps(numbers[i + 2]));
    WEFT_RETURN_IF_ERROR(accountant.Add(numbers[i], numbers[i + 1], steps));
  }
  WEFT_ASSIGN_OR_RETURN(const RdpAccountant::Spent spent, accountant.Epsilon(numbers[0]));
  std::printf("epsilon=%.10g order=%g\n", spent.epsilon, spent.order);
  return absl::OkStatus();
}

}  // namespace
}  // namespace weft::privacy

int main(int argc, char** argv) {
  const absl::Status status = weft::privacy::Run({argv + 1, argv + argc});
  if (!status.ok()) std::fprintf(stderr, "%s\n", weft::ErrorLine("weft-epsilon", status).c_str());
  return weft::ExitCodeFor(status);
}
