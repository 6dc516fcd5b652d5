#include "cli/weft_app.h"

#include <CLI/CLI.hpp>
#include <cstdlib>
#include <functional>
#include <memory>
#include <optional>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "adapters/base.h"
#include "adapters/merge.h"
#include "adapters/peft_folder.h"
#include "cli/admin_client.h"
#include "cli/job_file.h"
#include "cli/proto_json.h"
#include "cli/python_tool.h"
#include "cli/render.h"
#include "cli/sibling_binary.h"
#include "cli/watch.h"
#include "common/exit_code.h"
#include "common/status_macros.h"
#include "common/version.h"

namespace weft::cli {
namespace {

using nlohmann::ordered_json;

constexpr char kDefaultCoordinator[] = "127.0.0.1:7400";
constexpr char kFooter[] =
    R"(Exit codes: 0 done; 1 internal error; 2 command line or configuration wrong; 3 file, job or round not found;
4 coordinator not reachable; 5 refused; 6 disk, memory or message limit exhausted; 7 stopped (`watch`: the job was
stopped); 8 damaged data; 9 `watch`: the job failed. `prepare`, `generate` and `sim` end with the codes of their own help.
Environment: WEFT_COORDINATOR (host:port when --coordinator is not given), WEFT_PYTHON (interpreter of `prepare` and
`generate`).)";

struct Flags {
  std::string coordinator = kDefaultCoordinator;
  bool insecure = false;
  std::string format = "text";
  // Of single commands.
  std::string job_file;
  std::vector<std::string> overrides;
  bool watch = false;
  std::string job_id;
  std::string which = "best";
  std::string out_folder;
  std::string base_folder;
  std::string adapter_folder;
};

// One command line; the streams are the caller's.
class Weft {
 public:
  Weft(const Flags& flags, bool terminal, std::ostream& out) : flags_(flags), terminal_(terminal), out_(out) {}

  absl::StatusOr<ExitCode> Submit() {
    WEFT_ASSIGN_OR_RETURN(const LoadedJob job, LoadJob(flags_.job_file, flags_.overrides));
    WEFT_ASSIGN_OR_RETURN(const std::unique_ptr<AdminClient> admin, Dial());
    WEFT_ASSIGN_OR_RETURN(const std::string id,
                          admin->Submit(job.config, job.warm_start.has_value() ? &*job.warm_start : nullptr));
    if (json()) {
      out_ << ordered_json{{"job_id", id}}.dump() << std::endl;
    } else {
      out_ << id << std::endl;
    }
    if (!flags_.watch) return kExitOk;
    return WatchJob(*admin, id, {.format = watch_format()}, out_);
  }

  absl::StatusOr<ExitCode> List() {
    WEFT_ASSIGN_OR_RETURN(const std::unique_ptr<AdminClient> admin, Dial());
    WEFT_ASSIGN_OR_RETURN(const proto::CoordinatorStatus status, admin->GetStatus(""));
    if (!json()) {
      out_ << JobTable(status);
      return kExitOk;
    }
    ordered_json jobs = ordered_json::array();
    for (const proto::JobStatus& job : status.jobs()) jobs.push_back(ToJson(job));
    out_ << ordered_json{{"jobs", jobs}}.dump(2) << "\n";
    return kExitOk;
  }

  absl::StatusOr<ExitCode> Status() {
    WEFT_ASSIGN_OR_RETURN(const std::unique_ptr<AdminClient> admin, Dial());
    WEFT_ASSIGN_OR_RETURN(const proto::CoordinatorStatus status, admin->GetStatus(flags_.job_id));
    out_ << (json() ? ToJson(status).dump(2) + "\n" : StatusText(status));
    return kExitOk;
  }

  absl::StatusOr<ExitCode> Watch() {
    WEFT_ASSIGN_OR_RETURN(const std::unique_ptr<AdminClient> admin, Dial());
    return WatchJob(*admin, flags_.job_id, {.format = watch_format()}, out_);
  }

