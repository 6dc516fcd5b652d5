#include "adapters/factors.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace weft {
namespace {

constexpr char kEndA[] = ".lora_A.weight";
constexpr char kEndB[] = ".lora_B.weight";

absl::Status Refused(const TensorSpec& spec, const std::string& found, const std::string& expected) {
  return absl::InvalidArgumentError(absl::StrCat("tensor \"", spec.name, "\" of role ", spec.role, ": found ", found,
                                                 ", expected ", expected, "; lay the adapter out as its form does"));
}

std::string ShapeText(const TensorSpec& spec) { return absl::StrCat("shape ", absl::StrJoin(spec.shape, "x")); }

// Calls copy(offset in full, offset in cut, elements) for every run that is contiguous in both.
template <typename Copy>
void ForEachRun(const Layout& full, const Layout& cut, const Copy& copy) {
  for (const TensorSpec& to : cut.tensors()) {
    const TensorSpec* from = full.Find(to.name);
    const std::optional<int> axis = RankAxis(to.role);
    bool fits = from != nullptr && from->role == to.role && from->shape.size() == to.shape.size();
    for (size_t d = 0; fits && d < to.shape.size(); ++d) {
      const bool cut_here = axis == static_cast<int>(d);
      fits = cut_here ? to.shape[d] <= from->shape[d] : to.shape[d] == from->shape[d];
    }
    if (!fits) {
      std::fprintf(stderr, "weft: tensor \"%s\" is not cut from the adapter's layout\n", to.name.c_str());
      std::abort();
    }
    if (axis != 1) {
      copy(from->offset, to.offset, to.size);  // leading rows, or all
      continue;
    }
    for (int64_t row = 0; row < to.shape[0]; ++row) {
      copy(from->offset + row * from->shape[1], to.offset + row * to.shape[1], to.shape[1]);
    }
  }
}

}  // namespace

absl::StatusOr<std::vector<FactorPair>> FactorPairs(const Layout& layout) {
  std::vector<FactorPair> pairs;
  std::map<std::string, const TensorSpec*> waiting;  // B by module
  for (const TensorSpec& spec : layout.tensors()) {
    const bool is_a = spec.role == kRoleLoraA;
    if (!is_a && spec.role != kRoleLoraB) continue;
    const std::string end = is_a ? kEndA : kEndB;
    if (!spec.name.ends_with(end)) return Refused(spec, "that name", absl::StrCat("one that ends in ", end));
    if (spec.shape.size() != 2) return Refused(spec, ShapeText(spec), is_a ? "[rank, in]" : "[out, rank]");
    std::string module = spec.name.substr(0, spec.name.size() - end.size());
    if (is_a) {
      pairs.push_back({std::move(module), &spec, nullptr, spec.shape[0], spec.shape[1], 0});
    } else {
      waiting[std::move(module)] = &spec;
    }
  }
  for (FactorPair& pair : pairs) {
    const auto found = waiting.find(pair.module);
    if (found == waiting.end()) return Refused(*pair.a, "no partner", absl::StrCat(pair.module, kEndB));
    pair.b = found->second;
    waiting.erase(found);
    if (pair.b->shape[1] != pair.rank) {
      return Refused(*pair.b, ShapeText(*pair.b), absl::StrCat("[out, ", pair.rank, "], the rank of ", pair.a->name));
    }
    pair.out = pair.b->shape[0];
  }
  if (!waiting.empty()) {
    return Refused(*waiting.begin()->second, "no partner", absl::StrCat(waiting.begin()->first, kEndA));
  }
  return pairs;
}

std::optional<int> RankAxis(std::string_view role) {
  if (role == kRoleLoraA) return 0;
  if (role == kRoleLoraB) return 1;
  return std::nullopt;
}

absl::StatusOr<std::shared_ptr<const Layout>> SentLayout(const Layout& layout, const std::vector<std::string>& roles,
                                                         int64_t rank) {
  if (rank < 0) return absl::InvalidArgumentError(absl::StrCat("rank: found ", rank, ", expected 0 (all) or more"));
  if (roles.empty()) return absl::InvalidArgumentError("roles sent: found none, expected at least one");
  for (const std::string& role : roles) {
    const bool known = std::any_of(layout.tensors().begin(), layout.tensors().end(),
                                   [&](const TensorSpec& spec) { return spec.role == role; });
    if (!known) {
      return absl::InvalidArgumentError(
          absl::StrCat("roles sent: found \"", role, "\", which no tensor of the adapter has; expected its roles"));
    }
  }
  std::vector<TensorSpec> tensors;
  for (const TensorSpec& spec : layout.tensors()) {
    if (std::find(roles.begin(), roles.end(), spec.role) == roles.end()) continue;
    tensors.push_back(spec);
    const std::optional<int> axis = RankAxis(spec.role);
    if (rank == 0 || !axis) continue;
    if (spec.shape.size() != 2) return Refused(spec, ShapeText(spec), "a matrix, to cut it to a rank");
    int64_t& components = tensors.back().shape[*axis];
    components = std::min(components, rank);
  }
  return Layout::Create(std::move(tensors));
}

Adapter Cut(const Adapter& full, const std::shared_ptr<const Layout>& cut) {
  Adapter result(cut);
  ForEachRun(full.layout(), *cut, [&](int64_t from, int64_t to, int64_t size) {
    std::copy_n(full.values().begin() + from, size, result.values().begin() + to);
  });
  return result;
}

void PutBack(const Adapter& cut, Adapter* full) {
  ForEachRun(full->layout(), cut.layout(), [&](int64_t to, int64_t from, int64_t size) {
    std::copy_n(cut.values().begin() + from, size, full->values().begin() + to);
  });
}

}  // namespace weft
