#include "aggregators/core/exact_sum.h"

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/hash.h"
#include "common/large_pages.h"
#include "common/parallel.h"
#include "common/status_macros.h"
#include "kernels/fold.h"
#include "kernels/fold_reference.h"

namespace weft::aggregators {
namespace {

using kernels::FoldFormat;
using kernels::FoldSource;

static_assert(std::endian::native == std::endian::little, "Save writes memory as it lies");
static_assert(kBlockSize == kernels::kFoldBlock);

constexpr char kMagic[] = "weft.exact_sum.2";
constexpr size_t kMagicBytes = sizeof(kMagic) - 1;
constexpr size_t kHashBytes = 32;
// Elements that are folded at a time. Its limbs stay in the second cache, and a run of one update is long enough for
// the hardware to read ahead. A multiple of the block, so that tiles begin at blocks.
constexpr int64_t kTile = 4096;
static_assert(kTile % kBlockSize == 0);
constexpr int64_t kLowLimit = int64_t{1} << 55;

// Fixed part of a saved state, followed by the limbs and a SHA-256.
struct Header {
  char magic[kMagicBytes];
  char binding[kHashBytes];
  char layout[kHashBytes];
  uint64_t elements;
  uint64_t total_weight;
  int64_t updates;
};
static_assert(sizeof(Header) == kMagicBytes + 2 * kHashBytes + 24, "no padding: every saved byte is defined");

// `header` has been compared in size only.
absl::Status CheckHeader(const Header& header, const Header& expected) {
  const auto same = [](const char* found, const char* wanted, size_t size) {
    return std::memcmp(found, wanted, size) == 0;
  };
  if (!same(header.magic, expected.magic, kMagicBytes)) {
    return absl::DataLossError("saved sum: not the state of a sum; start the round again");
  }
  if (!same(header.binding, expected.binding, kHashBytes)) {
    return absl::DataLossError("saved sum: found another rule, config or round than this one; start the round again");
  }
  if (!same(header.layout, expected.layout, kHashBytes) || header.elements != expected.elements) {
    return absl::DataLossError("saved sum: found another layout than this one; start the round again");
  }
  return absl::OkStatus();
}

Header MakeHeader(std::string_view binding, const Layout& layout, uint64_t total_weight, int64_t updates) {
  Header header{};
  std::memcpy(header.magic, kMagic, kMagicBytes);
  std::memcpy(header.binding, Sha256Of(binding).data(), kHashBytes);
  std::memcpy(header.layout, Sha256Of(layout.hash()).data(), kHashBytes);
  header.elements = static_cast<uint64_t>(layout.num_elements());
  header.total_weight = total_weight;
  header.updates = updates;
  return header;
}

absl::Status WeightsTooLarge(const char* what, uint64_t found, uint64_t before) {
  return absl::InvalidArgumentError(absl::StrCat(what, ": found ", found, " on top of ", before,
                                                 ", expected a total of at most ", ExactSum::kMaxTotalWeight,
                                                 "; lower the bound on the weight of one client"));
}

// A run of elements of one tensor. Begins at a multiple of kTile in it.
struct Tile {
  size_t tensor;
  int64_t in_tensor;  // first element, from the tensor's beginning
  int64_t size;
};

std::vector<Tile> TilesOf(const Layout& layout) {
  std::vector<Tile> tiles;
  for (size_t t = 0; t < layout.tensors().size(); ++t) {
    const int64_t size = layout.tensors()[t].size;
    for (int64_t begin = 0; begin < size; begin += kTile) tiles.push_back({t, begin, std::min(kTile, size - begin)});
  }
  return tiles;
}

// The updates of a group that share an encoding other than topk.
struct Dense {
  Encoding encoding;
  FoldFormat format;
  std::vector<FoldSource> sources;  // from the update's first byte on
  std::vector<TensorPlace> places;  // int8, int4

