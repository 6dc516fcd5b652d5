// Helper of tests/golden/*_parity.py: one forward and backward pass of a base with an adapter, written down for
// comparison.
//   model_logits BASE_FOLDER JOB.json ADAPTER.safetensors SHARD.safetensors OUT.safetensors
// JOB.json is a JobOffer as JSON. ADAPTER holds every tensor of the layout by name. OUT gets "logits" [rows, labels]
// and, per adapter tensor, the gradient of the mean cross-entropy over all rows as one batch.

#include <google/protobuf/util/json_util.h>

#include <cstdio>
#include <cstring>
#include <numeric>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "adapters/adapter.h"
#include "adapters/forms/form.h"
#include "adapters/safetensors.h"
#include "common/exit_code.h"
#include "common/file.h"
#include "common/status_macros.h"
#include "proto/plan.pb.h"
#include "proto/schema.h"
#include "training/adapter_tensors.h"
#include "training/base_model.h"
#include "training/cross_entropy.h"
#include "training/data/shard.h"
#include "training/torch_errors.h"

namespace weft {
namespace {

absl::StatusOr<proto::JobOffer> ReadJob(const std::string& path) {
  WEFT_ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  proto::JobOffer job;
  if (const auto status = google::protobuf::util::JsonStringToMessage(text, &job); !status.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": ", status.ToString()));
  }
  proto::ApplyDefaults(job.mutable_adapter());
  return job;
}

absl::StatusOr<Adapter> ReadAdapter(const std::string& path, const std::shared_ptr<const Layout>& layout) {
  WEFT_ASSIGN_OR_RETURN(const SafetensorsFile file, SafetensorsFile::Open(path));
  Adapter adapter(layout);
  for (const TensorSpec& spec : layout->tensors()) {
    WEFT_ASSIGN_OR_RETURN(const SafetensorView view, file.Find(spec.name));
    if (view.shape != spec.shape || view.dtype != "F32") {
      return absl::InvalidArgumentError(absl::StrCat(path, ": ", spec.name, " does not fit the layout"));
    }
    std::memcpy(adapter.tensor(spec).data(), view.data.data(), view.data.size());
  }
  return adapter;
}

SafetensorToWrite Tensor(const std::string& name, const at::Tensor& tensor) {
  return {.name = name,
          .dtype = "F32",
          .shape = tensor.sizes().vec(),
          .data = {static_cast<const std::byte*>(tensor.const_data_ptr()), tensor.nbytes()}};
}

absl::Status Run(char** paths) {
  WEFT_ASSIGN_OR_RETURN(const std::unique_ptr<BaseModel> base, BaseModel::Open(paths[1], at::kCPU));
  WEFT_ASSIGN_OR_RETURN(const proto::JobOffer job, ReadJob(paths[2]));
  const int64_t labels = job.task().labels_size();
  WEFT_ASSIGN_OR_RETURN(const std::shared_ptr<const Layout> layout,
                        MakeLayout(job.adapter(), job.task(), base->description()));
  WEFT_ASSIGN_OR_RETURN(const Adapter adapter, ReadAdapter(paths[3], layout));
  std::set<std::string> roles;
  for (const TensorSpec& spec : layout->tensors()) roles.insert(spec.role);
  const AdapterTensors tensors(adapter, roles, /*rank=*/0, base->device());
  WEFT_ASSIGN_OR_RETURN(const std::unique_ptr<TorchForm> form, CreateTorchForm(job.adapter()));
  WEFT_ASSIGN_OR_RETURN(const Classifier classifier,
                        Classifier::Create(*base, base->model().linears(), *form, tensors.tensors(), labels));
  WEFT_ASSIGN_OR_RETURN(const std::unique_ptr<DataShard> shard, DataShard::Open(paths[4], labels));
  std::vector<int64_t> rows(shard->rows());
  WEFT_RETURN_IF_ERROR(base->model().CheckShard(*shard));
  std::iota(rows.begin(), rows.end(), 0);
  WEFT_ASSIGN_OR_RETURN(const Batch batch, base->model().MakeBatch(*shard, rows, base->model().max_length(), labels));
  DropoutSource no_dropout;
  const at::Tensor logits = classifier.Logits(batch, no_dropout);
  logits.backward(MeanCrossEntropy(logits.detach(), batch.labels).gradient);
  std::vector<SafetensorToWrite> out = {Tensor("logits", logits)};
  for (const auto& [name, tensor] : tensors.tensors()) out.push_back(Tensor(name, tensor.grad()));
  return WriteSafetensors(paths[5], out);
}

}  // namespace
}  // namespace weft

int main(int argc, char** argv) {
  if (argc != 6) {
    std::fprintf(stderr,
                 "usage: model_logits BASE_FOLDER JOB.json ADAPTER.safetensors SHARD.safetensors OUT.safetensors\n");
    return weft::kExitUsage;
  }
  const absl::Status status = weft::CatchTorch([&] { return weft::Run(argv); });
  if (status.ok()) return weft::kExitOk;
  std::fprintf(stderr, "%s\n", weft::ErrorLine("model_logits", status).c_str());
  return weft::ExitCodeFor(status);
}
