// Helper of tests/golden: one forward and backward pass of a base with adapters, written down for comparison.
//   model_logits BASE_FOLDER JOB.json SHARD.safetensors OUT.safetensors COMPUTE ADAPTER.safetensors[@RANK]...
// JOB.json is a JobOffer as JSON. Each ADAPTER holds every tensor of the layout by name, of which a member of RANK uses
// its part; all of them take the shard's rows in one pass. OUT gets "outputs" (training/objective.h) and, per adapter
// tensor, the gradient of the mean loss over all rows as one batch: under their own names for the first adapter, after
// "1." for the second, and so on. Without arguments each line of stdin is a run, words with spaces between, and is
// answered by a line: "ok", or what went wrong.

#include <google/protobuf/util/json_util.h>

#include <cstdio>
#include <cstring>
#include <iostream>
#include <iterator>
#include <numeric>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "adapters/adapter.h"
#include "adapters/forms/form.h"
#include "adapters/safetensors.h"
#include "common/exit_code.h"
#include "common/file.h"
#include "common/status_macros.h"
#include "proto/plan.pb.h"
#include "proto/schema.h"
#include "training/base_model.h"
#include "training/cohort_tensors.h"
#include "training/data/shard.h"
#include "training/objective.h"
#include "training/torch_errors.h"

namespace weft {
namespace {

struct Arguments {
  std::string base, job, shard, out, compute;
  std::vector<std::string> adapters;
};

absl::StatusOr<proto::JobOffer> ReadJob(const std::string& path) {
  WEFT_ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  proto::JobOffer job;
  if (const auto status = google::protobuf::util::JsonStringToMessage(text, &job); !status.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": ", status.ToString()));
  }
  proto::ApplyDefaults(job.mutable_adapter());
  proto::ApplyDefaults(job.mutable_task());
  return job;
}

struct MemberAdapter {
  Adapter adapter;
  int64_t rank = 0;
};

absl::StatusOr<MemberAdapter> ReadAdapter(const std::string& word, const std::shared_ptr<const Layout>& layout) {
  const std::vector<std::string> parts = absl::StrSplit(word, absl::MaxSplits('@', 1));
  const std::string& path = parts[0];
  WEFT_ASSIGN_OR_RETURN(const SafetensorsFile file, SafetensorsFile::Open(path));
  MemberAdapter member{.adapter = Adapter(layout)};
  if (parts.size() > 1 && !absl::SimpleAtoi(parts[1], &member.rank)) {
    return absl::InvalidArgumentError(absl::StrCat("found rank \"", parts[1], "\", expected a number"));
  }
  for (const TensorSpec& spec : layout->tensors()) {
    WEFT_ASSIGN_OR_RETURN(const SafetensorView view, file.Find(spec.name));
    if (view.shape != spec.shape || view.dtype != "F32") {
      return absl::InvalidArgumentError(absl::StrCat(path, ": ", spec.name, " does not fit the layout"));
    }
    std::memcpy(member.adapter.tensor(spec).data(), view.data.data(), view.data.size());
  }
  return member;
}

SafetensorToWrite Tensor(const std::string& name, const at::Tensor& tensor) {
  return {.name = name,
          .dtype = "F32",
          .shape = tensor.sizes().vec(),
          .data = {static_cast<const std::byte*>(tensor.const_data_ptr()), tensor.nbytes()}};
}

