#ifndef WEFT_SERVER_EVALUATION_EVALUATION_H_
#define WEFT_SERVER_EVALUATION_EVALUATION_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "proto/job.pb.h"
#include "proto/plan.pb.h"
#include "proto/status.pb.h"

namespace weft::server {

// INVALID_ARGUMENT: counts that no client can have come to: of more rows than planned (0: no bound), that contradict
// each other, of another task, or so large that sums over clients could overflow. `task` is that of the job.
absl::Status CheckEvaluation(const proto::Evaluation& evaluation, const proto::TaskConfig& task, int64_t planned_rows);

// Sums what clients counted, exactly, and works the figures out of the sums. Add in order of client id: sums of losses
// depend on it. Not thread-safe.
class EvaluationSum {
 public:
  explicit EvaluationSum(const proto::TaskConfig& task) : of_tokens_(task.type() == "causal_lm") {}
  // Checked.
  void Add(const proto::Evaluation& evaluation);

  // Sets, when anything was counted:
  //   accuracy, loss: over rows, of causal_lm over tokens;
  //   f1: where classes were counted, the mean of 2 correct / (predicted + actual) over those classes that are there
  //     or were predicted (macro F1);
  //   perplexity: of causal_lm, exp(loss);
  //   evaluated_examples, evaluated_tokens.
  void Fill(proto::RoundStatus* status) const;

 private:
  double MacroF1() const;

  const bool of_tokens_;
  uint64_t examples_ = 0, tokens_ = 0, correct_ = 0;
  double loss_sum_ = 0;
  std::vector<proto::ClassCounts> classes_;
};

}  // namespace weft::server

#endif  // WEFT_SERVER_EVALUATION_EVALUATION_H_
