// sim_bench CLIENTS KILOBYTES ROUNDS THREADS FOLDER: rounds over virtual clients that compute nothing.
//
// Each client gives back what it got plus a number of its own, one on average: an update of its own buffer, taken in as
// a coordinator does, checked and folded, over the engine of a simulation, whose rounds are committed to a journal in
// FOLDER. Prints {"client_rounds_per_second": median over rounds, "wrong": elements of the last state that are not what
// they must be, and updates that have not counted}.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "adapters/base.h"
#include "adapters/forms/form.h"
#include "adapters/safetensors.h"
#include "common/file.h"
#include "common/status_macros.h"
#include "proto/schema.h"
#include "simulation/engine/engine.h"

namespace weft::simulation {
namespace {

// What it computes costs one pass over the adapter. Client i of n adds 2 (i + 1) / (n + 1), so that an update that is
// lost, counted twice or weighed otherwise moves the mean.
class AddingTrainer : public Trainer {
 public:
  AddingTrainer(BaseDescription base, int64_t clients) : base_(std::move(base)), clients_(clients) {}

  absl::StatusOr<std::shared_ptr<const Layout>> PrepareJob(const proto::JobOffer& job) override {
    return MakeLayout(job.adapter(), job.task(), base_);
  }
  absl::StatusOr<std::vector<absl::StatusOr<TrainResult>>> Train(const proto::Plan&,
                                                                 std::span<const CohortMember> cohort,
                                                                 const ProgressFunction&) override {
    std::vector<absl::StatusOr<TrainResult>> results;
    for (const CohortMember& member : cohort) {
      Adapter trained(member.start->layout_ptr());
      const std::span<const float> from = member.start->values();
      const std::span<float> to = trained.values();
      int64_t number = 0;
      if (!absl::SimpleAtoi(member.client_id.substr(member.client_id.rfind('-') + 1), &number)) {
        return absl::InternalError("a client without a number");
      }
      const auto own = static_cast<float>(2.0 * static_cast<double>(number + 1) / static_cast<double>(clients_ + 1));
      for (size_t i = 0; i < from.size(); ++i) to[i] = from[i] + own;
      results.emplace_back(TrainResult{std::move(trained), {}});
    }
    return results;
  }
  absl::StatusOr<std::vector<absl::StatusOr<proto::Evaluation>>> Evaluate(const proto::EvaluationPlan&,
                                                                          std::span<const CohortMember>,
                                                                          const ProgressFunction&) override {
    return absl::UnimplementedError("nothing to evaluate");
  }
  absl::Status AddToBase(const std::string&, int64_t, const Adapter&) override { return absl::OkStatus(); }
  int64_t base_round(const std::string&) const override { return 0; }
  void ResetBase(const std::string&) override {}
  const std::string& base_hash() const override { return hash_; }
  const std::string& device() const override { return device_; }

