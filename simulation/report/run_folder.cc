#include "simulation/report/run_folder.h"

#include <google/protobuf/util/json_util.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "common/file.h"
#include "common/status_macros.h"
#include "simulation/report/event_file.h"
#include "simulation/report/page.h"

namespace weft::simulation {
namespace {

using Json = nlohmann::ordered_json;

constexpr char kEvents[] = "events.out.tfevents.weft";

// Names in rounds.jsonl, in order, and as TensorBoard shows them.
constexpr std::pair<const char*, const char*> kColumns[] = {
    {"round", ""},
    {"train_loss", "train/loss"},
    {"accuracy", "evaluation/accuracy"},
    {"loss", "evaluation/loss"},
    {"f1", "evaluation/f1"},
    {"perplexity", "evaluation/perplexity"},
    {"evaluated_examples", ""},
    {"selected", "clients/selected"},
    {"updates", "clients/updates"},
    {"refused", "clients/refused"},
    {"failed", "clients/failed"},
    {"lost", "clients/lost"},
    {"hung", "clients/hung"},
    {"abandoned", "clients/abandoned_attempts"},
    {"examples", ""},
    {"bytes_up", "traffic/bytes_up"},
    {"bytes_down", "traffic/bytes_down"},
    {"epsilon", "privacy/epsilon"},
    {"real_seconds", "time/real_seconds"},
    {"simulated_seconds", "time/simulated_seconds"},
};

std::string ScenarioJson(const proto::Scenario& scenario) {
  google::protobuf::util::JsonPrintOptions options;
  options.preserve_proto_field_names = true;
  std::string json;
  if (!google::protobuf::util::MessageToJsonString(scenario, &json, options).ok()) return "{}";
  // Parsed and written again: a Struct's keys come in any order, an object's in theirs.
  return nlohmann::json::parse(json).dump(1);
}

// What the results of a scenario follow from: without where they go, and how fast and in how much memory they come.
nlohmann::json Essence(const std::string& scenario) {
  nlohmann::json essence = nlohmann::json::parse(scenario, nullptr, /*allow_exceptions=*/false);
  if (!essence.is_object()) return essence;
  nlohmann::json kept = nlohmann::json::object();
  for (const char* key : {"tokens_per_pass", "device"}) {
    if (essence.contains("run") && essence["run"].contains(key)) kept[key] = essence["run"][key];
  }
  essence["run"] = std::move(kept);
  return essence;
}

std::string NameOf(const std::string& folder) {
  std::filesystem::path path = std::filesystem::path(folder).lexically_normal();
  if (!path.has_filename()) path = path.parent_path();  // "runs/a/"
  return path.filename().string();
}

absl::Status Written(const std::ofstream& stream, const std::string& path) {
  if (stream.good()) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat(path, ": can't write; free some space and go on"));
}

// What is no number has no place in JSON.
Json Finite(double value) { return std::isfinite(value) ? Json(value) : Json(); }

std::string Text(const Json& json, int indent = 1) {
  return json.dump(indent, ' ', /*ensure_ascii=*/false, Json::error_handler_t::replace);
}

double Round4(double value) { return std::round(value * 1e4) / 1e4; }

Json ToJson(const ClientFigures& client) {
  Json json = {{"client", client.client},
               {"train_rows", client.train_rows},
               {"test_rows", client.test_rows},
               {"rounds", client.rounds}};
  if (client.accuracy.has_value()) json["accuracy"] = Finite(*client.accuracy);
  if (client.loss.has_value()) json["loss"] = Finite(*client.loss);
  if (!client.shift.empty()) json["shift"] = client.shift;
  if (!client.attack.empty()) json["attack"] = client.attack;
  if (client.max_rank > 0) json["max_rank"] = client.max_rank;
  return json;
}

// Mean, spread and the worst tenth over clients.
Json Fairness(const std::vector<ClientFigures>& clients) {
  std::vector<double> accuracies;
  for (const ClientFigures& client : clients) {
    if (client.accuracy.has_value()) accuracies.push_back(*client.accuracy);
  }
  if (accuracies.empty()) return nullptr;
  std::sort(accuracies.begin(), accuracies.end());
  const auto count = static_cast<double>(accuracies.size());
  double sum = 0, square = 0, worst = 0;
  for (const double accuracy : accuracies) sum += accuracy;
  for (const double accuracy : accuracies) square += (accuracy - sum / count) * (accuracy - sum / count);
  const auto tenth = static_cast<size_t>(std::max(1.0, std::floor(count / 10)));
  for (size_t i = 0; i < tenth; ++i) worst += accuracies[i] / static_cast<double>(tenth);
  const auto percentile = [&](double part) {
    return accuracies[std::min(accuracies.size() - 1, static_cast<size_t>(part * count))];
  };
  return {{"clients", accuracies.size()},     {"mean", sum / count},
          {"sd", std::sqrt(square / count)},  {"worst_tenth", worst},
          {"percentile_10", percentile(0.1)}, {"median", percentile(0.5)},
          {"percentile_90", percentile(0.9)}};
}

Json SummaryOf(const RunSummary& summary, const std::vector<Json>& rounds, const std::vector<ClientFigures>& clients) {
  uint64_t up = 0, down = 0;
  int64_t updates = 0;
  double seconds = 0;
  Json json = {{"state", summary.state},           {"message", summary.message}, {"version", summary.version},
               {"device", summary.device},         {"threads", summary.threads}, {"population", summary.population},
               {"parameters", summary.parameters}, {"rounds", rounds.size()}};
  for (const Json& round : rounds) {
    up += round.at("bytes_up").get<uint64_t>();
    down += round.at("bytes_down").get<uint64_t>();
    updates += round.at("updates").get<int64_t>();
    seconds += round.at("real_seconds").get<double>();
    if (round.contains("accuracy")) json["final_accuracy"] = round.at("accuracy");
    if (summary.target_accuracy.has_value() && !json.contains("to_target") && round.contains("accuracy") &&
        round.at("accuracy").get<double>() >= *summary.target_accuracy) {
      json["to_target"] = {{"accuracy", *summary.target_accuracy},
                           {"round", round.at("round")},
                           {"simulated_seconds", round.at("simulated_seconds")},
                           {"real_seconds", Round4(seconds)},
                           {"bytes_up", up},
                           {"bytes_down", down}};
    }
    if (round.contains("loss")) json["final_loss"] = round.at("loss");
    if (round.contains("epsilon")) json["epsilon"] = round.at("epsilon");
  }
  if (json.contains("final_accuracy")) {
    json["best_round"] = summary.best_round;
    json["best_accuracy"] = summary.best_accuracy;
  }
  if (summary.delta.has_value()) json["delta"] = *summary.delta;
  json["updates"] = updates;
  json["bytes_up"] = up;
  json["bytes_down"] = down;
  json["real_seconds"] = Round4(seconds);
  json["simulated_seconds"] = rounds.empty() ? Json(0) : rounds.back().at("simulated_seconds");
  json["updates_per_second"] = seconds > 0 ? Round4(static_cast<double>(updates) / seconds) : 0;
  json["peak_memory_mb"] = Round4(summary.peak_memory_mb);
  if (Json fairness = Fairness(clients); !fairness.is_null()) json["clients"] = std::move(fairness);
  return json;
}

}  // namespace

