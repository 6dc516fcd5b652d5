// weft-coordinator: owns jobs, rounds, the journal and the aggregate; serves clients, `weft` and the status page.

#include <signal.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "common/clock.h"
#include "common/exit_code.h"
#include "common/logging.h"
#include "common/status_macros.h"
#include "common/version.h"
#include "config/yaml.h"
#include "proto/daemon.pb.h"
#include "server/coordinator.h"
#include "server/net/server.h"

namespace weft {
namespace {

struct Flags {
  std::string config;
  std::vector<std::string> overrides;
  bool insecure = false;
};

// `stop` holds the signals that end the process; they are blocked in every thread.
absl::Status Run(const Flags& flags, const sigset_t& stop) {
  proto::CoordinatorConfig config;
  WEFT_RETURN_IF_ERROR(config::LoadYaml(flags.config, flags.overrides, &config));
  SetLogLevel(config.log_level());
  const auto log = Logger("server");
  log->info("version={} config={}", kVersion, config::OneLine(config));

  const RealClock clock;
  server::Coordinator::Options options;
  options.config = config;
  options.clock = &clock;
  options.insecure = flags.insecure;
  WEFT_ASSIGN_OR_RETURN(const std::unique_ptr<server::Coordinator> coordinator, server::Coordinator::Open(options));
  WEFT_ASSIGN_OR_RETURN(const std::unique_ptr<server::Server> server,
                        server::Server::Start({config, coordinator.get(), flags.insecure}));
  int signal = 0;
  sigwait(&stop, &signal);
  log->info("stopping signal={}", signal);
  server->Shutdown();
  return absl::OkStatus();
}

}  // namespace
}  // namespace weft

int main(int argc, char** argv) {
  // Before any thread is started, so that all inherit it and only sigwait sees these.
  sigset_t stop;
  sigemptyset(&stop);
  sigaddset(&stop, SIGINT);
  sigaddset(&stop, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &stop, nullptr);

  weft::Flags flags;
  CLI::App app("Coordinates federated fine-tuning: owns jobs and rounds, holds no data and no base.",
               "weft-coordinator");
  app.add_option("--config", flags.config, "coordinator.yaml")->required();
  app.add_option("--set", flags.overrides, "override one key: --set page=off (may be repeated)");
  app.add_flag("--insecure", flags.insecure, "allow addresses beyond loopback, without encryption");
  app.set_version_flag("--version", std::string("weft-coordinator ") + weft::kVersion);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help, --version
    std::fprintf(stderr, "%s\n", weft::ErrorLine("weft-coordinator", absl::InvalidArgumentError(error.what())).c_str());
    return weft::kExitUsage;
  }
  const absl::Status status = weft::Run(flags, stop);
  if (!status.ok()) std::fprintf(stderr, "%s\n", weft::ErrorLine("weft-coordinator", status).c_str());
  return weft::ExitCodeFor(status);
}
