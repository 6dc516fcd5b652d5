// The trainer's half of tests/bench/train.py: holds a base and prepared data, and answers commands on stdin with one
// line of JSON each, so that another process can time it in turn with a peer.
//   trainer_bench BASE_FOLDER DATA_FOLDER THREADS
//   batches SEED STEPS BATCH          {"batches": [[row, ...], ...]}: what `train` will train on
//   train SEED STEPS BATCH COMPUTE    {"seconds": s, "tokens": n}: goes on from COMPUTE's adapter of the last `train`
//   evaluate ROWS COMPUTE             {"accuracy": a}: of that adapter on the test split
//   cohort CLIENTS ROWS STEPS COMPUTE {"together": s, "serial": s, "tokens": n}: clients of so many rows, in one pass
//                                     and one after another
//   matmul TOKENS COMPUTE             {"flops_per_second": f}: products of the encoder's own shapes, as the trainer
//                                     makes them, nothing else
//   save PATH                         {"path": PATH}: f32's adapter by name, as safetensors
//   memory                            {"peak_mb": m}: largest resident set so far
// LoRA r=8, alpha=16 on query and value, head trained, AdamW at 1e-3: the job of the benchmark.

#include <ATen/Parallel.h>
#include <ATen/ops/randn.h>
#include <c10/core/InferenceMode.h>
#include <sys/resource.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <map>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "adapters/base.h"
#include "adapters/forms/form.h"
#include "adapters/safetensors.h"
#include "common/exit_code.h"
#include "common/file.h"
#include "common/status_macros.h"
#include "nlohmann/json.hpp"
#include "training/data/schedule.h"
#include "training/models/frozen_linear.h"
#include "training/trainer.h"

namespace weft {
namespace {

using Json = nlohmann::json;

constexpr int64_t kMaxLength = 64;

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

proto::Plan Plan(int64_t steps, int64_t batch, const std::string& compute) {
  proto::Plan plan;
  plan.set_job_id("bench");
  for (const char* role : {"lora_a", "lora_b", "head"}) plan.add_roles_trained(role);
  plan.mutable_training()->set_steps(steps);
  plan.mutable_training()->set_batch_size(batch);
  plan.mutable_training()->set_max_length(kMaxLength);
  plan.mutable_training()->set_compute(compute);
  return plan;
}

double Now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// Every so many-th row of `from` as a shard of its own.
absl::StatusOr<std::unique_ptr<DataShard>> PickRows(const DataShard& from, int64_t first, int64_t step, int64_t count,
                                                    int64_t labels, const std::string& path) {
  std::vector<int32_t> ids, label;
  std::vector<int64_t> offsets = {0};
  for (int64_t i = 0; i < count; ++i) {
    const int64_t row = (first + i * step) % from.rows();
    ids.insert(ids.end(), from.row(row).begin(), from.row(row).end());
    offsets.push_back(static_cast<int64_t>(ids.size()));
    label.push_back(from.label(row));
  }
  const auto bytes = [](const auto& values) { return std::as_bytes(std::span(values)); };
  WEFT_RETURN_IF_ERROR(WriteSafetensors(path, {{"input_ids", "I32", {offsets.back()}, bytes(ids)},
                                               {"row_offsets", "I64", {count + 1}, bytes(offsets)},
                                               {"labels", "I32", {count}, bytes(label)}}));
  return DataShard::Open(path, labels);
}

class Bench {
 public:
  Bench(std::unique_ptr<Trainer> trainer, DataFolder data, Adapter adapter, BaseDescription base)
      : trainer_(std::move(trainer)), data_(std::move(data)), base_(std::move(base)) {
    adapters_.emplace("bf16", adapter.Clone());
    adapters_.emplace("f32", std::move(adapter));
  }

  absl::StatusOr<Json> Answer(const std::string& line) {
    std::istringstream words(line);
    std::string command;
    words >> command;
    if (command == "batches") return Batches(words);
    if (command == "train") return Train(words);
    if (command == "evaluate") return Evaluate(words);
    if (command == "cohort") return Cohort(words);
    if (command == "matmul") return Matmul(words);
    if (command == "save") return Save(words);
    if (command == "memory") return Memory();
    return absl::InvalidArgumentError(absl::StrCat("unknown command \"", line, "\""));
  }

 private:
  absl::StatusOr<Json> Batches(std::istream& words) const {
    int64_t seed = 0, steps = 0, batch = 0;
    words >> seed >> steps >> batch;
    BatchSchedule schedule(data_.rows("train"), batch, seed);
    Json batches = Json::array();
    for (int64_t i = 0; i < steps; ++i) batches.push_back(schedule.Next());
    return Json{{"batches", batches}};
  }

  absl::StatusOr<Json> Train(std::istream& words) {
    int64_t seed = 0, steps = 0, batch = 0;
    std::string compute;
    words >> seed >> steps >> batch >> compute;
    Adapter& adapter = adapters_.at(compute);
    const CohortMember member = {
        .client_id = "bench", .start = &adapter, .shard = data_.split("train"), .seed = static_cast<uint64_t>(seed)};
    WEFT_ASSIGN_OR_RETURN(auto results, trainer_->Train(Plan(steps, batch, compute), {&member, 1}, Go));
    WEFT_ASSIGN_OR_RETURN(TrainResult result, std::move(results[0]));
    adapter = std::move(result.adapter);
    return Json{{"seconds", result.metrics.seconds()}, {"tokens", result.metrics.tokens()}};
  }

