#include "common/logging.h"

#include <spdlog/sinks/stdout_color_sinks.h>

#include <map>

#include "common/mutex.h"

namespace weft {
namespace {

// Own table instead of spdlog's registry: making a logger twice from two threads would throw there.
struct Loggers {
  Mutex mutex;
  const spdlog::sink_ptr sink = std::make_shared<spdlog::sinks::stderr_color_sink_mt>();
  spdlog::level::level_enum level = spdlog::level::info;
  std::map<std::string, std::shared_ptr<spdlog::logger>> by_component;
};

Loggers& AllLoggers() {
  static Loggers* const loggers = new Loggers;  // never destroyed: threads may log until the process ends
  return *loggers;
}

}  // namespace

std::shared_ptr<spdlog::logger> Logger(const std::string& component) {
  Loggers& loggers = AllLoggers();
  MutexLock lock(loggers.mutex);
  std::shared_ptr<spdlog::logger>& logger = loggers.by_component[component];
  if (logger == nullptr) {
    logger = std::make_shared<spdlog::logger>(component, loggers.sink);
    logger->set_level(loggers.level);
    logger->flush_on(spdlog::level::trace);
  }
  return logger;
}

void SetLogLevel(const std::string& level) {
  Loggers& loggers = AllLoggers();
  MutexLock lock(loggers.mutex);
  loggers.level = spdlog::level::from_str(level);
  for (auto& [component, logger] : loggers.by_component) logger->set_level(loggers.level);
}

}  // namespace weft
