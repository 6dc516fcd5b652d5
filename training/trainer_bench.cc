// The trainer's half of tests/bench/train.py: holds a base and prepared data, and answers commands on stdin with one
// line of JSON each, so that another process can time it in turn with a peer.
//   trainer_bench BASE_FOLDER DATA_FOLDER THREADS
//   batches SEED STEPS   {"batches": [[row, ...], ...]}: what `train` will train on
//   train SEED STEPS     {"seconds": s, "tokens": n}: goes on from the adapter of the last `train`
//   evaluate ROWS        {"accuracy": a}: of that adapter on the test split
//   matmul TOKENS        {"flops_per_second": f}: products of the encoder's own shapes by LibTorch, nothing else
// LoRA r=8, alpha=16 on query and value, head trained, batches of 32, AdamW at 1e-3: the job of the benchmark.

#include <ATen/Parallel.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/randn.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <sstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "adapters/base.h"
#include "adapters/forms/form.h"
#include "common/exit_code.h"
#include "common/file.h"
#include "common/status_macros.h"
#include "nlohmann/json.hpp"
#include "training/data/schedule.h"
#include "training/trainer.h"

namespace weft {
namespace {

using Json = nlohmann::json;

constexpr int64_t kBatchSize = 32, kMaxLength = 64;

bool Go(int64_t, int64_t) { return true; }

proto::JobOffer Job(const DataFolder& data) {
  proto::JobOffer job;
  job.set_job_id("bench");
  job.mutable_adapter()->set_form("lora");
  job.mutable_adapter()->set_head(true);
  auto& fields = *job.mutable_adapter()->mutable_config()->mutable_fields();
  fields["rank"].set_number_value(8);
  fields["alpha"].set_number_value(16);
  for (const char* module : {"query", "value"})
    fields["target_modules"].mutable_list_value()->add_values()->set_string_value(module);
  job.mutable_task()->set_type(data.task());
  for (const std::string& label : data.labels()) job.mutable_task()->add_labels(label);
  return job;
}

proto::Plan Plan(int64_t steps) {
  proto::Plan plan;
  plan.set_job_id("bench");
  for (const char* role : {"lora_a", "lora_b", "head"}) plan.add_roles_trained(role);
  plan.mutable_training()->set_steps(steps);
  plan.mutable_training()->set_batch_size(kBatchSize);
  plan.mutable_training()->set_max_length(kMaxLength);
  return plan;
}

class Bench {
 public:
  Bench(std::unique_ptr<Trainer> trainer, DataFolder data, Adapter adapter, nlohmann::json config)
      : trainer_(std::move(trainer)),
        data_(std::move(data)),
        adapter_(std::move(adapter)),
        config_(std::move(config)) {}

  absl::StatusOr<Json> Batches(uint64_t seed, int64_t steps) const {
    BatchSchedule schedule(data_.rows("train"), kBatchSize, seed);
    Json batches = Json::array();
    for (int64_t i = 0; i < steps; ++i) batches.push_back(schedule.Next());
    return Json{{"batches", batches}};
  }

  absl::StatusOr<Json> Train(uint64_t seed, int64_t steps) {
    const CohortMember member = {.client_id = "bench", .start = &adapter_, .shard = data_.split("train"), .seed = seed};
    WEFT_ASSIGN_OR_RETURN(std::vector<TrainResult> results, trainer_->Train(Plan(steps), {&member, 1}, Go));
    adapter_ = std::move(results[0].adapter);
    return Json{{"seconds", results[0].metrics.seconds()}, {"tokens", results[0].metrics.tokens()}};
  }

  absl::StatusOr<Json> Evaluate(int64_t rows) {
    const CohortMember member = {.client_id = "bench", .start = &adapter_, .shard = data_.split("test"), .seed = 0};
    proto::EvaluationPlan plan;
    plan.set_job_id("bench");
    plan.set_rows(rows);
    plan.set_max_length(kMaxLength);
    WEFT_ASSIGN_OR_RETURN(const std::vector<proto::Evaluation> results, trainer_->Evaluate(plan, {&member, 1}, Go));
    return Json{{"accuracy", static_cast<double>(results[0].correct()) / results[0].examples()}};
  }

  // Products of one layer, forward and to its input.
  absl::StatusOr<Json> Matmul(int64_t tokens) const {
    const int64_t hidden = config_["hidden_size"], intermediate = config_["intermediate_size"];
    const at::Tensor x = at::randn({tokens, hidden}), wide = at::randn({tokens, intermediate});
    const at::Tensor square = at::randn({hidden, hidden}), up = at::randn({intermediate, hidden}),
                     down = at::randn({hidden, intermediate});
    const auto layer = [&] {
      for (int i = 0; i < 4; ++i) {
        at::mm(x, square.t());
        at::mm(x, square);
      }
      at::mm(x, up.t());
      at::mm(wide, up);
      at::mm(wide, down.t());
      at::mm(x, down);
    };
    layer();
    constexpr int kTimes = 20;
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < kTimes; ++i) layer();
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    const double flops = 4.0 * tokens * hidden * (4 * hidden + 2 * intermediate) * kTimes;
    return Json{{"flops_per_second", flops / seconds}};
  }

  absl::StatusOr<Json> Answer(const std::string& line) {
    std::istringstream words(line);
    std::string command;
    int64_t first = 0, second = 0;
    words >> command >> first >> second;
    if (command == "batches") return Batches(first, second);
    if (command == "train") return Train(first, second);
    if (command == "evaluate") return Evaluate(first);
    if (command == "matmul") return Matmul(first);
    return absl::InvalidArgumentError(absl::StrCat("unknown command \"", line, "\""));
  }

 private:
  const std::unique_ptr<Trainer> trainer_;
  const DataFolder data_;
  Adapter adapter_;
  const nlohmann::json config_;
};

absl::Status Run(const std::string& base, const std::string& data_folder, int threads) {
  at::set_num_threads(threads);
  WEFT_ASSIGN_OR_RETURN(std::unique_ptr<Trainer> trainer,
                        CreateTorchTrainer({.base = base, .device = "cpu", .threads = threads}));
  WEFT_ASSIGN_OR_RETURN(DataFolder data, DataFolder::Open(data_folder));
  const proto::JobOffer job = Job(data);
  WEFT_ASSIGN_OR_RETURN(const std::shared_ptr<const Layout> layout, trainer->PrepareJob(job));
  WEFT_ASSIGN_OR_RETURN(const std::string config, ReadFile(base + "/config.json"));
  WEFT_ASSIGN_OR_RETURN(const BaseDescription description, DescribeBase(config));
  WEFT_ASSIGN_OR_RETURN(Adapter adapter, MakeInitialAdapter(job.adapter(), description, layout, /*seed=*/42));
  Bench bench(std::move(trainer), std::move(data), std::move(adapter), description.config);
  for (std::string line; std::getline(std::cin, line);) {
    WEFT_ASSIGN_OR_RETURN(const Json answer, bench.Answer(line));
    std::cout << answer.dump() << std::endl;
  }
  return absl::OkStatus();
}

}  // namespace
}  // namespace weft

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fprintf(stderr, "usage: trainer_bench BASE_FOLDER DATA_FOLDER THREADS\n");
    return weft::kExitUsage;
  }
  const absl::Status status = weft::Run(argv[1], argv[2], std::atoi(argv[3]));
  if (status.ok()) return weft::kExitOk;
  std::fprintf(stderr, "%s\n", weft::ErrorLine("trainer_bench", status).c_str());
  return weft::ExitCodeFor(status);
}
