#ifndef WEFT_COMMON_VERSION_H_
#define WEFT_COMMON_VERSION_H_

namespace weft {

// Of all binaries, as `--version` prints it. What must be equal on both ends of a connection is
// proto::kProtocolVersion.
inline constexpr char kVersion[] = "0.1.0";

}  // namespace weft

#endif  // WEFT_COMMON_VERSION_H_
