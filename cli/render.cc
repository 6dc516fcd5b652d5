#include "cli/render.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"

namespace weft::cli {
namespace {

// Columns padded to their widest cell; the first row is the head.
std::string Table(const std::vector<std::vector<std::string>>& rows) {
  std::vector<size_t> widths(rows.front().size(), 0);
  for (const auto& row : rows) {
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string text;
  for (const auto& row : rows) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i) absl::StrAppendFormat(&line, "%-*s  ", widths[i], row[i]);
    absl::StripTrailingAsciiWhitespace(&line);
    absl::StrAppend(&text, line, "\n");
  }
  return text;
}

std::string RoundsOf(const proto::JobStatus& job) { return absl::StrCat(job.round(), "/", job.rounds_total()); }

std::string PhaseOf(const proto::JobStatus& job) {
  if (job.phase().empty()) return "";
  return job.phase_total() > 0 ? absl::StrCat(job.phase(), " ", job.phase_done(), "/", job.phase_total()) : job.phase();
}

std::string BytesOf(const proto::JobStatus& job) {
  return absl::StrCat(HumanBytes(job.bytes_up()), " up, ", HumanBytes(job.bytes_down()), " down");
}

// A bar of 20 cells.
std::string Bar(int64_t done, int64_t total) {
  constexpr int kCells = 20;
  const int full = total > 0 ? static_cast<int>(std::clamp<int64_t>(done * kCells / total, 0, kCells)) : 0;
  return absl::StrCat("[", std::string(full, '#'), std::string(kCells - full, '.'), "]");
}

// "epsilon 1.7100 of 8".
std::string EpsilonOf(const proto::JobStatus& job) {
  return absl::StrFormat("epsilon %.4f of %g", job.privacy().epsilon(), job.privacy().epsilon_budget());
}

// What is spent under which assumptions, and what is released without noise.
std::string PrivacyLines(const proto::JobStatus& job) {
  const proto::PrivacyStatus& privacy = job.privacy();
  const std::string sampling = privacy.sampling_rate() < 1
                                   ? absl::StrFormat("sampling rate %g claimed", privacy.sampling_rate())
                                   : "no amplification by sampling claimed";
  return absl::StrCat(
      absl::StrFormat("privacy   %s, delta %g, noise multiplier %g, %s\n", EpsilonOf(job), privacy.delta(),
                      privacy.noise_multiplier(), sampling),
      privacy.unprotected().empty()
          ? ""
          : absl::StrCat("          shown without noise: ", absl::StrJoin(privacy.unprotected(), ", "), "\n"));
}

// The last round that was evaluated; null when none was.
const proto::RoundStatus* LastEvaluated(const proto::JobStatus& job) {
  const proto::RoundStatus* last = nullptr;
  for (const proto::RoundStatus& round : job.rounds()) {
    if (round.has_accuracy()) last = &round;
  }
  return last;
}

std::string Figure(bool known, double value) { return known ? absl::StrFormat("%.4f", value) : "-"; }

// ", F1 0.5120" or ", perplexity 12.3456", as the task has it.
std::string FurtherFigures(const proto::JobStatus& job) {
  const proto::RoundStatus* last = LastEvaluated(job);
  if (last == nullptr) return "";
  return absl::StrCat(last->has_f1() ? absl::StrFormat(", F1 %.4f", last->f1()) : "",
                      last->has_perplexity() ? absl::StrFormat(", perplexity %.4f", last->perplexity()) : "");
}

std::string RoundTable(const proto::JobStatus& job, int max_rounds) {
  const proto::RoundStatus* last = LastEvaluated(job);
  const bool f1 = last != nullptr && last->has_f1(), perplexity = last != nullptr && last->has_perplexity();
  std::vector<std::vector<std::string>> rows = {{"ROUND", "UPDATES", "EXAMPLES", "TRAIN LOSS", "ACCURACY"}};
  const auto add = [&](std::vector<std::string> cells) {
    rows.back().insert(rows.back().end(), cells.begin(), cells.end());
  };
  if (f1) add({"F1"});
  add({"LOSS"});
  if (perplexity) add({"PERPLEXITY"});
  add({"SECONDS", "UP", "DOWN"});
  if (job.has_privacy()) add({"EPSILON"});
  for (int i = std::max(0, job.rounds_size() - max_rounds); i < job.rounds_size(); ++i) {
    const proto::RoundStatus& round = job.rounds(i);
    rows.push_back({absl::StrCat(round.round()), absl::StrCat(round.updates(), "/", round.selected()),
                    absl::StrCat(round.examples()), Figure(true, round.train_loss()),
                    Figure(round.has_accuracy(), round.accuracy())});
    if (f1) add({Figure(round.has_f1(), round.f1())});
    add({Figure(round.has_loss(), round.loss())});
    if (perplexity) add({Figure(round.has_perplexity(), round.perplexity())});
    add({absl::StrFormat("%.1f", round.train_seconds() + round.evaluation_seconds()), HumanBytes(round.bytes_up()),
         HumanBytes(round.bytes_down())});
    if (job.has_privacy()) add({Figure(true, round.epsilon())});
  }
  return rows.size() > 1 ? Table(rows) : "";
}

std::string ClientTable(const proto::CoordinatorStatus& status) {
  std::vector<std::vector<std::string>> rows = {
      {"CLIENT", "CONNECTED", "ACTIVITY", "DEVICE", "TRAIN ROWS", "TEST ROWS", "TOKENS/S"}};
  for (const proto::ClientStatus& client : status.clients()) {
    const std::string steps =
        client.steps_total() > 0 ? absl::StrCat(" ", client.steps_done(), "/", client.steps_total()) : "";
    rows.push_back({client.client_id(), client.connected() ? "yes" : "no", absl::StrCat(client.activity(), steps),
                    client.device(), absl::StrCat(client.train_examples()), absl::StrCat(client.test_examples()),
                    absl::StrFormat("%.0f", client.tokens_per_second())});
  }
  return rows.size() > 1 ? Table(rows) : "no clients\n";
}

}  // namespace

