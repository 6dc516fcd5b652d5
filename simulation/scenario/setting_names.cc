#include "simulation/scenario/setting_names.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "nlohmann/json.hpp"

namespace weft::simulation {
namespace {

using Json = nlohmann::json;

std::string Last(const std::vector<std::string>& words, size_t count) {
  const auto begin = words.end() - static_cast<std::ptrdiff_t>(std::min(count, words.size()));
  return absl::StrJoin(begin, words.end(), ".");
}

std::string InOneLine(const Json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (!value.is_object()) return value.dump();
  std::vector<std::string> parts;
  if (value.contains("name")) parts.push_back(InOneLine(value.at("name")));
  for (const auto& [key, inner] : value.items()) {
    if (key == "name") continue;
    const std::string text = InOneLine(inner);
    parts.push_back(key == "config" ? text : absl::StrCat(key, "=", inner.is_object() ? "(" + text + ")" : text));
  }
  return absl::StrJoin(parts, " ");
}

}  // namespace

std::vector<std::string> ShortNames(const std::vector<std::string>& settings) {
  std::vector<std::vector<std::string>> paths;
  for (const std::string& setting : settings) {
    std::vector<std::string> words = absl::StrSplit(setting, '.');
    if (words.size() > 1 && words.back() == "name") words.pop_back();
    paths.push_back(std::move(words));
  }
  std::vector<std::string> names;
  for (const std::vector<std::string>& path : paths) {
    size_t count = 1;
    const auto same = [&](const std::vector<std::string>& other) { return Last(other, count) == Last(path, count); };
    while (count < path.size() && std::count_if(paths.begin(), paths.end(), same) > 1) ++count;
    names.push_back(Last(path, count));
  }
  return names;
}

std::string ShortValue(const std::string& value) {
  const Json json = Json::parse(value, nullptr, /*allow_exceptions=*/false);
  return json.is_object() ? InOneLine(json) : value;
}

}  // namespace weft::simulation
