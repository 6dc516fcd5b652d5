// weft-sim: simulates federated jobs over thousands of virtual clients on one machine. `weft sim` runs it.

#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "aggregators/core/seeded_noise.h"
#include "common/exit_code.h"
#include "common/file.h"
#include "common/status_macros.h"
#include "common/version.h"
#include "simulation/ranks/link.h"
#include "simulation/ranks/workers.h"
#include "simulation/report/page.h"
#include "simulation/report/run_folder.h"
#include "simulation/report/table.h"
#include "simulation/run/run.h"
#include "simulation/run/serve.h"
#include "simulation/scenario/scenario.h"

namespace weft::simulation {
namespace {

constexpr char kFooter[] =
    R"(Results lie in OUT/NAME (run.out and job.name of the scenario): rounds.jsonl, rounds.csv, TensorBoard events, summary.json,
clients.json, report.html and adapter/, which peft opens. A run that was cut off goes on where it was, with the same bits;
a finished one is not run again. `weft sim compare RUN... --out PAGE` makes one page of several runs.
Exit codes: 0 done; 2 scenario or command line wrong; 3 file not found; 4 another rank has gone; 5 folder of another scenario, or in
use; 6 disk or memory exhausted; 7 stopped by Ctrl-C; 8 damaged data; 9 a job failed.)";

std::atomic<bool> g_stop = false;

// One base in memory, for all runs that share it.
class Trainers {
 public:
  absl::StatusOr<Trainer*> Open(const proto::Scenario& scenario, int calls) {
    const proto::RunConfig& run = scenario.run();
    const std::string key =
        absl::StrCat(scenario.job().base().path(), " ", run.device(), " ", run.memory_bytes(), " ", calls);
    if (key == key_) return trainer_.get();
    trainer_.reset();
    key_.clear();
    TrainerOptions options;
    options.base = scenario.job().base().path();
    options.device = run.device();
    options.threads = 1;
    options.tokens_per_pass = std::numeric_limits<int64_t>::max();  // groups are made before it is called
    options.memory_bytes = run.memory_bytes();
    options.calls = calls;
    WEFT_ASSIGN_OR_RETURN(trainer_, CreateTorchTrainer(options));
    key_ = key;
    return trainer_.get();
  }

 private:
  std::string key_;
  std::unique_ptr<Trainer> trainer_;
};

// A line that renews itself on a terminal, and one a round elsewhere.
class ProgressLine {
 public:
  ProgressLine(std::string name, bool quiet)
      : name_(std::move(name)), quiet_(quiet), terminal_(isatty(STDERR_FILENO) == 1) {}

  void Show(const proto::RoundStatus& round, int64_t total) {
    if (quiet_) return;
    ++rounds_;
    const absl::Duration left = (absl::Now() - start_) / rounds_ * (total - round.round());
    std::string line =
        absl::StrFormat("%s  round %d of %d  loss %.4f", name_, round.round(), total, round.train_loss());
    if (round.has_accuracy()) absl::StrAppendFormat(&line, "  accuracy %.4f", round.accuracy());
    if (round.has_epsilon()) absl::StrAppendFormat(&line, "  epsilon %.3f", round.epsilon());
    absl::StrAppendFormat(&line, "  %s left", absl::FormatDuration(absl::Trunc(left, absl::Seconds(1))));
    if (terminal_) {
      constexpr int kWidth = 24;
      const auto done = static_cast<int>(kWidth * round.round() / std::max<int64_t>(1, total));
      const std::string bar = std::string(done, '#') + std::string(kWidth - done, '.');
      std::fprintf(stderr, "\r\033[K[%s] %s", bar.c_str(), line.c_str());
    } else {
      std::fprintf(stderr, "%s\n", line.c_str());
    }
    std::fflush(stderr);
  }
  void End() const {
    if (!quiet_ && terminal_ && rounds_ > 0) std::fputs("\n", stderr);
  }

