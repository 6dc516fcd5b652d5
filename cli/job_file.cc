#include "cli/job_file.h"

#include <memory>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "adapters/base.h"
#include "adapters/forms/form.h"
#include "adapters/peft_folder.h"
#include "common/file.h"
#include "common/status_macros.h"
#include "config/yaml.h"

namespace weft::cli {
namespace {

absl::Status Under(const std::string& key, const absl::Status& status) {
  return absl::Status(status.code(), absl::StrCat(key, ": ", status.message()));
}

absl::Status FillBase(proto::BaseConfig* base) {
  if (base->path().empty()) {
    return absl::InvalidArgumentError("base.path: found nothing, expected the Hugging Face folder of the base");
  }
  absl::StatusOr<std::string> hash = HashBase(base->path());
  if (!hash.ok()) return Under("base.path", hash.status());
  if (!base->hash().empty() && base->hash() != *hash) {
    return absl::InvalidArgumentError(absl::StrCat("base.hash: found ", base->hash(), " in the job, expected ", *hash,
                                                   " of the folder ", base->path(),
                                                   "; remove base.hash or use that base"));
  }
  base->set_hash(*std::move(hash));
  WEFT_ASSIGN_OR_RETURN(*base->mutable_config_json(), ReadFile(absl::StrCat(base->path(), "/config.json")));
  return absl::OkStatus();
}

absl::Status FillLabels(proto::TaskConfig* task) {
  if (!task->labels_file().empty()) {
    if (task->labels_size() > 0) {
      return absl::InvalidArgumentError(
          "task: found both labels and labels_file, expected one of them; remove the other");
    }
    const absl::StatusOr<std::string> text = ReadFile(task->labels_file());
    if (!text.ok()) return Under("task.labels_file", text.status());
    for (const absl::string_view line : absl::StrSplit(absl::StripSuffix(*text, "\n"), '\n')) {
      task->add_labels(std::string(absl::StripSuffix(line, "\r")));
    }
    task->clear_labels_file();  // means nothing on the coordinator's machine
  }
  std::set<std::string> seen;
  for (int i = 0; i < task->labels_size(); ++i) {
    const std::string& label = task->labels(i);
    if (label.empty()) return absl::InvalidArgumentError(absl::StrCat("task.labels: label ", i, " is empty; name it"));
    if (seen.insert(label).second) continue;
    return absl::InvalidArgumentError(absl::StrCat("task.labels: \"", label, "\" is there twice; remove one"));
  }
  if (task->labels_size() >= 2 || !IsClassification(*task)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("task.labels: found ", task->labels_size(),
                                                 " labels, expected at least 2; give labels or labels_file"));
}

// The layout says nothing of alpha, yet A and B made under one scale are another adapter under another.
absl::Status CheckScale(const proto::AdapterConfig& job, const proto::AdapterConfig& folder,
                        const BaseDescription& base) {
  WEFT_ASSIGN_OR_RETURN(const std::unique_ptr<Form> ours, CreateForm(job));
  WEFT_ASSIGN_OR_RETURN(const std::unique_ptr<Form> theirs, CreateForm(folder));
  for (const LinearModule& module : base.linears) {
    const double expected = ours->Scale(module.name), found = theirs->Scale(module.name);
    if (found == expected) continue;
    return absl::InvalidArgumentError(absl::StrCat("found an adapter made to act with scale ", found, " on module ",
                                                   module.name, ", expected the job's ", expected,
                                                   " (alpha / rank of lora); set adapter.config as the folder has it"));
  }
  return absl::OkStatus();
}

absl::StatusOr<Adapter> ReadWarmStart(const proto::JobConfig& config) {
  WEFT_ASSIGN_OR_RETURN(const BaseDescription base, DescribeBase(config.base().config_json()));
  WEFT_ASSIGN_OR_RETURN(std::shared_ptr<const Layout> layout, MakeLayout(config.adapter(), config.task(), base));
  absl::StatusOr<Adapter> adapter = ReadPeftFolder(config.warm_start(), std::move(layout), base, config.task().type());
  if (!adapter.ok()) return Under("warm_start", adapter.status());
  WEFT_ASSIGN_OR_RETURN(const proto::AdapterConfig folder, ReadPeftConfig(config.warm_start()));
  if (absl::Status status = CheckScale(config.adapter(), folder, base); !status.ok())
    return Under("warm_start", status);
  return adapter;
}

}  // namespace

absl::StatusOr<LoadedJob> LoadJob(const std::string& path, const std::vector<std::string>& overrides) {
  LoadedJob job;
  WEFT_RETURN_IF_ERROR(config::LoadYaml(path, overrides, &job.config));
  WEFT_RETURN_IF_ERROR(FillBase(job.config.mutable_base()));
  WEFT_RETURN_IF_ERROR(FillLabels(job.config.mutable_task()));
  if (!job.config.warm_start().empty()) {
    WEFT_ASSIGN_OR_RETURN(job.warm_start, ReadWarmStart(job.config));
  }
  return job;
}

}  // namespace weft::cli