  absl::StatusOr<ExitCode> Stop() {
    WEFT_ASSIGN_OR_RETURN(const std::unique_ptr<AdminClient> admin, Dial());
    WEFT_ASSIGN_OR_RETURN(const proto::JobStatus job, admin->Stop(flags_.job_id));
    out_ << (json() ? ordered_json{{"job", ToJson(job)}}.dump(2) : JobLine(job)) << "\n";
    return kExitOk;
  }

  absl::StatusOr<ExitCode> Export() {
    WEFT_ASSIGN_OR_RETURN(const std::unique_ptr<AdminClient> admin, Dial());
    WEFT_ASSIGN_OR_RETURN(const AdminClient::Exported exported, admin->Export(flags_.job_id, flags_.which));
    const proto::ExportInfo& info = exported.info;
    PeftFolderOptions options;
    options.adapter = info.config().adapter();
    options.task = info.config().task();
    WEFT_ASSIGN_OR_RETURN(options.base, DescribeBase(info.config().base().config_json()));
    options.base_name = info.config().base().path();
    options.base_hash = info.config().base().hash();
    WEFT_RETURN_IF_ERROR(WritePeftFolder(flags_.out_folder, exported.adapter, options));
    if (json()) {
      ordered_json document = ToJson(info);
      document.erase("config");
      document["folder"] = flags_.out_folder;
      out_ << document.dump(2) << "\n";
    } else {
      out_ << absl::StrFormat("round %d of job %s%s written to %s\n", info.round(), info.job_id(),
                              info.has_accuracy() ? absl::StrFormat(" (accuracy %.4f)", info.accuracy()) : "",
                              flags_.out_folder);
    }
    return kExitOk;
  }

  absl::StatusOr<ExitCode> Merge() {
    WEFT_ASSIGN_OR_RETURN(
        const MergeResult merged,
        MergeAdapter({.base = flags_.base_folder, .adapter = flags_.adapter_folder, .out = flags_.out_folder}));
    if (json()) {
      out_ << ordered_json{{"task", merged.task.type()}, {"tensors", merged.tensors}, {"folder", flags_.out_folder}}
                  .dump(2)
           << "\n";
    } else {
      out_ << absl::StrFormat("model for %s written to %s; tensors changed: %d\n", merged.task.type(),
                              flags_.out_folder, merged.tensors);
    }
    return kExitOk;
  }

 private:
  bool json() const { return flags_.format == "json"; }
  WatchFormat watch_format() const {
    if (json()) return WatchFormat::kJson;
    return terminal_ ? WatchFormat::kBlock : WatchFormat::kLines;
  }
  absl::StatusOr<std::unique_ptr<AdminClient>> Dial() const {
    return AdminClient::Create(flags_.coordinator, flags_.insecure);
  }