 private:
  const std::string name_;
  const bool quiet_, terminal_;
  const absl::Time start_ = absl::Now();
  int64_t rounds_ = 0;
};

absl::Status WriteComparison(const std::string& path, const std::vector<std::string>& folders) {
  std::vector<nlohmann::ordered_json> runs;
  for (const std::string& folder : folders) {
    WEFT_ASSIGN_OR_RETURN(nlohmann::ordered_json run, ReadRun(folder));
    runs.push_back(std::move(run));
  }
  return WriteFileAtomically(path, std::string_view(PageOf(runs)));
}

// The table and the page over all runs of a sweep.
absl::Status WriteSweep(const std::vector<ScenarioRun>& runs) {
  const std::string folder = runs.front().folder.substr(0, runs.front().folder.rfind('/'));
  std::vector<TableRun> rows;
  std::vector<std::string> folders;
  for (const ScenarioRun& run : runs) {
    WEFT_ASSIGN_OR_RETURN(nlohmann::ordered_json read, ReadRun(run.folder));
    rows.push_back({run.values, read.at("summary")});
    folders.push_back(run.folder);
  }
  const nlohmann::ordered_json table = TableOf(rows);
  WEFT_RETURN_IF_ERROR(WriteFileAtomically(folder + "/table.json", std::string_view(table.dump(1))));
  WEFT_RETURN_IF_ERROR(WriteFileAtomically(folder + "/table.csv", std::string_view(TableCsv(table))));
  WEFT_RETURN_IF_ERROR(WriteComparison(folder + "/report.html", folders));
  std::printf("%sreport: %s/report.html\n", TableText(table).c_str(), folder.c_str());
  return absl::OkStatus();
}

// What every rank but the first does.
absl::StatusOr<int> ServeRank(Link* link, const std::vector<ScenarioRun>& runs) {
  Trainers trainers;
  ServeOptions options;
  options.link = link;
  options.scenario = [&](int64_t number) -> absl::StatusOr<proto::Scenario> {
    if (number >= 0 && number < std::ssize(runs)) return runs[number].scenario;
    return absl::InvalidArgumentError("has another scenario than rank 0; start all ranks with the same file and --set");
  };
  options.trainer = [&](const proto::Scenario& scenario, int calls) { return trainers.Open(scenario, calls); };
  return Serve(options);
}

absl::StatusOr<int> Simulate(const std::vector<ScenarioRun>& runs, Workers* workers, bool quiet) {
  Trainers trainers;
  bool failed = false;
  for (size_t i = 0; i < runs.size(); ++i) {
    const ScenarioRun& run = runs[i];
    const std::string name =
        runs.size() == 1 ? run.scenario.job().name() : absl::StrCat("run ", i + 1, " of ", runs.size());
    ProgressLine line(name, quiet);
    RunOptions options;
    options.scenario = run.scenario;
    options.folder = run.folder;
    options.trainer = [&](const proto::Scenario& scenario, int calls) { return trainers.Open(scenario, calls); };
    options.workers = workers;
    options.number = static_cast<int64_t>(i);
    options.progress = [&](const proto::RoundStatus& round, int64_t total) {
      line.Show(round, total);
      return !g_stop;
    };
    const absl::StatusOr<RunEnd> end = CarryOut(options);
    line.End();
    if (!end.ok()) {
      if (runs.size() == 1) return end.status();
      return absl::Status(end.status().code(), absl::StrCat("run ", i + 1, " of ", runs.size(), ", ", run.folder, ": ",
                                                            std::string(end.status().message())));
    }
    if (*end == RunEnd::kStopped) {
      std::fprintf(stderr, "stopped after a committed round; the same command goes on from there\n");
      return kExitCancelled;
    }
    WEFT_ASSIGN_OR_RETURN(const nlohmann::ordered_json read, ReadRun(run.folder));
    failed |= read.at("summary").at("state") == "failed";
    if (runs.size() == 1)
      std::printf("%s\nreport: %s/report.html\n", read.at("summary").dump(1).c_str(), run.folder.c_str());
  }
  if (runs.size() > 1) WEFT_RETURN_IF_ERROR(WriteSweep(runs));
  return failed ? kExitJobFailed : kExitOk;
}

absl::StatusOr<int> SimulateRank(const std::string& path, const std::vector<std::string>& sets, bool quiet) {
  WEFT_ASSIGN_OR_RETURN(const std::vector<ScenarioRun> runs, LoadScenario(path, sets));
  WEFT_ASSIGN_OR_RETURN(const std::unique_ptr<Link> link, LinkFromEnvironment());
  if (link == nullptr) return Simulate(runs, nullptr, quiet);
  if (link->rank() > 0) return ServeRank(link.get(), runs);
  Workers workers(link.get());
  absl::StatusOr<int> code = Simulate(runs, &workers, quiet);
  workers.Quit(code.ok() ? *code : ExitCodeFor(code.status()));
  return code;
}

// Each rank of a machine its own GPU, of those that may be seen.
void ChooseGpu() {
  const char* rank = std::getenv("LOCAL_RANK");
  if (rank == nullptr) rank = std::getenv("SLURM_LOCALID");
  const char* visible = std::getenv("CUDA_VISIBLE_DEVICES");
  int number = 0;
  if (rank == nullptr || !absl::SimpleAtoi(rank, &number)) return;
  if (visible != nullptr && *visible == 0) return;  // none may be seen
  const std::vector<std::string> devices = absl::StrSplit(visible == nullptr ? "" : visible, ',', absl::SkipEmpty());
  const std::string chosen = devices.empty() ? absl::StrCat(number) : devices[number % devices.size()];
  setenv("CUDA_VISIBLE_DEVICES", chosen.c_str(), 1);
}

int Main(int argc, char** argv) {
  CLI::App app("Simulates a federated job with thousands of virtual clients on one machine.", "weft-sim");
  app.footer(kFooter);
  app.set_version_flag("--version", absl::StrCat("weft-sim ", kVersion));
  std::string scenario, out = "comparison.html";
  std::vector<std::string> sets, folders;
  bool quiet = false;
  app.add_option("scenario", scenario, "scenario.yaml (proto/scenario.proto has every key)");
  app.add_option("--set", sets, "a.b=c in place of what the file says, also of what its sweep lists; may be repeated")
      ->allow_extra_args(false);
  app.add_flag("--quiet", quiet, "no progress");
  CLI::App* compare = app.add_subcommand("compare", "one page for several finished runs");
  compare->add_option("folders", folders, "folders of runs")->required();
  compare->add_option("--out", out, "page to write")->capture_default_str();
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return error.get_exit_code() == 0 ? app.exit(error) : (app.exit(error), kExitUsage);
  }
  absl::StatusOr<int> code = kExitOk;
  if (*compare) {
    const absl::Status status = WriteComparison(out, folders);
    if (!status.ok()) code = status;
  } else if (scenario.empty()) {
    code = absl::InvalidArgumentError("no scenario; see `weft sim --help`");
  } else {
    std::signal(SIGINT, [](int) { g_stop = true; });
    std::signal(SIGTERM, [](int) { g_stop = true; });
    aggregators::AllowSeededNoise();  // a simulation protects nobody's data
    ChooseGpu();
    code = SimulateRank(scenario, sets, quiet);
  }
  if (code.ok()) return *code;
  std::fprintf(stderr, "%s\n", ErrorLine("weft-sim", code.status()).c_str());
  return ExitCodeFor(code.status());
}

}  // namespace
}  // namespace weft::simulation

int main(int argc, char** argv) { return weft::simulation::Main(argc, argv); }
