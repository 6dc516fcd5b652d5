#include "adapters/adapter.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <new>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/hash.h"
#include "common/large_pages.h"

namespace weft {
namespace {

// bytes() is what travels and is hashed.
static_assert(std::endian::native == std::endian::little && sizeof(float) == 4);

constexpr std::align_val_t kAlignment{64};
constexpr uint32_t kExponent = 0x7f80'0000;  // all ones in NaN and Inf alone

}  // namespace

void Adapter::Free::operator()(float* p) const { operator delete(p, kAlignment); }

Adapter::Adapter(std::shared_ptr<const Layout> layout)
    : layout_(std::move(layout)), data_(static_cast<float*>(operator new(layout_->size_bytes(), kAlignment))) {
  AdviseLargePages(data_.get(), static_cast<size_t>(layout_->size_bytes()));
  std::fill_n(data_.get(), layout_->num_elements(), 0.0f);
}

Adapter Adapter::Clone() const {
  Adapter copy(layout_);
  std::copy(values().begin(), values().end(), copy.values().begin());
  return copy;
}

std::string Adapter::ContentHash() const { return ToHex(Sha256Of(bytes().data(), bytes().size())); }

absl::Status CheckFinite(const Adapter& adapter) { return CheckFinite(adapter, 0, adapter.layout().num_elements()); }

absl::Status CheckFinite(const Adapter& adapter, int64_t begin, int64_t end) {
  const std::span<const float> values = adapter.values().subspan(begin, end - begin);
  bool found_one = false;  // by bits and without a branch, since every received value passes here
  for (const float v : values) found_one |= (std::bit_cast<uint32_t>(v) & kExponent) == kExponent;
  if (!found_one) return absl::OkStatus();
  const auto found = std::find_if(values.begin(), values.end(), [](float v) { return !std::isfinite(v); });
  const int64_t index = begin + (found - values.begin());
  const TensorSpec& spec = adapter.layout().TensorAt(index);
  return absl::InvalidArgumentError(
      absl::StrCat("tensor ", spec.name, " holds ", std::isnan(*found) ? "NaN" : "Inf", " at index ",
                   index - spec.offset, ", expected finite values; if training diverged, lower the learning rate"));
}

}  // namespace weft
