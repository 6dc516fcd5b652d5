#ifndef WEFT_ADAPTERS_COMPONENTS_H_
#define WEFT_ADAPTERS_COMPONENTS_H_

// Updates of which only some components of the LoRA factors travel (Plan.keep_components). Which ones is a bitmap: one
// bit for each component of each factor of the sent layout, tensor by tensor, least significant bit first, the last
// byte filled up with 0.

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "adapters/adapter.h"
#include "adapters/layout.h"

namespace weft {

// Bits of the bitmap.
int64_t NumComponents(const Layout& sent);
// The bitmap of `kept`, one flag a component.
std::string ComponentBits(const std::vector<bool>& kept);
// The number of bits set.
int64_t CountComponents(std::string_view components);

// What travels: the sent layout with factors cut to the components kept, without the factors of which none is kept.
// INVALID_ARGUMENT: a bitmap of another length, one that is not filled up with 0, one that keeps nothing at all.
absl::StatusOr<std::shared_ptr<const Layout>> PackedLayout(const Layout& sent, std::string_view components);

// The values of `update` that PackedLayout has room for; `packed` must be that layout.
Adapter Pack(const Adapter& update, std::string_view components, const std::shared_ptr<const Layout>& packed);
// The reverse: everything that did not travel is 0.
Adapter Unpack(const Adapter& packed, std::string_view components, const std::shared_ptr<const Layout>& sent);

}  // namespace weft

#endif  // WEFT_ADAPTERS_COMPONENTS_H_