Json RoundToJson(const proto::RoundStatus& round) {
  const proto::SimulatedRound& simulated = round.simulated();
  Json json = {{"round", round.round()}, {"train_loss", Finite(round.train_loss())}};
  if (round.has_accuracy()) {
    json["accuracy"] = round.accuracy();
    json["loss"] = Finite(round.loss());
    json["evaluated_examples"] = round.evaluated_examples();
  }
  if (round.has_f1()) json["f1"] = round.f1();
  if (round.has_perplexity()) json["perplexity"] = Finite(round.perplexity());
  json["selected"] = round.selected();
  json["updates"] = round.updates();
  json["refused"] = simulated.refused();
  json["failed"] = simulated.failed();
  json["lost"] = simulated.lost();
  json["hung"] = simulated.hung();
  json["abandoned"] = round.abandoned();
  json["examples"] = round.examples();
  json["bytes_up"] = round.bytes_up();
  json["bytes_down"] = round.bytes_down();
  if (round.has_epsilon()) json["epsilon"] = round.epsilon();
  json["real_seconds"] = Round4(simulated.real_seconds());
  json["simulated_seconds"] = static_cast<double>(simulated.clock_us()) / 1e6;
  return json;
}

absl::Status RunFolder::Check(const std::string& folder, const proto::Scenario& scenario) {
  const absl::StatusOr<std::string> before = ReadFile(folder + "/scenario.json");
  if (!before.ok() || Essence(*before) == Essence(ScenarioJson(scenario))) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      folder, ": holds a run of another scenario; give this one another job.name or run.out, or remove the folder"));
}

