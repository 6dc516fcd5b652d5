#include "simulation/behaviour/trace.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "common/file.h"
#include "common/status_macros.h"

namespace weft::simulation {
namespace {

// The line of a client: its name, then numbers.
struct Line {
  int number = 0;
  std::string client;
  std::vector<double> values;
};

absl::Status Refuse(const std::string& path, int line, const std::string& found, const std::string& expected) {
  return absl::InvalidArgumentError(absl::StrCat(path, ":", line, ": found ", found, ", expected ", expected));
}

absl::StatusOr<std::vector<Line>> ReadLines(const std::string& path, const std::string& header) {
  WEFT_ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  const auto columns = static_cast<size_t>(std::count(header.begin(), header.end(), ',')) + 1;
  std::vector<Line> lines;
  int number = 0;
  for (absl::string_view row : absl::StrSplit(text, '\n')) {
    ++number;
    absl::ConsumeSuffix(&row, "\r");
    if (number == 1) {
      if (row != header) return Refuse(path, 1, absl::StrCat("\"", row, "\""), absl::StrCat("the header ", header));
      continue;
    }
    if (row.empty()) continue;
    const std::vector<std::string> cells = absl::StrSplit(row, ',');
    if (cells.size() != columns || cells[0].empty()) {
      return Refuse(path, number, absl::StrCat("\"", row, "\""), absl::StrCat("a line of ", header));
    }
    Line line{.number = number, .client = cells[0], .values = {}};
    for (size_t i = 1; i < cells.size(); ++i) {
      double value = 0;
      if (!absl::SimpleAtod(cells[i], &value) || !std::isfinite(value) || value < 0) {
        return Refuse(path, number, absl::StrCat("\"", cells[i], "\""), "a number from 0 on");
      }
      line.values.push_back(value);
    }
    lines.push_back(std::move(line));
  }
  if (lines.empty()) return Refuse(path, number, "no client", "one a line at least");
  return lines;
}

}  // namespace

absl::StatusOr<SpeedTrace> SpeedTrace::Read(const std::string& path, const FindClient& find) {
  WEFT_ASSIGN_OR_RETURN(const std::vector<Line> lines, ReadLines(path, "client,rows_per_second"));
  SpeedTrace trace;
  std::map<std::string, int> seen;
  for (const Line& line : lines) {
    const auto [first, added] = seen.emplace(line.client, line.number);
    if (!added)
      return Refuse(path, line.number, absl::StrCat(line.client, " again, as in line ", first->second), "it once");
    if (line.values[0] <= 0) return Refuse(path, line.number, "a speed of 0", "more");
    trace.speeds_.push_back(line.values[0]);
    trace.places_.Add(find(line.client));
  }
  return trace;
}

absl::StatusOr<AvailabilityTrace> AvailabilityTrace::Read(const std::string& path, const FindClient& find) {
  WEFT_ASSIGN_OR_RETURN(const std::vector<Line> lines, ReadLines(path, "client,from,until"));
  AvailabilityTrace trace;
  std::map<std::string, size_t> places;
  for (const Line& line : lines) {
    const auto [place, added] = places.emplace(line.client, trace.clients_.size());
    if (added) {
      trace.clients_.emplace_back();
      trace.places_.Add(find(line.client));
    }
    const absl::Duration from = absl::Seconds(line.values[0]), until = absl::Seconds(line.values[1]);
    if (until <= from) {
      return Refuse(path, line.number, absl::StrCat("until ", line.values[1]),
                    absl::StrCat("more than from, ", line.values[0]));
    }
    for (const auto& [begin, end] : trace.clients_[place->second]) {
      if (from >= end || until <= begin) continue;
      return Refuse(path, line.number,
                    absl::StrCat("a stay of ", line.client, " from ", line.values[0], " to ", line.values[1]),
                    absl::StrCat("none that overlaps its stay from ", absl::ToDoubleSeconds(begin), " to ",
                                 absl::ToDoubleSeconds(end)));
    }
    trace.clients_[place->second].emplace_back(from, until);
    trace.length_ = std::max(trace.length_, until);
  }
  for (Stays& stays : trace.clients_) std::sort(stays.begin(), stays.end());
  return trace;
}

absl::Duration AvailabilityTrace::EndOfStay(int64_t client, absl::Duration now) const {
  const Stays& stays = StaysOf(client);
  absl::Duration at;
  absl::Duration base = length_ * absl::IDivDuration(now, length_, &at);
  const auto holds = [&](const auto& stay) { return stay.first <= at && at < stay.second; };
  auto stay = std::find_if(stays.begin(), stays.end(), holds);
  if (stay == stays.end()) return now;
  // Through stays that begin where the one before ends, around the end of the trace once.
  const size_t most = stays.size() + 1;
  absl::Duration end = base + stay->second;
  for (size_t i = 0; i < most; ++i) {
    const bool last = stay + 1 == stays.end();
    const auto next = last ? stays.begin() : stay + 1;
    if (last) base += length_;
    if (base + next->first != end) return end;
    end = base + next->second;
    stay = next;
  }
  return absl::InfiniteDuration();
}

absl::Duration AvailabilityTrace::NextArrival(int64_t client, absl::Duration now) const {
  const Stays& stays = StaysOf(client);
  absl::Duration at;
  const absl::Duration base = length_ * absl::IDivDuration(now, length_, &at);
  for (const auto& [from, until] : stays) {
    if (at < until) return base + std::max(from, at);
  }
  return base + length_ + stays.front().first;
}

absl::StatusOr<CohortTrace> CohortTrace::Read(const std::string& path) {
  WEFT_ASSIGN_OR_RETURN(std::string text, ReadFile(path));
  if (!text.empty() && text.back() == '\n') text.pop_back();
  CohortTrace trace;
  for (absl::string_view row : absl::StrSplit(text, '\n')) {
    absl::ConsumeSuffix(&row, "\r");
    const int line = static_cast<int>(trace.cohorts_.size()) + 1;
    std::vector<std::string> names = absl::StrSplit(row, ',');
    std::sort(names.begin(), names.end());
    if (names.front().empty()) return Refuse(path, line, absl::StrCat("\"", row, "\""), "names with commas between");
    if (const auto twin = std::adjacent_find(names.begin(), names.end()); twin != names.end()) {
      return Refuse(path, line, absl::StrCat(*twin, " twice"), "it once");
    }
    trace.cohorts_.push_back(std::move(names));
  }
  return trace;
}

}  // namespace weft::simulation
