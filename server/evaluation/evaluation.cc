#include "server/evaluation/evaluation.h"

#include <cmath>

#include "absl/strings/str_cat.h"
#include "adapters/forms/form.h"

namespace weft::server {
namespace {

// With the million clients that a job may ask, sums stay below 2^64 and the largest double.
constexpr uint64_t kMostCounted = 1'000'000'000'000;
constexpr double kLargestLoss = 1e300;

template <typename... Parts>
absl::Status Bad(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat("evaluation: found ", parts...));
}

absl::Status CheckClasses(const proto::Evaluation& evaluation, const proto::TaskConfig& task) {
  const int expected = IsClassification(task) && evaluation.examples() > 0 ? task.labels_size() : 0;
  if (evaluation.classes_size() != expected) {
    return Bad("counts of ", evaluation.classes_size(), " classes, expected ", expected, " for ", evaluation.examples(),
               " rows of a ", task.type(), " job of ", task.labels_size(), " labels");
  }
  if (expected == 0) return absl::OkStatus();
  uint64_t correct = 0, predicted = 0, actual = 0;
  for (int c = 0; c < expected; ++c) {
    const proto::ClassCounts& counts = evaluation.classes(c);
    if (counts.predicted() > evaluation.examples() || counts.actual() > evaluation.examples()) {
      return Bad(counts.predicted(), " rows predicted and ", counts.actual(), " rows of class ", c,
                 ", expected at most the ", evaluation.examples(), " rows evaluated");
    }
    if (counts.correct() > counts.predicted() || counts.correct() > counts.actual()) {
      return Bad(counts.correct(), " correct of class ", c, ", expected at most the ", counts.predicted(),
                 " predicted and the ", counts.actual(), " there are");
    }
    correct += counts.correct();
    predicted += counts.predicted();
    actual += counts.actual();
  }
  if (predicted != evaluation.examples() || actual != evaluation.examples()) {
    return Bad(predicted, " rows predicted and ", actual, " rows over all classes, expected the ",
               evaluation.examples(), " rows evaluated");
  }
  if (correct != evaluation.correct()) {
    return Bad(correct, " correct over all classes, expected the ", evaluation.correct(), " correct in all");
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckEvaluation(const proto::Evaluation& evaluation, const proto::TaskConfig& task, int64_t planned_rows) {
  const bool of_tokens = task.type() == "causal_lm";
  if (planned_rows > 0 && evaluation.examples() > static_cast<uint64_t>(planned_rows)) {
    return Bad(evaluation.examples(), " rows, the plan asked for ", planned_rows);
  }
  if (evaluation.examples() > kMostCounted || evaluation.tokens() > kMostCounted) {
    return Bad(evaluation.examples(), " rows and ", evaluation.tokens(), " tokens, expected at most ", kMostCounted);
  }
  if (!of_tokens && evaluation.tokens() > 0) {
    return Bad(evaluation.tokens(), " tokens, expected none for a ", task.type(), " job, which counts rows");
  }
  const uint64_t counted = of_tokens ? evaluation.tokens() : evaluation.examples();
  const char* what = of_tokens ? "tokens" : "rows";
  if (of_tokens && counted > 0 && evaluation.examples() == 0) {
    return Bad(counted, " tokens of no rows, expected the rows too");
  }
  if (evaluation.correct() > counted) {
    return Bad(evaluation.correct(), " correct of ", counted, " ", what, ", expected at most as many as ", what);
  }
  if (!(evaluation.loss_sum() >= 0 && evaluation.loss_sum() <= kLargestLoss)) {  // nor NaN
    return Bad("loss_sum ", evaluation.loss_sum(), ", expected a number from 0 to ", kLargestLoss);
  }
  if (counted == 0 && evaluation.loss_sum() > 0) {
    return Bad("loss_sum ", evaluation.loss_sum(), " over no ", what, ", expected 0");
  }
  return CheckClasses(evaluation, task);
}

void EvaluationSum::Add(const proto::Evaluation& evaluation) {
  examples_ += evaluation.examples();
  tokens_ += evaluation.tokens();
  correct_ += evaluation.correct();
  loss_sum_ += evaluation.loss_sum();
  if (classes_.empty()) classes_.resize(evaluation.classes_size());
  for (int c = 0; c < evaluation.classes_size(); ++c) {
    const proto::ClassCounts& counts = evaluation.classes(c);
    classes_[c].set_correct(classes_[c].correct() + counts.correct());
    classes_[c].set_predicted(classes_[c].predicted() + counts.predicted());
    classes_[c].set_actual(classes_[c].actual() + counts.actual());
  }
}

double EvaluationSum::MacroF1() const {
  double sum = 0;
  int64_t classes = 0;
  for (const proto::ClassCounts& counts : classes_) {
    const uint64_t occurs = counts.predicted() + counts.actual();
    if (occurs == 0) continue;
    sum += 2 * static_cast<double>(counts.correct()) / static_cast<double>(occurs);
    ++classes;
  }
  return sum / static_cast<double>(classes);
}

void EvaluationSum::Fill(proto::RoundStatus* status) const {
  const uint64_t counted = of_tokens_ ? tokens_ : examples_;
  if (counted == 0) return;
  status->set_accuracy(static_cast<double>(correct_) / static_cast<double>(counted));
  status->set_loss(loss_sum_ / static_cast<double>(counted));
  status->set_evaluated_examples(examples_);
  if (!classes_.empty()) status->set_f1(MacroF1());
  if (!of_tokens_) return;
  status->set_perplexity(std::exp(status->loss()));
  status->set_evaluated_tokens(tokens_);
}

}  // namespace weft::server