  absl::StatusOr<Json> Evaluate(std::istream& words) {
    int64_t rows = 0;
    proto::EvaluationPlan plan;
    std::string compute;
    words >> rows >> compute;
    plan.set_job_id("bench");
    plan.set_rows(rows);
    plan.set_max_length(kMaxLength);
    plan.set_compute(compute);
    const CohortMember member = {.client_id = "bench", .start = &adapters_.at(compute), .shard = data_.split("test")};
    WEFT_ASSIGN_OR_RETURN(auto results, trainer_->Evaluate(plan, {&member, 1}, Go));
    WEFT_ASSIGN_OR_RETURN(const proto::Evaluation result, std::move(results[0]));
    return Json{{"accuracy", static_cast<double>(result.correct()) / static_cast<double>(result.examples())}};
  }

  absl::StatusOr<Json> Cohort(std::istream& words) {
    int64_t clients = 0, rows = 0, steps = 0;
    std::string compute;
    words >> clients >> rows >> steps >> compute;
    const std::string folder = absl::StrCat(std::filesystem::temp_directory_path().string(), "/weft-bench-", getpid());
    WEFT_RETURN_IF_ERROR(MakeDirectories(folder));
    std::vector<std::unique_ptr<DataShard>> shards;
    std::vector<CohortMember> members;
    const DataShard& from = *data_.split("train");
    for (int64_t k = 0; k < clients; ++k) {
      auto shard = PickRows(from, k, from.rows() / rows, rows, static_cast<int64_t>(data_.labels().size()),
                            absl::StrCat(folder, "/", k));
      WEFT_RETURN_IF_ERROR(shard.status());
      shards.push_back(*std::move(shard));
      members.push_back({.client_id = absl::StrCat(k),
                         .start = &adapters_.at(compute),
                         .shard = shards.back().get(),
                         .seed = static_cast<uint64_t>(k)});
    }
    std::filesystem::remove_all(folder);  // the mappings stay
    const proto::Plan plan = Plan(steps, rows, compute);
    int64_t tokens = 0;
    const double start = Now();
    WEFT_ASSIGN_OR_RETURN(const auto together, trainer_->Train(plan, members, Go));
    const double between = Now();
    for (const CohortMember& member : members) {
      WEFT_ASSIGN_OR_RETURN(const auto alone, trainer_->Train(plan, {&member, 1}, Go));
      WEFT_RETURN_IF_ERROR(alone[0].status());
      tokens += alone[0]->metrics.tokens();
    }
    const double end = Now();
    return Json{{"together", between - start}, {"serial", end - between}, {"tokens", tokens}};
  }

  // Products of one layer, forward and to its input, all modules that read the same input together.
  absl::StatusOr<Json> Matmul(std::istream& words) const {
    int64_t tokens = 0;
    std::string compute;
    words >> tokens >> compute;
    tokens = tokens / FrozenLinear::kRowMultiple * FrozenLinear::kRowMultiple;
    const at::ScalarType dtype = compute == "bf16" ? at::kBFloat16 : at::kFloat;
    const int64_t hidden = base_.transformer->hidden, wide = base_.transformer->intermediate;
    std::vector<FrozenLinear> linears;
    std::vector<at::Tensor> inputs, gradients;
    int64_t elements = 0;
    for (const auto& [out, in] : {std::pair{3 * hidden, hidden}, {hidden, hidden}, {wide, hidden}, {hidden, wide}}) {
      linears.push_back(FrozenLinear({{.weight = at::randn({out, in}), .bias = at::randn({out})}}, at::kCPU));
      inputs.push_back(at::randn({tokens, in}).to(dtype));
      gradients.push_back(at::randn({tokens, out}).to(dtype));
      elements += out * in;
    }
    const auto layer = [&] {
      for (size_t i = 0; i < linears.size(); ++i) {
        linears[i].Product(inputs[i]);
        linears[i].InputGradient(gradients[i]);
      }
    };
    const c10::InferenceMode no_gradients;
    layer();
    constexpr int kTimes = 20;
    const double start = Now();
    for (int i = 0; i < kTimes; ++i) layer();
    return Json{{"flops_per_second", 4.0 * static_cast<double>(tokens * elements * kTimes) / (Now() - start)}};
  }

  absl::StatusOr<Json> Save(std::istream& words) const {
    std::string path;
    words >> path;
    const Adapter& adapter = adapters_.at("f32");
    std::vector<SafetensorToWrite> tensors;
    for (const TensorSpec& spec : adapter.layout().tensors()) {
      tensors.push_back({spec.name, "F32", spec.shape, std::as_bytes(adapter.tensor(spec))});
    }
    WEFT_RETURN_IF_ERROR(WriteSafetensors(path, tensors));
    return Json{{"path", path}};
  }

  static absl::StatusOr<Json> Memory() {
    rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return Json{{"peak_mb", static_cast<double>(usage.ru_maxrss) / 1024}};
  }

  const std::unique_ptr<Trainer> trainer_;
  const DataFolder data_;
  const BaseDescription base_;
  std::map<std::string, Adapter> adapters_;  // by compute
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
  Bench bench(std::move(trainer), std::move(data), std::move(adapter), description);
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
