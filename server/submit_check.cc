#include "server/submit_check.h"

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "adapters/encoding_format.h"
#include "adapters/forms/form.h"
#include "aggregators/core/registry.h"
#include "common/status_macros.h"
#include "proto/schema.h"
#include "server/job/duration.h"

namespace weft::server {
namespace {

template <typename... Parts>
absl::Status Refused(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat(parts...));
}

absl::Status CheckBase(const proto::BaseConfig& base) {
  const bool hex = std::all_of(base.hash().begin(), base.hash().end(),
                               [](unsigned char c) { return absl::ascii_isdigit(c) || (c >= 'a' && c <= 'f'); });
  if (base.hash().size() != 64 || !hex) {
    return Refused("base.hash: found \"", base.hash(),
                   "\", expected 64 lower-case hex digits; submit with `weft submit`, ",
                   "which fills it from base.path");
  }
  if (base.config_json().empty()) {
    return Refused("base.config_json is empty; submit with `weft submit`, which fills it from base.path");
  }
  return absl::OkStatus();
}

absl::Status CheckEmbedding(const proto::TaskConfig& task) {
  proto::TaskConfig defaults;
  proto::ApplyDefaults(&defaults);
  const proto::EmbeddingConfig &found = task.embedding(), &unset = defaults.embedding();
  if (task.type() == "sentence_embedding") return absl::OkStatus();
  if (found.pooling() == unset.pooling() && found.temperature() == unset.temperature()) return absl::OkStatus();
  return Refused("task.embedding has no effect under task.type ", task.type(),
                 "; remove it or use type sentence_embedding");
}

absl::Status CheckTask(const proto::TaskConfig& task) {
  WEFT_RETURN_IF_ERROR(CheckEmbedding(task));
  if (!IsClassification(task)) return absl::OkStatus();  // that it has no labels is the layout's to check
  if (task.labels_size() < 2) {
    return Refused("task.labels: found ", task.labels_size(),
                   " labels, expected at least 2; name them in task.labels or ", "task.labels_file");
  }
  std::set<std::string> seen;
  for (const std::string& label : task.labels()) {
    if (label.empty()) return Refused("task.labels: found an empty label; give each label a name");
    if (!seen.insert(label).second) return Refused("task.labels: found \"", label, "\" twice; remove one");
  }
  return absl::OkStatus();
}

absl::Status CheckSelection(const proto::SelectionConfig& selection, const proto::RoundConfig& round) {
  const bool uniform = selection.rule() == "uniform";
  const bool poisson = selection.rule() == "poisson";
  if (uniform && !selection.has_clients()) {
    return Refused("selection.rule is uniform without selection.clients; say how many clients a round wants");
  }
  if (!uniform && selection.has_clients()) {
    return Refused("selection.clients has no effect under rule ", selection.rule(), "; remove it or use rule uniform");
  }
  if (!uniform && selection.over_select() != 1) {
    return Refused("selection.over_select has no effect under rule ", selection.rule(),
                   "; remove it or use rule uniform");
  }
  if (poisson && !selection.has_rate()) {
    return Refused("selection.rule is poisson without selection.rate; say with which probability a client is asked");
  }
  if (!poisson && selection.has_rate()) {
    return Refused("selection.rate has no effect under rule ", selection.rule(), "; remove it or use rule poisson");
  }
  if (uniform && round.min_updates() > selection.clients()) {
    return Refused("round.min_updates is ", round.min_updates(),
                   ", but a round closes at selection.clients = ", selection.clients(),
                   " updates; lower min_updates to ", selection.clients(), " or raise clients");
  }
  return absl::OkStatus();
}

absl::Status CheckTraining(const proto::TrainingConfig& training) {
  if (training.optimizer() != "sgd" && training.momentum() != 0) {
    return Refused("training.momentum is ", training.momentum(), ", but optimizer ", training.optimizer(),
                   " has none; set it to 0 or use optimizer sgd");
  }
  if (training.steps() > 0 && training.warmup_steps() >= training.steps()) {
    return Refused("training.warmup_steps is ", training.warmup_steps(),
                   ", but a round has training.steps = ", training.steps(),
                   ", so that learning_rate is never reached; lower warmup_steps to at most ", training.steps() - 1);
  }
  return absl::OkStatus();
}

// Images are as long as the base's patches make them; features have no length.
absl::Status CheckLength(const proto::TrainingConfig& training, const BaseDescription& base) {
  if (!base.transformer.has_value() || base.transformer->vocabulary == 0) return absl::OkStatus();
  const int64_t most = base.transformer->max_positions;
  if (training.max_length() <= most) return absl::OkStatus();
  return Refused("training.max_length: found ", training.max_length(), ", but this base has positions for ", most,
                 " tokens; lower it to at most ", most);
}

absl::Status CheckStop(const proto::StopConfig& stop, const proto::EvaluationConfig& evaluation) {
  if (evaluation.every() > 0) return absl::OkStatus();
  if (stop.has_target_accuracy() || stop.has_patience()) {
    return Refused("stop.", stop.has_patience() ? "patience" : "target_accuracy",
                   " needs evaluations, but evaluation.every is 0 (only after the last round); set it to 1 or more");
  }
  return absl::OkStatus();
}

absl::Status CheckProgress(const proto::RoundConfig& round, const proto::CoordinatorConfig& coordinator) {
  const absl::Duration interval = ToDuration(coordinator.progress_interval());
  const absl::Duration timeout = ToDuration(round.progress_timeout());
  if (timeout >= 2 * interval) return absl::OkStatus();
  return Refused("round.progress_timeout is ", absl::FormatDuration(timeout), ", but clients report only every ",
                 absl::FormatDuration(interval), "; raise it to at least ", absl::FormatDuration(2 * interval));
}

absl::Status CheckEncoding(const proto::EncodingConfig& encoding) {
  proto::EncodingConfig defaults;
  proto::ApplyDefaults(&defaults);
  if (encoding.values() == "topk" || encoding.density() == defaults.density()) return absl::OkStatus();
  return Refused("encoding.density has no effect under encoding.values ", encoding.values(),
                 "; remove it or use values topk");
}

absl::Status CheckPrivacy(const proto::PrivacyConfig& privacy) {
  if (!privacy.secure_aggregation()) return absl::OkStatus();
  return Refused(
      "privacy.secure_aggregation is not available yet: this coordinator sees each client's update; set it to false. ",
      "What works today is central differential privacy: aggregator dp around the rule bounds and hides what one ",
      "client adds to the model, and trusts the coordinator");
}

absl::Status CheckSize(const Layout& layout, const proto::EncodingConfig& encoding,
                       const proto::CoordinatorConfig& coordinator) {
  const auto refused = [](const std::string& found, const std::string& limit, const char* what_to_do) {
    return Refused(found, ", more than this coordinator's ", limit, what_to_do);
  };
  if (layout.size_bytes() > coordinator.max_adapter_bytes()) {
    return refused(absl::StrCat("the adapter has ", layout.size_bytes(), " bytes"),
                   absl::StrCat("max_adapter_bytes of ", coordinator.max_adapter_bytes()),
                   "; use a smaller rank or fewer target modules, or raise the limit");
  }
  WEFT_ASSIGN_OR_RETURN(const Encoding values, ParseEncoding(encoding.values()));
  const auto update = EncodedBytes(layout, values, encoding.density());
  if (update > static_cast<uint64_t>(coordinator.upload_memory_bytes())) {
    return refused(absl::StrCat("an update of the whole adapter has ", update, " bytes"),
                   absl::StrCat("upload_memory_bytes of ", coordinator.upload_memory_bytes()),
                   ", so that none could be received; raise the limit");
  }
  return absl::OkStatus();
}

// Epsilon grows with the rounds.
absl::StatusOr<std::optional<CheckedJob::Privacy>> CheckBudget(const aggregators::Rule& rule,
                                                               const proto::JobConfig& config) {
  const std::optional<aggregators::PrivacySpent> one = rule.Spent(config, 1);
  if (!one.has_value()) return std::optional<CheckedJob::Privacy>();
  if (one->epsilon > one->epsilon_budget) {
    return Refused("one round spends epsilon ", one->epsilon, ", more than the job's budget of ", one->epsilon_budget,
                   "; raise the noise multiplier or the budget");
  }
  int64_t within = 1;
  int64_t beyond = config.stop().rounds() + 1;
  while (beyond - within > 1) {
    const int64_t middle = within + (beyond - within) / 2;
    (rule.Spent(config, middle)->epsilon <= one->epsilon_budget ? within : beyond) = middle;
  }
  return std::optional(CheckedJob::Privacy{*one, within});
}

}  // namespace

