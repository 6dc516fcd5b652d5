#ifndef WEFT_CLIENT_TESTING_FAKE_TRAINER_H_
#define WEFT_CLIENT_TESTING_FAKE_TRAINER_H_

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "adapters/base.h"
#include "training/trainer.h"

namespace weft {

// A trainer without torch, for tests: every step adds small positive numbers drawn from the member's seed and id to
// every value, and accuracy grows with the mean value of the adapter; every row is taken for the first label. So
// results depend on the adapter downloaded, the plan's seed and the client, on nothing else. Trains and evaluates from
// several threads at once.
class FakeTrainer : public Trainer {
 public:
  struct Options {
    std::string base;  // folder with config.json and some *.safetensors
    // The trainer stands still, but cancellable, before a step while this returns true.
    std::function<bool(const std::string& client_id, int64_t round)> hold;
    // Training ends with this status.
    absl::Status train_status;
    // An evaluation ends with this status.
    absl::Status evaluate_status;
    // Trained adapters hold a NaN.
    bool nan = false;
  };

  static absl::StatusOr<std::unique_ptr<FakeTrainer>> Create(const Options& options);

  absl::StatusOr<std::shared_ptr<const Layout>> PrepareJob(const proto::JobOffer& job) override;
  absl::StatusOr<std::vector<absl::StatusOr<TrainResult>>> Train(const proto::Plan& plan,
                                                                 std::span<const CohortMember> cohort,
                                                                 const ProgressFunction& progress) override;
  absl::StatusOr<std::vector<absl::StatusOr<proto::Evaluation>>> Evaluate(const proto::EvaluationPlan& plan,
                                                                          std::span<const CohortMember> cohort,
                                                                          const ProgressFunction& progress) override;
  // Counts the rounds and changes nothing.
  absl::Status AddToBase(const std::string& job_id, int64_t round, const Adapter& step) override;
  int64_t base_round(const std::string& job_id) const override;
  void ResetBase(const std::string& job_id) override { base_rounds_.erase(job_id); }
  const std::string& base_hash() const override { return base_hash_; }
  const std::string& device() const override { return device_; }
  // Members trained to the end so far.
  int trained() const { return trained_; }

 private:
  FakeTrainer(const Options& options, BaseDescription base, std::string base_hash);
  absl::StatusOr<TrainResult> TrainOne(const proto::Plan& plan, const CohortMember& member,
                                       const ProgressFunction& progress);

  const Options options_;
  const BaseDescription base_;
  const std::string base_hash_;
  const std::string device_ = "fake";
  std::map<std::string, int> labels_;           // by job_id
  std::map<std::string, int64_t> base_rounds_;  // likewise
  std::atomic<int> trained_ = 0;
};

}  // namespace weft

#endif  // WEFT_CLIENT_TESTING_FAKE_TRAINER_H_
