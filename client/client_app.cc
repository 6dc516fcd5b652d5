#include "client/client_app.h"

#include <signal.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/daemon.h"
#include "client/grpc_link.h"
#include "client/state_store.h"
#include "common/clock.h"
#include "common/exit_code.h"
#include "common/logging.h"
#include "common/mutex.h"
#include "common/status_macros.h"
#include "common/version.h"
#include "config/yaml.h"
#include "proto/daemon.pb.h"
#include "training/data/shard.h"

namespace weft {
namespace {

constexpr char kProgram[] = "weft-client";
// After a stop signal: a training step that takes longer is abandoned, since nothing in this process is durable.
constexpr time_t kStopSeconds = 4;
// Sent by the daemon's thread to the one that waits for signals.
constexpr int kDoneSignal = SIGUSR1;

struct Flags {
  std::string config;
  std::vector<std::string> overrides;
  std::string device;
  bool insecure = false;
};

absl::Duration ToDuration(const google::protobuf::Duration& duration) {
  return absl::Seconds(duration.seconds()) + absl::Nanoseconds(duration.nanos());
}

// Hands a stop signal to the daemon, whether it is already there or not.
class DaemonSlot {
 public:
  // False: a stop came first.
  bool Set(Daemon* daemon) {
    MutexLock lock(mutex_);
    daemon_ = daemon;
    return !stopped_;
  }
  void Stop(const std::string& reason) {
    MutexLock lock(mutex_);
    stopped_ = true;
    if (daemon_ != nullptr) daemon_->Stop(reason);
  }

 private:
  Mutex mutex_;
  Daemon* daemon_ = nullptr;
  bool stopped_ = false;
};

absl::Status LoadConfig(const Flags& flags, proto::ClientConfig* config) {
  std::vector<std::string> overrides = flags.overrides;
  if (!flags.device.empty()) overrides.push_back(absl::StrCat("device=", flags.device));
  return config::LoadYaml(flags.config, overrides, config);
}

absl::Status Run(const Flags& flags, const TrainerFactory& create_trainer, DaemonSlot* slot) {
  proto::ClientConfig config;
  WEFT_RETURN_IF_ERROR(LoadConfig(flags, &config));
  SetLogLevel(config.log_level());
  const auto log = Logger("client");
  log->info("version={} insecure={} config={}", kVersion, flags.insecure, config::OneLine(config));
  if (flags.insecure)
    log->warn("event=insecure note=\"the connection is not encrypted and nobody proves who they are\"");

  const GrpcLink::Options link_options{.address = config.coordinator(), .insecure = flags.insecure};
  WEFT_RETURN_IF_ERROR(GrpcLink::Create(link_options).status());
  WEFT_ASSIGN_OR_RETURN(const DataFolder data, DataFolder::Open(config.data()));
  WEFT_ASSIGN_OR_RETURN(
      const std::unique_ptr<Trainer> trainer,
      create_trainer(
          {.base = config.base(), .device = config.device(), .threads = static_cast<int>(config.threads())}));
  log->info("event=ready client={} base={} device=\"{}\" train_rows={} test_rows={}", config.client_id(),
            trainer->base_hash(), trainer->device(), data.rows("train"), data.rows("test"));

  WEFT_ASSIGN_OR_RETURN(const std::unique_ptr<StateStore> states, StateStore::Open(config.state_dir()));
  const RealClock clock;
  std::random_device random;
  Daemon daemon({.client_id = config.client_id(),
                 .version = kVersion,
                 .seed = uint64_t{random()} << 32 | random(),
                 .reconnect_min = ToDuration(config.reconnect_min()),
                 .reconnect_max = ToDuration(config.reconnect_max()),
                 .make_link = [&] { return GrpcLink::Create(link_options); },
                 .trainer = trainer.get(),
                 .data = &data,
                 .clock = &clock,
                 .states = states.get(),
                 .max_rank = config.max_rank()});
  const absl::Status status = slot->Set(&daemon) ? daemon.Run() : absl::OkStatus();
  slot->Set(nullptr);
  return status;
}

// Runs on a thread of its own while this one waits for signals.
int RunUntilSignal(const Flags& flags, const TrainerFactory& create_trainer, const sigset_t& signals) {
  DaemonSlot slot;
  absl::Status status;
  std::thread runner([&] {
    status = Run(flags, create_trainer, &slot);
    kill(getpid(), kDoneSignal);
  });
  int signal = 0;
  sigwait(&signals, &signal);
  if (signal != kDoneSignal) {
    Logger("client")->info("event=stopping signal={}", signal);
    slot.Stop(absl::StrCat("signal ", signal));
    const timespec limit{kStopSeconds, 0};
    if (sigtimedwait(&signals, nullptr, &limit) != kDoneSignal) {
      Logger("client")->warn("event=stopped note=\"a training step was abandoned\"");
      std::_Exit(kExitOk);
    }
  }
  runner.join();
  if (!status.ok()) std::fprintf(stderr, "%s\n", ErrorLine(kProgram, status).c_str());
  return ExitCodeFor(status);
}

}  // namespace

int ClientMain(int argc, char** argv, const TrainerFactory& create_trainer) {
  // Before any thread is started, so that all inherit it and these arrive only where they are waited for.
  sigset_t signals;
  sigemptyset(&signals);
  for (const int signal : {SIGTERM, SIGINT, kDoneSignal}) sigaddset(&signals, signal);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);

  Flags flags;
  CLI::App app("Trains adapters beside private data, for the coordinator it dials.", kProgram);
  app.add_option("--config", flags.config, "client.yaml")->required();
  app.add_option("--set", flags.overrides, "override one key of it: --set threads=2 (may be repeated)");
  app.add_option("--device", flags.device, "auto, cpu or cuda; the same as --set device=...");
  app.add_flag("--insecure", flags.insecure, "allow a coordinator beyond loopback, without encryption");
  app.set_version_flag("--version", absl::StrCat(kProgram, " ", kVersion));
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help, --version
    std::fprintf(stderr, "%s\n", ErrorLine(kProgram, absl::InvalidArgumentError(error.what())).c_str());
    return kExitUsage;
  }
  return RunUntilSignal(flags, create_trainer, signals);
}

}  // namespace weft
