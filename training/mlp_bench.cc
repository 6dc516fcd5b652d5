// Time of one local step of a small network, all of it overhead but a few microseconds of arithmetic: 64-96-96-10 with
// LoRA of rank 4 on both hidden layers, head frozen, batches of 32.
//   mlp_bench [STEPS]     prints mlp_sgd_step_microseconds=, mlp_adamw_step_microseconds=

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>

#include "absl/strings/str_cat.h"
#include "adapters/forms/form.h"
#include "common/exit_code.h"
#include "common/random.h"
#include "common/status_macros.h"
#include "training/data/test_data.h"
#include "training/models/test_mlp.h"
#include "training/trainer.h"

namespace weft {
namespace {

constexpr int64_t kFeatures = 64, kLabels = 10, kRows = 320;

proto::JobOffer Job() {
  proto::JobOffer job;
  job.set_job_id("bench");
  job.mutable_adapter()->set_form("lora");
  job.mutable_adapter()->set_head(false);
  auto& fields = *job.mutable_adapter()->mutable_config()->mutable_fields();
  fields["rank"].set_number_value(4);
  fields["alpha"].set_number_value(8);
  for (const char* module : {"layers.0", "layers.1"})
    fields["target_modules"].mutable_list_value()->add_values()->set_string_value(module);
  job.mutable_task()->set_type("sequence_classification");
  for (int64_t i = 0; i < kLabels; ++i) job.mutable_task()->add_labels(absl::StrCat(i));
  return job;
}

TestFeatures RandomRows() {
  TestFeatures split;
  Philox random(/*seed=*/2, StreamId("rows"));
  for (int64_t i = 0; i < kRows; ++i) {
    std::vector<float> row(kFeatures);
    for (float& value : row) value = static_cast<float>(random.NextNormal());
    split.Add(row, static_cast<int32_t>(i % kLabels));
  }
  return split;
}

absl::Status Run(const std::string& folder, int64_t steps) {
  const TestMlp mlp({kFeatures, 96, 96, kLabels});
  WEFT_RETURN_IF_ERROR(mlp.Write(folder + "/base"));
  WEFT_RETURN_IF_ERROR(WriteTestFeatures(folder + "/rows", RandomRows()));
  WEFT_ASSIGN_OR_RETURN(const std::unique_ptr<DataShard> shard, DataShard::Open(folder + "/rows", kLabels));
  WEFT_ASSIGN_OR_RETURN(const std::unique_ptr<Trainer> trainer,
                        CreateTorchTrainer({.base = folder + "/base", .device = "cpu", .threads = 1}));
  WEFT_ASSIGN_OR_RETURN(const std::shared_ptr<const Layout> layout, trainer->PrepareJob(Job()));
  WEFT_ASSIGN_OR_RETURN(const BaseDescription description, DescribeBase(mlp.config.dump()));
  WEFT_ASSIGN_OR_RETURN(const Adapter start, MakeInitialAdapter(Job().adapter(), description, layout, /*seed=*/1));
  const CohortMember member = {.client_id = "bench", .start = &start, .shard = shard.get(), .seed = 1};
  for (const char* optimizer : {"sgd", "adamw"}) {
    proto::Plan plan;
    plan.set_job_id("bench");
    for (const char* role : {"lora_a", "lora_b"}) plan.add_roles_trained(role);
    plan.mutable_training()->set_optimizer(optimizer);
    plan.mutable_training()->set_learning_rate(0.01);
    plan.mutable_training()->set_batch_size(32);
    double best = 0;
    for (int repeat = 0; repeat < 5; ++repeat) {
      plan.mutable_training()->set_steps(steps);
      WEFT_ASSIGN_OR_RETURN(const std::vector<absl::StatusOr<TrainResult>> results,
                            trainer->Train(plan, {&member, 1}, [](int64_t, int64_t) { return true; }));
      const double microseconds = results[0]->metrics.seconds() / static_cast<double>(steps) * 1e6;
      if (repeat == 0 || microseconds < best) best = microseconds;
    }
    std::printf("mlp_%s_step_microseconds=%.1f\n", optimizer, best);
  }
  return absl::OkStatus();
}

}  // namespace
}  // namespace weft

int main(int argc, char** argv) {
  const std::string folder = std::filesystem::temp_directory_path() / absl::StrCat("weft_mlp_bench.", getpid());
  const absl::Status status = weft::Run(folder, argc > 1 ? std::atoll(argv[1]) : 2000);
  std::filesystem::remove_all(folder);
  if (status.ok()) return weft::kExitOk;
  std::fprintf(stderr, "%s\n", weft::ErrorLine("mlp_bench", status).c_str());
  return weft::ExitCodeFor(status);
}
