#include "cli/watch.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "cli/proto_json.h"
#include "cli/render.h"
#include "common/status_macros.h"

namespace weft::cli {
namespace {

constexpr int kRoundsShown = 12;
constexpr absl::Duration kRetryWait = absl::Milliseconds(200);

// Prints what changed of one job.
class View {
 public:
  View(WatchFormat format, std::ostream& out) : format_(format), out_(out) {}

  void Show(const proto::JobStatus& job) {
    switch (format_) {
      case WatchFormat::kJson:
        out_ << ToJson(job).dump() << std::endl;
        break;
      case WatchFormat::kBlock:
        ShowBlock(job);
        break;
      case WatchFormat::kLines:
        ShowLine(job);
        break;
    }
  }

 private:
  void ShowBlock(const proto::JobStatus& job) {
    const std::string text = JobText(job, kRoundsShown);
    // Up to the first line of the last block, and clear from there.
    if (lines_ > 0) out_ << "\x1b[" << lines_ << "F\x1b[J";
    out_ << text << std::flush;
    lines_ = std::count(text.begin(), text.end(), '\n');
  }

  void ShowLine(const proto::JobStatus& job) {
    // Bytes and time left change all the time: they alone are no news.
    proto::JobStatus news;
    news.set_state(job.state());
    news.set_message(job.message());
    news.set_round(job.round());
    news.set_phase(job.phase());
    news.set_phase_done(job.phase_done());
    news.set_phase_total(job.phase_total());
    for (const proto::RoundStatus& round : job.rounds()) {
      if (round.has_accuracy()) news.set_best_round(round.round());
    }
    const std::string key = news.SerializeAsString();
    if (key == last_) return;
    last_ = key;
    out_ << JobLine(job) << std::endl;
  }

  const WatchFormat format_;
  std::ostream& out_;
  int64_t lines_ = 0;
  std::string last_;
};

absl::StatusOr<std::string> DefaultJob(AdminClient& admin) {
  WEFT_ASSIGN_OR_RETURN(const proto::CoordinatorStatus status, admin.GetStatus(""));
  const proto::JobStatus* chosen = nullptr;
  for (const proto::JobStatus& job : status.jobs()) {
    if (chosen == nullptr || HasEnded(chosen->state())) chosen = &job;
  }
  if (chosen == nullptr) return absl::NotFoundError("there is no job to watch; submit one with `weft submit`");
  return chosen->job_id();
}

ExitCode ExitCodeOf(proto::JobState state) {
  switch (state) {
    case proto::FINISHED:
      return kExitOk;
    case proto::STOPPED:
      return kExitCancelled;
    case proto::FAILED:
      return kExitJobFailed;
    default:
      return kExitInternal;
  }
}

}  // namespace

absl::StatusOr<ExitCode> WatchJob(AdminClient& admin, std::string job_id, const WatchOptions& options,
                                  std::ostream& out) {
  if (job_id.empty()) {
    WEFT_ASSIGN_OR_RETURN(job_id, DefaultJob(admin));
  }
  View view(options.format, out);
  proto::JobState state = proto::JOB_STATE_UNSPECIFIED;
  absl::Time last_seen = absl::InfinitePast();
  while (true) {
    const absl::Status status = admin.Watch(job_id, [&](const proto::CoordinatorStatus& now) {
      last_seen = absl::Now();
      for (const proto::JobStatus& job : now.jobs()) {
        if (job.job_id() != job_id) continue;
        state = job.state();
        view.Show(job);
      }
    });
    if (HasEnded(state)) return ExitCodeOf(state);
    const bool heals = status.ok() || absl::IsUnavailable(status);
    if (!heals) return status;
    if (absl::Now() - last_seen > options.patience) {
      return status.ok() ? absl::UnavailableError("the coordinator ended the watch; try again") : status;
    }
    absl::SleepFor(kRetryWait);
  }
}

}  // namespace weft::cli