absl::StatusOr<std::unique_ptr<RunFolder>> RunFolder::Open(const std::string& folder, const proto::Scenario& scenario,
                                                           std::span<const proto::RoundStatus> rounds) {
  WEFT_RETURN_IF_ERROR(MakeDirectories(folder));
  WEFT_RETURN_IF_ERROR(Check(folder, scenario));
  const std::string json = ScenarioJson(scenario);
  WEFT_RETURN_IF_ERROR(WriteFileAtomically(folder + "/scenario.json", std::string_view(json)));
  std::unique_ptr<RunFolder> run(new RunFolder(folder, Json::parse(json)));
  run->jsonl_.open(folder + "/rounds.jsonl", std::ios::trunc);
  run->csv_.open(folder + "/rounds.csv", std::ios::trunc);
  run->events_.open(absl::StrCat(folder, "/", kEvents), std::ios::trunc | std::ios::binary);
  std::string header;
  for (const auto& [name, tag] : kColumns) absl::StrAppend(&header, header.empty() ? "" : ",", name);
  run->csv_ << header << "\n";
  // Rounds from before keep their distances in time.
  for (const proto::RoundStatus& round : rounds) run->time_ -= absl::Seconds(round.simulated().real_seconds());
  run->events_ << EventFileStart(run->time_);
  for (const proto::RoundStatus& round : rounds) WEFT_RETURN_IF_ERROR(run->Add(round));
  return run;
}

absl::Status RunFolder::Add(const proto::RoundStatus& round) {
  const Json json = RoundToJson(round);
  std::string line;
  std::vector<std::pair<std::string, double>> scalars;
  for (const auto& [name, tag] : kColumns) {
    const bool there = json.contains(name) && !json.at(name).is_null();
    absl::StrAppend(&line, &name == &kColumns[0].first ? "" : ",", there ? json.at(name).dump() : "");
    if (there && *tag != 0) scalars.emplace_back(tag, json.at(name).get<double>());
  }
  jsonl_ << Text(json, -1) << "\n" << std::flush;
  csv_ << line << "\n" << std::flush;
  time_ += absl::Seconds(round.simulated().real_seconds());
  events_ << ScalarEvent(time_, round.round(), scalars) << std::flush;
  rounds_.push_back(json);
  WEFT_RETURN_IF_ERROR(Written(jsonl_, folder_ + "/rounds.jsonl"));
  WEFT_RETURN_IF_ERROR(Written(csv_, folder_ + "/rounds.csv"));
  return Written(events_, absl::StrCat(folder_, "/", kEvents));
}

absl::Status RunFolder::Finish(const RunSummary& summary, const std::vector<ClientFigures>& clients) {
  Json list = Json::array();
  for (const ClientFigures& client : clients) list.push_back(ToJson(client));
  WEFT_RETURN_IF_ERROR(WriteFileAtomically(folder_ + "/clients.json", std::string_view(Text(list))));
  const Json json = SummaryOf(summary, rounds_, clients);
  const Json run = {
      {"name", NameOf(folder_)}, {"scenario", scenario_}, {"clients", list}, {"summary", json}, {"rounds", rounds_}};
  WEFT_RETURN_IF_ERROR(WriteFileAtomically(folder_ + "/report.html", std::string_view(PageOf({run}))));
  return WriteFileAtomically(folder_ + "/summary.json", std::string_view(Text(json)));
}

absl::StatusOr<Json> ReadRun(const std::string& folder) {
  std::error_code error;
  if (std::filesystem::exists(folder + "/table.json", error)) {
    return absl::NotFoundError(absl::StrCat(folder, ": is a sweep; name folders of runs in it"));
  }
  Json run = {{"name", NameOf(folder)}};
  for (const char* part : {"scenario", "clients", "summary"}) {
    const std::string path = absl::StrCat(folder, "/", part, ".json");
    absl::StatusOr<std::string> text = ReadFile(path);
    if (absl::IsNotFound(text.status())) {
      return absl::NotFoundError(
          absl::StrCat(folder, ": holds no finished run (no ", part, ".json); let it end first"));
    }
    WEFT_RETURN_IF_ERROR(text.status());
    run[part] = Json::parse(*text, nullptr, /*allow_exceptions=*/false);
    if (run[part].is_discarded()) return absl::DataLossError(absl::StrCat(path, ": no JSON; run the scenario again"));
  }
  WEFT_ASSIGN_OR_RETURN(const std::string lines, ReadFile(folder + "/rounds.jsonl"));
  run["rounds"] = Json::array();
  for (const absl::string_view line : absl::StrSplit(lines, '\n', absl::SkipEmpty())) {
    run["rounds"].push_back(Json::parse(line, nullptr, /*allow_exceptions=*/false));
    if (!run["rounds"].back().is_object()) {
      return absl::DataLossError(
          absl::StrCat(folder, "/rounds.jsonl: a line is no JSON object; run the scenario again"));
    }
  }
  return run;
}

bool IsFinished(const std::string& folder, const proto::Scenario& scenario) {
  return RunFolder::Check(folder, scenario).ok() && ReadRun(folder).ok();
}

}  // namespace weft::simulation
