#include "simulation/scenario/scenario.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>
#include <google/protobuf/util/json_util.h>

#include <filesystem>
#include <map>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/hash.h"
#include "common/status_macros.h"
#include "config/yaml.h"
#include "server/submit_check.h"
#include "simulation/scenario/setting_names.h"

namespace weft::simulation {
namespace {

namespace fs = std::filesystem;
using google::protobuf::Value;

constexpr size_t kMostRuns = 10'000;

using Axis = std::pair<std::string, std::vector<std::string>>;  // setting -> values as YAML

// A value as YAML, which JSON is; numbers as people write them.
absl::StatusOr<std::string> Text(const std::string& setting, const Value& value) {
  if (value.kind_case() == Value::kStringValue) return value.string_value();
  std::string json;
  if (google::protobuf::util::MessageToJsonString(value, &json).ok()) return json;
  return absl::InvalidArgumentError(absl::StrCat("sweep: ", setting,
                                                 ": found a value that is none; list numbers, "
                                                 "words or mappings"));
}

absl::StatusOr<std::vector<Axis>> AxesOf(const proto::Scenario& scenario) {
  // By name: a Struct has no order.
  std::map<std::string, Value> settings(scenario.sweep().fields().begin(), scenario.sweep().fields().end());
  std::vector<Axis> axes;
  size_t runs = 1;
  for (const auto& [setting, list] : settings) {
    if (setting == "job.name" || setting == "run.out" || setting.starts_with("sweep")) {
      return absl::InvalidArgumentError(absl::StrCat("sweep: ", setting, " can't be swept; it says where results go"));
    }
    if (list.list_value().values().empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat("sweep: ", setting, ": found no list of values, expected one such as [1, 2]"));
    }
    Axis& axis = axes.emplace_back(setting, std::vector<std::string>());
    for (const Value& value : list.list_value().values()) {
      WEFT_ASSIGN_OR_RETURN(std::string text, Text(setting, value));
      axis.second.push_back(std::move(text));
    }
    runs *= axis.second.size();
    if (runs > kMostRuns) {
      return absl::InvalidArgumentError(absl::StrCat("sweep: asks for more than ", kMostRuns, " runs; list fewer"));
    }
  }
  return axes;
}

// Paths in a scenario are relative to its file.
void Locate(const std::string& file, std::string* path) {
  if (!path->empty()) *path = (fs::path(file).parent_path() / *path).lexically_normal().string();
}

void LocateAll(const std::string& file, proto::Scenario* scenario) {
  proto::JobConfig& job = *scenario->mutable_job();
  Locate(file, job.mutable_base()->mutable_path());
  Locate(file, job.mutable_warm_start());
  Locate(file, job.mutable_task()->mutable_labels_file());
  Locate(file, scenario->mutable_population()->mutable_data());
  Locate(file, scenario->mutable_behaviour()->mutable_cohorts());
  Locate(file, scenario->mutable_behaviour()->mutable_speed()->mutable_trace());
  Locate(file, scenario->mutable_behaviour()->mutable_availability()->mutable_trace());
}

// As a name of a folder: "aggregator=fedavg,seed=1". It follows from the values alone, so that a run is known again
// when the sweep has grown; where they don't fit into a name, a hash tells them apart.
std::string FolderName(const std::vector<std::pair<std::string, std::string>>& values) {
  constexpr size_t kLongest = 200;
  std::vector<std::string> settings;
  for (const auto& [setting, value] : values) settings.push_back(setting);
  const std::vector<std::string> names = ShortNames(settings);
  std::string name, whole;
  bool changed = false;
  for (size_t i = 0; i < values.size(); ++i) {
    std::string word = absl::StrCat(names[i], "=", ShortValue(values[i].second));
    for (char& c : word) {
      const bool plain =
          std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '=' || c == '.' || c == '-' || c == '_';
      changed |= !plain;
      if (!plain) c = '_';
    }
    absl::StrAppend(&name, i == 0 ? "" : ",", word);
    absl::StrAppend(&whole, values[i].first, "=", values[i].second, "\n");
  }
  if (!changed && name.size() <= kLongest) return name;
  return absl::StrCat(name.substr(0, kLongest), "-", ToHex(Sha256Of(whole)).substr(0, 8));
}

// Takes settings that are overridden out of the sweep.
absl::Status TakeOut(const std::vector<std::string>& overrides, std::vector<Axis>* axes) {
  for (const std::string& override_text : overrides) {
    const std::string path = override_text.substr(0, override_text.find('='));
    std::erase_if(*axes, [&](const Axis& axis) { return axis.first == path; });
    for (const Axis& axis : *axes) {
      if (!absl::StartsWith(path, axis.first + ".") && !absl::StartsWith(axis.first, path + ".")) continue;
      return absl::InvalidArgumentError(absl::StrCat("--set ", override_text, ": the sweep sets ", axis.first,
                                                     "; override that, or the sweep itself: --set \"sweep={}\""));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<proto::Scenario> Load(const std::string& path, const std::vector<std::string>& overrides) {
  proto::Scenario scenario;
  WEFT_RETURN_IF_ERROR(config::LoadYaml(path, overrides, &scenario));
  WEFT_RETURN_IF_ERROR(server::CheckName(scenario.job().name(), "job.name"));
  LocateAll(path, &scenario);
  return scenario;
}

}  // namespace

absl::StatusOr<std::vector<ScenarioRun>> LoadScenario(const std::string& path,
                                                      const std::vector<std::string>& overrides) {
  WEFT_ASSIGN_OR_RETURN(const proto::Scenario all, Load(path, overrides));
  WEFT_ASSIGN_OR_RETURN(std::vector<Axis> axes, AxesOf(all));
  WEFT_RETURN_IF_ERROR(TakeOut(overrides, &axes));
  const std::string folder = absl::StrCat(all.run().out(), "/", all.job().name());
  if (axes.empty()) {
    proto::Scenario one = all;
    one.clear_sweep();
    return std::vector<ScenarioRun>{{std::move(one), {}, folder}};
  }
  std::vector<ScenarioRun> runs;
  std::vector<size_t> at(axes.size(), 0);
  while (true) {
    ScenarioRun run;
    std::vector<std::string> sets = overrides;
    for (size_t i = 0; i < axes.size(); ++i) {
      run.values.emplace_back(axes[i].first, axes[i].second[at[i]]);
      sets.push_back(absl::StrCat(axes[i].first, "=", axes[i].second[at[i]]));
    }
    absl::StatusOr<proto::Scenario> scenario = Load(path, sets);
    if (!scenario.ok()) {
      return absl::Status(scenario.status().code(),
                          absl::StrCat("sweep: ", absl::StrJoin(run.values, ", ", absl::PairFormatter(" = ")), ": ",
                                       std::string(scenario.status().message())));
    }
    run.scenario = *std::move(scenario);
    run.scenario.clear_sweep();
    run.folder = absl::StrCat(folder, "/", FolderName(run.values));
    runs.push_back(std::move(run));
    size_t i = axes.size();
    while (i > 0 && ++at[i - 1] == axes[i - 1].second.size()) at[--i] = 0;
    if (i == 0) return runs;
  }
}

std::string FingerprintOf(const proto::Scenario& scenario) {
  proto::Scenario bare = scenario;
  bare.mutable_job()->mutable_base()->clear_path();
  bare.mutable_job()->mutable_task()->clear_labels_file();
  bare.mutable_job()->clear_warm_start();
  bare.mutable_population()->clear_data();
  const int64_t per_pass = scenario.run().tokens_per_pass();
  bare.clear_run();
  bare.mutable_run()->set_tokens_per_pass(per_pass);
  std::string bytes;
  {
    google::protobuf::io::StringOutputStream stream(&bytes);
    google::protobuf::io::CodedOutputStream coded(&stream);
    coded.SetSerializationDeterministic(true);
    bare.SerializeToCodedStream(&coded);
  }
  Sha256 sha;
  sha.Update(bytes);
  return ToHex(sha.Finish());
}

}  // namespace weft::simulation