  const Flags& flags_;
  const bool terminal_;
  std::ostream& out_;
};

using Command = absl::StatusOr<ExitCode> (Weft::*)();

// Declares the command line; the command chosen is stored in `command`.
void Declare(CLI::App& app, Flags* flags, Command* command) {
  app.add_option("--coordinator", flags->coordinator, "host:port of the coordinator")
      ->envname("WEFT_COORDINATOR")
      ->capture_default_str();
  app.add_flag("--insecure", flags->insecure, "allow a coordinator beyond loopback, without encryption");
  app.add_option("--format", flags->format, "text or json")
      ->check(CLI::IsMember({"text", "json"}))
      ->capture_default_str();
  app.set_version_flag("--version", absl::StrCat("weft ", kVersion));
  app.footer(kFooter);
  app.require_subcommand(1);
  app.fallthrough();

  const auto add = [&](const char* name, const char* what, Command run) {
    CLI::App* sub = app.add_subcommand(name, what);
    sub->callback([command, run] { *command = run; });
    return sub;
  };
  CLI::App* submit = add("submit", "send a job to the coordinator and print its id", &Weft::Submit);
  submit->add_option("job.yaml", flags->job_file)->required();
  submit->add_option("--set", flags->overrides, "override one key of it: --set stop.rounds=3 (may be repeated)");
  submit->add_flag("--watch", flags->watch, "stay and show progress, as `weft watch`");
  add("list", "jobs, one a line", &Weft::List);
  CLI::App* status = add("status", "the coordinator, its jobs and clients", &Weft::Status);
  status->add_option("job", flags->job_id, "this job only");
  CLI::App* watch = add("watch", "live progress until the job ends; ends with the job's exit code", &Weft::Watch);
  watch->add_option("job", flags->job_id, "default: the job that runs or waits, else the latest");
  CLI::App* stop = add("stop", "end a job now; its rounds so far stay exportable", &Weft::Stop);
  stop->add_option("job", flags->job_id)->required();
  CLI::App* exports = add("export", "write a job's adapter as a Hugging Face PEFT folder", &Weft::Export);
  exports->add_option("job", flags->job_id)->required();
  exports->add_option("--which", flags->which, "best, last or a round number")->capture_default_str();
  exports->add_option("--out", flags->out_folder, "folder to write, made when missing")->required();
  CLI::App* merge = add("merge", "write a copy of a base with an adapter merged into its weights", &Weft::Merge);
  merge->add_option("--base", flags->base_folder, "Hugging Face folder of the base")->required();
  merge->add_option("--adapter", flags->adapter_folder, "PEFT folder, as `weft export` writes it")->required();
  merge->add_option("--out", flags->out_folder, "folder to make; missing or empty")->required();
  // Listed here for --help; RunWeft hands their arguments on untouched.
  app.add_subcommand("generate", "text from a language model with an adapter (`weft generate --help`)");
  app.add_subcommand("prepare", "turn a client's own data into a data folder (`weft prepare --help`)");
  app.add_subcommand("sim", "simulate a job with thousands of virtual clients (`weft sim --help`)");
}

int Fail(const absl::Status& status, std::ostream& err) {
  err << ErrorLine("weft", status) << std::endl;
  return ExitCodeFor(status);
}

// `weft prepare` and `weft generate`.
bool IsPythonTool(const std::vector<std::string>& arguments) {
  return arguments.size() > 1 && (arguments[1] == "prepare" || arguments[1] == "generate");
}

// Returns only when it cannot be run.
absl::Status RunPythonTool(const std::vector<std::string>& arguments) {
  const char* python = std::getenv("WEFT_PYTHON");
  const std::vector<std::string> folders = BinaryFolders(arguments[0]);
  WEFT_ASSIGN_OR_RETURN(const PythonTool tool, FindPythonTool(arguments[1], folders, python == nullptr ? "" : python));
  std::vector<std::string> words(arguments.begin() + 2, arguments.end());
  if (arguments[1] == "generate") {
    WEFT_ASSIGN_OR_RETURN(const std::string binary, FindSiblingBinary({"weft-generate", "training/generate"}, folders));
    words.insert(words.begin(), {"--binary", binary});
  }
  return ExecPythonTool(tool, words);
}

// Likewise.
absl::Status RunSimulation(const std::vector<std::string>& arguments) {
  WEFT_ASSIGN_OR_RETURN(const std::string binary,
                        FindSiblingBinary({"weft-sim", "simulation"}, BinaryFolders(arguments[0])));
  return ExecBinary(binary, {arguments.begin() + 2, arguments.end()});
}

}  // namespace

int RunWeft(const std::vector<std::string>& arguments, bool terminal, std::ostream& out, std::ostream& err) {
  if (IsPythonTool(arguments)) return Fail(RunPythonTool(arguments), err);
  if (arguments.size() > 1 && arguments[1] == "sim") return Fail(RunSimulation(arguments), err);
  Flags flags;
  Command command = nullptr;
  CLI::App app("Federated fine-tuning: submit jobs to a coordinator, follow them, fetch adapters.", "weft");
  Declare(app, &flags, &command);
  try {
    // CLI11 takes them without the program's name, last first.
    app.parse(std::vector<std::string>(arguments.rbegin(), arguments.rend() - 1));
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error, out, err);  // --help, --version
    return Fail(absl::InvalidArgumentError(absl::StrCat(error.what(), "; see `weft --help`")), err);
  }
  if (command == nullptr) {
    return Fail(absl::InvalidArgumentError("prepare, generate and sim must be the first word: weft prepare ..."), err);
  }
  Weft weft(flags, terminal, out);
  const absl::StatusOr<ExitCode> code = (weft.*command)();
  return code.ok() ? *code : Fail(code.status(), err);
}

}  // namespace weft::cli