absl::Status Run(const Arguments& arguments) {
  WEFT_ASSIGN_OR_RETURN(const std::unique_ptr<BaseModel> base, BaseModel::Open(arguments.base, at::kCPU));
  WEFT_ASSIGN_OR_RETURN(const proto::JobOffer job, ReadJob(arguments.job));
  WEFT_ASSIGN_OR_RETURN(const std::shared_ptr<const Layout> layout,
                        MakeLayout(job.adapter(), job.task(), base->description()));
  WEFT_ASSIGN_OR_RETURN(const std::unique_ptr<TorchForm> form, CreateTorchForm(job.adapter()));
  WEFT_ASSIGN_OR_RETURN(const std::unique_ptr<Objective> objective,
                        Objective::Create({base.get(), &job.task(), &base->model().linears()}));
  WEFT_ASSIGN_OR_RETURN(const std::unique_ptr<DataShard> shard,
                        DataShard::Open(arguments.shard, job.task().labels_size()));
  WEFT_RETURN_IF_ERROR(base->model().CheckShard(*shard, job.task().type()));
  std::vector<MemberAdapter> adapters;
  for (const std::string& word : arguments.adapters) {
    WEFT_ASSIGN_OR_RETURN(MemberAdapter adapter, ReadAdapter(word, layout));
    adapters.push_back(std::move(adapter));
  }
  std::vector<int64_t> rows(shard->rows());
  std::iota(rows.begin(), rows.end(), 0);
  std::vector<CohortMember> members;
  std::vector<MemberRows> member_rows;
  for (const MemberAdapter& adapter : adapters) {
    members.push_back({.client_id = "", .start = &adapter.adapter, .shard = shard.get(), .rank = adapter.rank});
    member_rows.push_back({.shard = shard.get(), .rows = rows, .max_length = 4096});
  }
  std::set<std::string> roles;
  for (const TensorSpec& spec : layout->tensors()) roles.insert(spec.role);
  const CohortTensors tensors(members, roles, {}, base->device());
  WEFT_ASSIGN_OR_RETURN(const AttachedForm attached, form->Attach(base->description(), tensors.members()));
  int64_t member = 0;
  WEFT_ASSIGN_OR_RETURN(const Batch batch, base->model().MakeBatch(member_rows,
                                                                   {.num_labels = job.task().labels_size(),
                                                                    .prompt_tokens = form->prompt_tokens(),
                                                                    .read = objective->read()},
                                                                   &member));
  Pass pass({.form = &attached,
             .random = nullptr,
             .dtype = arguments.compute == "bf16" ? at::kBFloat16 : at::kFloat,
             .checkpointing = arguments.compute == "checkpointed"});
  const at::Tensor hidden = base->model().Forward(batch, base->model().linears(), pass);
  WEFT_ASSIGN_OR_RETURN(at::Tensor outputs, objective->Outputs(batch, hidden, tensors.members(), pass));
  outputs = outputs.detach().clone();
  const int64_t counted = objective->Counted(*shard, rows, 4096, form->prompt_tokens());
  WEFT_RETURN_IF_ERROR(objective
                           ->Learn(batch, hidden, tensors.members(),
                                   std::vector<double>(adapters.size(), 1 / static_cast<double>(counted)),
                                   /*label_smoothing=*/0, pass)
                           .status());
  const std::vector<at::Tensor> of_member = outputs.chunk(static_cast<int64_t>(adapters.size()));
  std::vector<SafetensorToWrite> out;
  for (size_t k = 0; k < adapters.size(); ++k) {
    const std::string before = k == 0 ? "" : absl::StrCat(k, ".");
    out.push_back(Tensor(before + "outputs", of_member[k]));
    for (const auto& [name, tensor] : tensors.members()[k]) out.push_back(Tensor(before + name, tensor.gradient));
  }
  return WriteSafetensors(arguments.out, out);
}

constexpr char kUsage[] =
    "BASE_FOLDER JOB.json SHARD.safetensors OUT.safetensors f32|bf16|checkpointed ADAPTER.safetensors[@RANK]...";

absl::Status RunWords(const std::vector<std::string>& words) {
  if (words.size() < 6) return absl::InvalidArgumentError(absl::StrCat("usage: model_logits ", kUsage));
  const Arguments arguments{words[0], words[1], words[2], words[3], words[4], {words.begin() + 5, words.end()}};
  return CatchTorch([&] { return Run(arguments); });
}

}  // namespace
}  // namespace weft

int main(int argc, char** argv) {
  if (argc > 1) {
    const absl::Status status = weft::RunWords({argv + 1, argv + argc});
    if (status.ok()) return weft::kExitOk;
    std::fprintf(stderr, "%s\n", weft::ErrorLine("model_logits", status).c_str());
    return weft::ExitCodeFor(status);
  }
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream words(line);
    const absl::Status status = weft::RunWords({std::istream_iterator<std::string>(words), {}});
    std::cout << (status.ok() ? "ok" : weft::ErrorLine("model_logits", status)) << std::endl;
  }
  return weft::kExitOk;
}
