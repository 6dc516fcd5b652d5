#include "adapters/components.h"

#include <bit>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "adapters/factors.h"

namespace weft {
namespace {

bool Bit(std::string_view components, int64_t index) {
  return (static_cast<uint8_t>(components[static_cast<size_t>(index / 8)]) >> (index % 8) & 1) != 0;
}

int64_t ComponentsOf(const TensorSpec& tensor) {
  const std::optional<int> axis = RankAxis(tensor.role);
  return axis.has_value() && tensor.shape.size() == 2 ? tensor.shape[*axis] : 0;
}

// Calls copy(offset in sent, offset in packed, elements) for every run that is contiguous in both.
template <typename Copy>
void ForEachRun(const Layout& sent, const Layout& packed, std::string_view components, const Copy& copy) {
  int64_t first = 0;  // bit of the tensor
  for (const TensorSpec& dense : sent.tensors()) {
    const int64_t rank = ComponentsOf(dense);
    const TensorSpec* some = packed.Find(dense.name);
    if (some != nullptr && rank == 0) copy(dense.offset, some->offset, dense.size);
    int64_t to = 0;  // component in `packed`
    for (int64_t j = 0; some != nullptr && j < rank; ++j) {
      if (!Bit(components, first + j)) continue;
      if (*RankAxis(dense.role) == 0) {
        copy(dense.offset + j * dense.shape[1], some->offset + to * dense.shape[1], dense.shape[1]);
      } else {
        for (int64_t row = 0; row < dense.shape[0]; ++row) {
          copy(dense.offset + row * rank + j, some->offset + row * some->shape[1] + to, int64_t{1});
        }
      }
      ++to;
    }
    first += rank;
  }
}

}  // namespace

int64_t NumComponents(const Layout& sent) {
  int64_t components = 0;
  for (const TensorSpec& tensor : sent.tensors()) components += ComponentsOf(tensor);
  return components;
}

std::string ComponentBits(const std::vector<bool>& kept) {
  std::string bits((kept.size() + 7) / 8, '\0');
  for (size_t i = 0; i < kept.size(); ++i) {
    if (kept[i]) bits[i / 8] = static_cast<char>(static_cast<uint8_t>(bits[i / 8]) | 1U << (i % 8));
  }
  return bits;
}

int64_t CountComponents(std::string_view components) {
  int64_t count = 0;
  for (const char byte : components) count += std::popcount(static_cast<uint8_t>(byte));
  return count;
}

absl::StatusOr<std::shared_ptr<const Layout>> PackedLayout(const Layout& sent, std::string_view components) {
  const int64_t bits = NumComponents(sent);
  if (static_cast<int64_t>(components.size()) != (bits + 7) / 8) {
    return absl::InvalidArgumentError(absl::StrCat("components: found ", components.size(), " bytes, expected ",
                                                   (bits + 7) / 8, ", one bit for each of the ", bits,
                                                   " components of the factors sent"));
  }
  if (bits % 8 != 0 && static_cast<uint8_t>(components.back()) >> (bits % 8) != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("components: found bits beyond the ", bits, " components of the factors sent, expected zeros"));
  }
  std::vector<TensorSpec> tensors;
  int64_t first = 0;
  for (const TensorSpec& tensor : sent.tensors()) {
    const int64_t rank = ComponentsOf(tensor);
    int64_t kept = 0;
    for (int64_t j = 0; j < rank; ++j) kept += Bit(components, first + j) ? 1 : 0;
    first += rank;
    if (rank > 0 && kept == 0) continue;
    tensors.push_back(tensor);
    if (rank > 0) tensors.back().shape[static_cast<size_t>(*RankAxis(tensor.role))] = kept;
  }
  if (tensors.empty()) {
    return absl::InvalidArgumentError("components: found none set and no other tensor sent, expected at least one");
  }
  return Layout::Create(std::move(tensors));
}

Adapter Pack(const Adapter& update, std::string_view components, const std::shared_ptr<const Layout>& packed) {
  Adapter result(packed);
  ForEachRun(update.layout(), *packed, components, [&](int64_t from, int64_t to, int64_t size) {
    std::copy_n(update.values().begin() + from, size, result.values().begin() + to);
  });
  return result;
}

Adapter Unpack(const Adapter& packed, std::string_view components, const std::shared_ptr<const Layout>& sent) {
  Adapter result(sent);
  ForEachRun(*sent, packed.layout(), components, [&](int64_t to, int64_t from, int64_t size) {
    std::copy_n(packed.values().begin() + from, size, result.values().begin() + to);
  });
  return result;
}

}  // namespace weft