 private:
  const BaseDescription base_;
  const int64_t clients_;
  const std::string hash_ = std::string(64, '0'), device_ = "none";
};

absl::Status WriteData(const std::string& folder, int64_t width) {
  WEFT_RETURN_IF_ERROR(MakeDirectories(folder));
  const std::vector<float> features(static_cast<size_t>(width), 0.5f);
  const std::vector<int32_t> labels = {0};
  WEFT_RETURN_IF_ERROR(WriteSafetensors(folder + "/train.safetensors",
                                        {{"features", "F32", {1, width}, std::as_bytes(std::span(features))},
                                         {"labels", "I32", {1}, std::as_bytes(std::span(labels))}}));
  return WriteFileAtomically(
      folder + "/manifest.json",
      std::string_view(R"({"format": "weft-data", "version": 1, "task": "sequence_classification",
      "labels": ["a", "b"], "splits": {"train": {"file": "train.safetensors", "rows": 1}}})"));
}

absl::Status Bench(int64_t clients, int64_t kilobytes, int64_t rounds, int threads, const std::string& folder) {
  // LoRA of rank 4 on one linear module of width x width: 8 x width numbers.
  const int64_t width = kilobytes * 1000 / 4 / 8;
  const std::string config_json =
      absl::StrCat(R"({"model_type": "mlp", "sizes": [)", width, ", ", width, R"(, 2], "activation": "relu"})");
  WEFT_ASSIGN_OR_RETURN(BaseDescription base, DescribeBase(config_json));
  AddingTrainer trainer(base, clients);
  WEFT_RETURN_IF_ERROR(WriteData(folder + "/data", width));

  proto::Scenario scenario;
  proto::JobConfig& job = *scenario.mutable_job();
  job.set_name("empty");
  job.mutable_base()->set_config_json(config_json);
  job.mutable_base()->set_hash(trainer.base_hash());
  job.mutable_adapter()->set_head(false);
  auto& form = *job.mutable_adapter()->mutable_config()->mutable_fields();
  form["rank"].set_number_value(4);
  form["target_modules"].mutable_list_value()->add_values()->set_string_value("layers.0");
  for (const char* label : {"a", "b"}) job.mutable_task()->add_labels(label);
  job.mutable_stop()->set_rounds(rounds);
  job.mutable_evaluation()->set_every(0);
  scenario.mutable_population()->set_clients(clients);
  scenario.mutable_population()->set_rows_per_client(1);
  proto::ApplyDefaults(&scenario);

  Population::Options made{.config = scenario.population(), .seed = 1, .data = {}};
  WEFT_ASSIGN_OR_RETURN(DataFolder data, DataFolder::Open(folder + "/data"));
  made.data.emplace("data", std::move(data));
  WEFT_ASSIGN_OR_RETURN(const std::unique_ptr<Population> population, Population::Create(std::move(made)));
  WEFT_ASSIGN_OR_RETURN(const std::unique_ptr<Behaviour> behaviour,
                        Behaviour::Create({.config = scenario.behaviour(), .clients = population->size(), .seed = 1}));
  proto::CoordinatorConfig limits;
  limits.set_state_dir("none");
  proto::ApplyDefaults(&limits);
  Engine::Options options;
  options.scenario = scenario;
  WEFT_ASSIGN_OR_RETURN(const server::CheckedJob checked, server::CheckJob(scenario.job(), limits));
  WEFT_ASSIGN_OR_RETURN(const Adapter initial,
                        MakeInitialAdapter(checked.config.adapter(), base, checked.layout, checked.config.seed()));
  options.site = {&checked, &trainer, population.get(), behaviour.get(), threads};
  options.tokens_per_pass = 4;  // four clients a group
  options.folder = folder + "/run";
  WEFT_ASSIGN_OR_RETURN(const std::unique_ptr<Engine> engine, Engine::Create(std::move(options)));
  std::vector<double> marks = {absl::ToDoubleSeconds(absl::Now() - absl::UnixEpoch())};
  int64_t wrong = 0;
  WEFT_RETURN_IF_ERROR(engine->Run([&](const proto::RoundStatus& round) {
    wrong += clients - round.updates();
    marks.push_back(absl::ToDoubleSeconds(absl::Now() - absl::UnixEpoch()));
    return true;
  }));
  std::vector<double> seconds;
  for (size_t i = 1; i < marks.size(); ++i) seconds.push_back(marks[i] - marks[i - 1]);
  std::nth_element(seconds.begin(), seconds.begin() + seconds.size() / 2, seconds.end());
  for (size_t i = 0; i < initial.values().size(); ++i) {
    const float wanted = initial.values()[i] + static_cast<float>(rounds);
    wrong += std::abs(engine->state()->values()[i] - wanted) < 1e-5f * wanted ? 0 : 1;
  }
  std::printf("{\"client_rounds_per_second\": %.1f, \"round_seconds\": %.5f, \"wrong\": %lld}\n",
              static_cast<double>(clients) / seconds[seconds.size() / 2], seconds[seconds.size() / 2],
              static_cast<long long>(wrong));
  return absl::OkStatus();
}

int Main(int argc, char** argv) {
  int64_t numbers[4] = {};
  bool valid = argc == 6;
  for (int i = 0; valid && i < 4; ++i) valid = absl::SimpleAtoi(argv[i + 1], &numbers[i]) && numbers[i] > 0;
  if (!valid) {
    std::fprintf(stderr, "sim_bench: expected CLIENTS KILOBYTES ROUNDS THREADS FOLDER\n");
    return 2;
  }
  const absl::Status status = Bench(numbers[0], numbers[1], numbers[2], static_cast<int>(numbers[3]), argv[5]);
  if (status.ok()) return 0;
  std::fprintf(stderr, "sim_bench: %s\n", status.ToString().c_str());
  return 1;
}

}  // namespace
}  // namespace weft::simulation

int main(int argc, char** argv) { return weft::simulation::Main(argc, argv); }