std::string HumanBytes(uint64_t bytes) {
  if (bytes < 1000) return absl::StrCat(bytes, " B");
  double value = static_cast<double>(bytes);
  const char* unit = "";
  for (const char* next : {"kB", "MB", "GB", "TB", "PB"}) {
    if (value < 999.95) break;
    value /= 1000;
    unit = next;
  }
  return absl::StrFormat("%.1f %s", value, unit);
}

std::string HumanSeconds(double seconds) {
  if (!(seconds >= 0)) return "unknown";
  const int64_t whole = static_cast<int64_t>(std::llround(seconds));
  if (whole < 60) return absl::StrCat(whole, "s");
  if (whole < 3600) return absl::StrFormat("%dm%02ds", whole / 60, whole % 60);
  return absl::StrFormat("%dh%02dm", whole / 3600, whole % 3600 / 60);
}

std::string StateName(proto::JobState state) { return absl::AsciiStrToLower(proto::JobState_Name(state)); }

bool HasEnded(proto::JobState state) {
  return state == proto::FINISHED || state == proto::STOPPED || state == proto::FAILED;
}

std::string LastAccuracy(const proto::JobStatus& job) {
  const proto::RoundStatus* last = LastEvaluated(job);
  return Figure(last != nullptr, last == nullptr ? 0 : last->accuracy());
}

std::string JobTable(const proto::CoordinatorStatus& status) {
  if (status.jobs().empty()) return "no jobs\n";
  std::vector<std::vector<std::string>> rows = {{"JOB", "NAME", "STATE", "ROUND", "ACCURACY", "UP", "DOWN", "LEFT"}};
  for (const proto::JobStatus& job : status.jobs()) {
    rows.push_back({job.job_id(), job.name(), StateName(job.state()), RoundsOf(job), LastAccuracy(job),
                    HumanBytes(job.bytes_up()), HumanBytes(job.bytes_down()),
                    HasEnded(job.state()) ? "-" : HumanSeconds(job.seconds_left())});
  }
  return Table(rows);
}

std::string StatusText(const proto::CoordinatorStatus& status) {
  std::string text = absl::StrFormat("coordinator %s, up for %s%s\n", status.version(),
                                     HumanSeconds(static_cast<double>(status.now_ms() - status.started_ms()) / 1000),
                                     status.insecure() ? ", insecure" : "");
  constexpr int kRoundsShown = 10;
  for (const proto::JobStatus& job : status.jobs()) absl::StrAppend(&text, "\n", JobText(job, kRoundsShown));
  absl::StrAppend(&text, "\n", ClientTable(status));
  return text;
}

std::string JobText(const proto::JobStatus& job, int max_rounds) {
  std::string text = absl::StrCat("job       ", job.job_id(), " (", job.name(), ") ", StateName(job.state()));
  if (!job.message().empty()) absl::StrAppend(&text, ": ", job.message());
  absl::StrAppend(&text, "\nrounds    ", Bar(job.round(), job.rounds_total()), " ", RoundsOf(job));
  if (const std::string phase = PhaseOf(job); !phase.empty()) absl::StrAppend(&text, "  ", phase);
  absl::StrAppend(&text, "\naccuracy  ", LastAccuracy(job));
  if (LastAccuracy(job) != "-") {
    absl::StrAppendFormat(&text, " (best %.4f in round %d)", job.best_accuracy(), job.best_round());
  }
  absl::StrAppend(&text, FurtherFigures(job));
  absl::StrAppend(&text, "\nbytes     ", BytesOf(job), "\n");
  if (job.has_privacy()) absl::StrAppend(&text, PrivacyLines(job));
  if (!HasEnded(job.state())) absl::StrAppend(&text, "time left ", HumanSeconds(job.seconds_left()), "\n");
  return absl::StrCat(text, RoundTable(job, max_rounds));
}

std::string JobLine(const proto::JobStatus& job) {
  std::string line = absl::StrCat(job.job_id(), " ", StateName(job.state()), " round ", RoundsOf(job));
  if (const std::string phase = PhaseOf(job); !phase.empty()) absl::StrAppend(&line, ", ", phase);
  absl::StrAppend(&line, ", accuracy ", LastAccuracy(job), FurtherFigures(job), ", ", BytesOf(job));
  if (job.has_privacy()) absl::StrAppend(&line, ", ", EpsilonOf(job));
  if (!HasEnded(job.state())) absl::StrAppend(&line, ", ", HumanSeconds(job.seconds_left()), " left");
  if (!job.message().empty()) absl::StrAppend(&line, ": ", job.message());
  return line;
}

}  // namespace weft::cli
