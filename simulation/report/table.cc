#include "simulation/report/table.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "simulation/scenario/setting_names.h"

namespace weft::simulation {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kFigures[] = {"final_accuracy",
                                    "best_accuracy",
                                    "worst_tenth",
                                    "final_loss",
                                    "epsilon",
                                    "bytes_up",
                                    "bytes_down",
                                    "simulated_seconds",
                                    "real_seconds",
                                    "to_target_round",
                                    "to_target_simulated_seconds",
                                    "to_target_real_seconds"};

bool IsSeed(const std::string& setting) { return setting == "job.seed" || setting == "population.seed"; }

// Null where the run lacks it.
Json FigureOf(const Json& summary, const std::string& name) {
  Json::json_pointer path("/" + name);
  if (name == "worst_tenth") path = Json::json_pointer("/clients/worst_tenth");
  if (name.starts_with("to_target_")) path = Json::json_pointer("/to_target/" + name.substr(10));
  return summary.contains(path) ? summary.at(path) : Json();
}

std::string Quoted(const std::string& text) {
  if (text.find_first_of(",\"\n") == std::string::npos) return text;
  return absl::StrCat("\"", absl::StrReplaceAll(text, {{"\"", "\"\""}}), "\"");
}

// All lines of a table have the same settings.
std::vector<std::string> SettingsOf(const Json& table) {
  std::vector<std::string> settings;
  for (const Json& line : table) {
    for (const auto& [setting, value] : line.at("settings").items()) settings.push_back(setting);
    break;
  }
  return settings;
}

std::string Joined(const Json& settings, const std::vector<std::string>& names) {
  std::string text;
  size_t i = 0;
  for (const auto& [setting, value] : settings.items()) {
    absl::StrAppend(&text, text.empty() ? "" : ", ", names[i++], "=", ShortValue(value.get<std::string>()));
  }
  return text.empty() ? "all" : text;
}

}  // namespace

Json TableOf(const std::vector<TableRun>& runs) {
  std::vector<std::string> order;
  std::map<std::string, std::vector<const TableRun*>> groups;
  std::map<std::string, Json> settings;
  for (const TableRun& run : runs) {
    Json values = Json::object();
    for (const auto& [setting, value] : run.values) {
      if (!IsSeed(setting)) values[setting] = value;
    }
    const std::string key = values.dump();
    if (!groups.contains(key)) order.push_back(key);
    groups[key].push_back(&run);
    settings[key] = std::move(values);
  }
  Json table = Json::array();
  for (const std::string& key : order) {
    Json line = {{"settings", settings[key]}, {"runs", groups[key].size()}};
    for (const char* name : kFigures) {
      std::vector<double> values;
      for (const TableRun* run : groups[key]) {
        if (const Json value = FigureOf(run->summary, name); value.is_number()) values.push_back(value.get<double>());
      }
      if (values.empty()) continue;
      double mean = 0, square = 0;
      for (const double value : values) mean += value / static_cast<double>(values.size());
      for (const double value : values) square += (value - mean) * (value - mean);
      line[name] = {{"mean", mean}};
      if (values.size() > 1) line[name]["sd"] = std::sqrt(square / static_cast<double>(values.size() - 1));
      line[name]["runs"] = values.size();
    }
    table.push_back(std::move(line));
  }
  return table;
}

std::string TableCsv(const Json& table) {
  std::string text;
  for (const std::string& setting : SettingsOf(table)) absl::StrAppend(&text, setting, ",");
  text += "runs";
  for (const char* name : kFigures) absl::StrAppend(&text, ",", name, "_mean,", name, "_sd,", name, "_runs");
  text += "\n";
  for (const Json& line : table) {
    for (const auto& [setting, value] : line.at("settings").items()) {
      absl::StrAppend(&text, Quoted(ShortValue(value.get<std::string>())), ",");
    }
    absl::StrAppend(&text, line.at("runs").get<int64_t>());
    for (const char* name : kFigures) {
      for (const char* part : {"mean", "sd", "runs"}) {
        const bool there = line.contains(name) && line.at(name).contains(part);
        absl::StrAppend(&text, ",", there ? line.at(name).at(part).dump() : "");
      }
    }
    text += "\n";
  }
  return text;
}

std::string TableText(const Json& table) {
  size_t width = 7;
  const std::vector<std::string> names = ShortNames(SettingsOf(table));
  for (const Json& line : table) width = std::max(width, Joined(line.at("settings"), names).size());
  std::string text = absl::StrFormat("%-*s  runs  final accuracy    best accuracy     worst tenth\n", width, "setting");
  for (const Json& line : table) {
    absl::StrAppendFormat(&text, "%-*s  %4d", width, Joined(line.at("settings"), names),
                          line.at("runs").get<int64_t>());
    for (const char* name : {"final_accuracy", "best_accuracy", "worst_tenth"}) {
      if (!line.contains(name)) {
        absl::StrAppendFormat(&text, "  %-16s", "-");
        continue;
      }
      std::string figure = absl::StrFormat("%.4f", line.at(name).at("mean").get<double>());
      if (line.at(name).contains("sd"))
        absl::StrAppendFormat(&figure, " +- %.4f", line.at(name).at("sd").get<double>());
      absl::StrAppendFormat(&text, "  %-16s", figure);
    }
    while (text.back() == ' ') text.pop_back();
    text += "\n";
  }
  return text;
}

}  // namespace weft::simulation