  // The sources from a tile on.
  std::vector<FoldSource> At(const Layout& layout, const Tile& tile) const {
    std::vector<FoldSource> moved = sources;
    for (FoldSource& source : moved) {
      const auto* const bytes = static_cast<const char*>(source.values);
      const int64_t element = layout.tensors()[tile.tensor].offset + tile.in_tensor;
      switch (encoding) {
        case Encoding::kF32:
          source.values = bytes + (element * 4);
          break;
        case Encoding::kInt8:
        case Encoding::kInt4: {
          const TensorPlace& place = places[tile.tensor];
          source.scales = bytes + ((place.first_scale + (tile.in_tensor / kBlockSize)) * 4);
          source.values =
              bytes + place.first_code_byte + (encoding == Encoding::kInt4 ? tile.in_tensor / 2 : tile.in_tensor);
          break;
        }
        default:
          source.values = bytes + (element * 2);
      }
    }
    return moved;
  }
};

constexpr std::pair<Encoding, FoldFormat> kDenseFormats[] = {{Encoding::kF32, FoldFormat::kF32},
                                                             {Encoding::kBf16, FoldFormat::kBf16},
                                                             {Encoding::kF16, FoldFormat::kF16},
                                                             {Encoding::kInt8, FoldFormat::kInt8},
                                                             {Encoding::kInt4, FoldFormat::kInt4}};

std::vector<Dense> GroupByEncoding(std::span<const EncodedUpdate* const> updates, std::span<const uint64_t> weights,
                                   const Layout& layout) {
  std::vector<Dense> groups;
  for (const auto& [encoding, format] : kDenseFormats) {
    Dense group{.encoding = encoding, .format = format, .sources = {}, .places = {}};
    for (size_t k = 0; k < updates.size(); ++k) {
      if (updates[k]->encoding() != encoding) continue;
      FoldSource source{.values = updates[k]->bytes().data(), .weight = weights[k]};
      if (updates[k]->checked()) source.max_abs = updates[k]->max_abs();
      group.sources.push_back(source);
    }
    if (group.sources.empty()) continue;
    const bool in_blocks = encoding == Encoding::kInt8 || encoding == Encoding::kInt4;
    if (in_blocks) group.places = TensorPlaces(layout, encoding);
    groups.push_back(std::move(group));
  }
  return groups;
}

// An update under topk: some elements, one by one.
void AddPairs(const EncodedUpdate& update, uint64_t weight, int64_t* hi, int64_t* lo) {
  const std::byte* counts = update.bytes().data();
  const std::byte* pairs = counts + (update.layout().tensors().size() * 4);
  for (const TensorSpec& tensor : update.layout().tensors()) {
    uint32_t count = 0;
    std::memcpy(&count, counts, 4);
    counts += 4;
    for (uint32_t i = 0; i < count; ++i, pairs += 8) {
      uint32_t index = 0;
      float value = 0;
      std::memcpy(&index, pairs, 4);
      std::memcpy(&value, pairs + 4, 4);
      kernels::AddProduct(value, weight, hi + tensor.offset + index, lo + tensor.offset + index);
    }
  }
}

}  // namespace

void ExactSum::Limbs::Free::operator()(int64_t* p) const { std::free(p); }

ExactSum::Limbs::Limbs(int64_t size)
    : data_(static_cast<int64_t*>(std::calloc(static_cast<size_t>(size), sizeof(int64_t)))) {
  if (data_ == nullptr) throw std::bad_alloc();  // as new would
  AdviseLargePages(data_.get(), static_cast<size_t>(size) * sizeof(int64_t));
}

ExactSum::ExactSum(std::shared_ptr<const Layout> layout)
    : layout_(std::move(layout)), hi_(layout_->num_elements()), lo_(layout_->num_elements()) {}

absl::Status ExactSum::Check(const EncodedUpdate& update, uint64_t weight) const {
  if (!(update.layout() == *layout_)) {
    return absl::InvalidArgumentError(absl::StrCat("layout: found hash ", update.layout().hash(), ", expected ",
                                                   layout_->hash(), "; send the tensors the plan asks for"));
  }
  if (weight == 0 || weight > kMaxWeight) {
    return absl::InvalidArgumentError(
        absl::StrCat("weight: found ", weight, ", expected 1 to ", kMaxWeight, "; bound the weight of one client"));
  }
  if (weight > kMaxTotalWeight - total_weight_) return WeightsTooLarge("weight", weight, total_weight_);
  return update.CheckValues();
}

absl::Status ExactSum::Add(const EncodedUpdate& update, uint64_t weight) {
  WEFT_RETURN_IF_ERROR(Check(update, weight));
  const EncodedUpdate* const one = &update;
  AddChecked({&one, 1}, {&weight, 1}, 1);
  return absl::OkStatus();
}

void ExactSum::AddChecked(std::span<const EncodedUpdate* const> updates, std::span<const uint64_t> weights,
                          int threads) {
  if (updates_ == 0) {
    // Limbs take memory at their first write. Before the fold, since clearing a large page in the midst of it drives
    // out what was asked for early.
    constexpr int64_t kPage = 4096 / sizeof(int64_t);
    ParallelFor(threads, layout_->num_elements() / kPage, [&](int64_t begin, int64_t end) {
      for (int64_t page = begin; page < end; ++page) hi_.data()[page * kPage] = lo_.data()[page * kPage] = 0;
    });
  }
  const std::vector<Tile> tiles = TilesOf(*layout_);
  const std::vector<Dense> groups = GroupByEncoding(updates, weights, *layout_);
  ParallelFor(threads, static_cast<int64_t>(tiles.size()), [&](int64_t begin, int64_t end) {
    for (const Dense& group : groups) {
      for (int64_t i = begin; i < end; ++i) {
        const Tile& tile = tiles[static_cast<size_t>(i)];
        const int64_t element = layout_->tensors()[tile.tensor].offset + tile.in_tensor;
        const std::vector<FoldSource> sources = group.At(*layout_, tile);
        for (size_t k = 0; k < sources.size(); k += kernels::kMostFoldSources) {
          kernels::Fold(group.format, sources.data() + k, std::min(kernels::kMostFoldSources, sources.size() - k),
                        static_cast<size_t>(tile.size), hi_.data() + element, lo_.data() + element);
        }
      }
    }
  });
  for (size_t k = 0; k < updates.size(); ++k) {
    if (updates[k]->encoding() == Encoding::kTopK) AddPairs(*updates[k], weights[k], hi_.data(), lo_.data());
    total_weight_ += weights[k];
    ++updates_;
  }
}

absl::Status ExactSum::Merge(const ExactSum& other) {
  if (!(*other.layout_ == *layout_)) {
    return absl::InvalidArgumentError(absl::StrCat("merge: found a sum of layout ", other.layout_->hash(),
                                                   ", expected ", layout_->hash(), "; merge parts of one round"));
  }
  if (other.total_weight_ > kMaxTotalWeight - total_weight_) {
    return WeightsTooLarge("merge", other.total_weight_, total_weight_);
  }
  for (int64_t i = 0; i < layout_->num_elements(); ++i) {
    kernels::AddLimbs(other.hi_[i], other.lo_[i], hi_.data() + i, lo_.data() + i);
  }
  total_weight_ += other.total_weight_;
  updates_ += other.updates_;
  return absl::OkStatus();
}

absl::StatusOr<Adapter> ExactSum::Mean(int threads) const {
  if (updates_ == 0) {
    return absl::FailedPreconditionError("nothing was accumulated, expected at least one update before the mean");
  }
  Adapter mean(layout_);
  float* const values = mean.values().data();
  ParallelFor(threads, layout_->num_elements(), [&](int64_t begin, int64_t end) {
    kernels::Quotients(hi_.data() + begin, lo_.data() + begin, static_cast<size_t>(end - begin), total_weight_,
                       values + begin);
  });
  return mean;
}

double ExactSum::SumAsDouble(int64_t index) const { return kernels::QuotientF64(hi_[index], lo_[index], 1); }

double ExactSum::MeanAsDouble(int64_t index) const {
  return kernels::QuotientF64(hi_[index], lo_[index], total_weight_);
}

std::string ExactSum::Save(std::string_view binding) const {
  const Header header = MakeHeader(binding, *layout_, total_weight_, updates_);
  std::string state;
  state.reserve(sizeof(header) + (2 * limbs_bytes()) + kHashBytes);
  state.append(reinterpret_cast<const char*>(&header), sizeof(header));
  state.append(reinterpret_cast<const char*>(hi_.data()), limbs_bytes());
  state.append(reinterpret_cast<const char*>(lo_.data()), limbs_bytes());
  state.append(Sha256Of(state));
  return state;
}

absl::Status ExactSum::Restore(std::string_view binding, std::string_view state) {
  const size_t expected_bytes = sizeof(Header) + (2 * limbs_bytes()) + kHashBytes;
  if (state.size() != expected_bytes) {
    return absl::DataLossError(absl::StrCat("saved sum: found ", state.size(), " bytes, expected ", expected_bytes,
                                            "; start the round again"));
  }
  Header header;
  std::memcpy(&header, state.data(), sizeof(header));
  WEFT_RETURN_IF_ERROR(CheckHeader(header, MakeHeader(binding, *layout_, 0, 0)));
  const std::string_view content = state.substr(0, state.size() - kHashBytes);
  if (Sha256Of(content) != state.substr(content.size())) {
    return absl::DataLossError("saved sum: its checksum does not fit its bytes; start the round again");
  }
  // A checksum shows damage, not intent: a partial sum may come from another process.
  Limbs hi(layout_->num_elements());
  Limbs lo(layout_->num_elements());
  std::memcpy(hi.data(), state.data() + sizeof(Header), limbs_bytes());
  std::memcpy(lo.data(), state.data() + sizeof(Header) + limbs_bytes(), limbs_bytes());
  // Each update has a weight of at least 1; without updates all is 0.
  const bool counts_fit = header.total_weight <= kMaxTotalWeight && header.updates >= 0 &&
                          static_cast<uint64_t>(header.updates) <= header.total_weight &&
                          (header.updates > 0 || header.total_weight == 0);
  const auto most = static_cast<int64_t>(std::min(header.total_weight, kMaxTotalWeight) << 24);  // 2^16 each, in 2^-8
  const auto fits = [this](const Limbs& limbs, int64_t low, int64_t high) {
    return std::all_of(limbs.data(), limbs.data() + layout_->num_elements(),
                       [&](int64_t limb) { return low <= limb && limb <= high; });
  };
  const bool limbs_fit =
      fits(hi, -most, most) && (header.updates == 0 ? fits(lo, 0, 0) : fits(lo, -kLowLimit, kLowLimit - 1));
  if (!counts_fit || !limbs_fit) {
    return absl::DataLossError("saved sum: a count or an element is out of range; start the round again");
  }
  hi_ = std::move(hi);
  lo_ = std::move(lo);
  total_weight_ = header.total_weight;
  updates_ = header.updates;
  return absl::OkStatus();
}

}  // namespace weft::aggregators