absl::StatusOr<CheckedJob> CheckJob(proto::JobConfig config, const proto::CoordinatorConfig& coordinator) {
  proto::ApplyDefaults(&config);
  WEFT_RETURN_IF_ERROR(proto::Validate(config));
  WEFT_RETURN_IF_ERROR(CheckName(config.name(), "name"));
  WEFT_RETURN_IF_ERROR(CheckBase(config.base()));
  WEFT_RETURN_IF_ERROR(CheckTask(config.task()));
  WEFT_RETURN_IF_ERROR(CheckSelection(config.selection(), config.round()));
  WEFT_RETURN_IF_ERROR(CheckTraining(config.training()));
  WEFT_RETURN_IF_ERROR(CheckStop(config.stop(), config.evaluation()));
  WEFT_RETURN_IF_ERROR(CheckEncoding(config.encoding()));
  WEFT_RETURN_IF_ERROR(CheckPrivacy(config.privacy()));
  WEFT_RETURN_IF_ERROR(CheckProgress(config.round(), coordinator));
  CheckedJob job;
  WEFT_ASSIGN_OR_RETURN(job.base, DescribeBase(config.base().config_json()));
  WEFT_RETURN_IF_ERROR(CheckLength(config.training(), job.base));
  WEFT_ASSIGN_OR_RETURN(job.layout, MakeLayout(config.adapter(), config.task(), job.base));
  WEFT_RETURN_IF_ERROR(CheckSize(*job.layout, config.encoding(), coordinator));
  WEFT_ASSIGN_OR_RETURN(job.rule, aggregators::Registry::Global().Find(config.aggregator().name()));
  WEFT_RETURN_IF_ERROR(job.rule->CheckJob(config, *job.layout));
  if (config.round().min_updates() == 0 &&
      !(config.selection().rule() == "poisson" && job.rule->facts().finishes_empty)) {
    return Refused(
        "round.min_updates is 0, but ",
        config.selection().rule() == "poisson"
            ? absl::StrCat("rule ", config.aggregator().name(), " makes nothing of a round without updates")
            : absl::StrCat("only selection.rule poisson draws empty cohorts, not ", config.selection().rule()),
        "; set it to 1 or more");
  }
  WEFT_ASSIGN_OR_RETURN(job.privacy, CheckBudget(*job.rule, config));
  job.config = std::move(config);
  return job;
}

absl::Status CheckMemory(const CheckedJob& job, const Layout& state, int64_t updates,
                         const proto::CoordinatorConfig& coordinator) {
  const int64_t needed = job.rule->MemoryBytes(job.config, state, updates);
  if (needed <= coordinator.aggregation_memory_bytes()) return absl::OkStatus();
  return Refused(
      "rule ", job.config.aggregator().name(), " may hold ", needed, " bytes in a round of ", updates,
      updates == 1 ? " update" : " updates", ", more than this coordinator's aggregation_memory_bytes of ",
      coordinator.aggregation_memory_bytes(),
      "; ask fewer clients (selection.rule uniform), use a smaller rank or a linear rule, or raise the limit");
}

absl::Status CheckName(const std::string& name, const char* what) {
  constexpr size_t kLongest = 128;
  const bool fits = std::all_of(name.begin(), name.end(), [](unsigned char c) {
    return absl::ascii_isalnum(c) || c == '-' || c == '_' || c == '.';
  });
  if (fits && !name.empty() && name.size() <= kLongest) return absl::OkStatus();
  return Refused(what, ": found \"", name.substr(0, kLongest), "\", expected 1 to ", kLongest,
                 " letters, digits, '-', '_' or '.'");
}

}  // namespace weft::server
