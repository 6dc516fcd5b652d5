#ifndef WEFT_ADAPTERS_CODEC_H_
#define WEFT_ADAPTERS_CODEC_H_

// Adapters, states and updates as a header and CRC-checked chunks. See docs/wire_format.md.
//
// Encoders: Header, then Next until it is false. What they encode must outlive them. chunk_bytes >= 1.
// Decoders: Create from the header, Add every chunk in order, Finish once. Any error is INVALID_ARGUMENT with what was
// found and expected, and final: the object must be dropped. All refuse, beside what each says: a SHA-256 that is not
// 32 bytes or not that of the data; a chunk with a wrong CRC, at an offset that does not continue, empty, or beyond the
// announced total; a missing tail. None is thread-safe.

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "adapters/adapter.h"
#include "adapters/chunks.h"
#include "adapters/encoding.h"
#include "adapters/update_checker.h"
#include "proto/adapter.pb.h"
#include "proto/job.pb.h"

namespace weft {

// A plain f32 adapter: warm starts, exports.
class AdapterEncoder {
 public:
  AdapterEncoder(const Adapter& adapter, uint64_t chunk_bytes);
  // Computes SHA-256 over the whole.
  proto::TensorHeader Header() const;
  // False when all chunks were given.
  bool Next(proto::Chunk* chunk) { return writer_.Next(chunk); }

 private:
  const Adapter& adapter_;
  ChunkWriter writer_;
};

// Memory is bounded by the layout.
class AdapterDecoder {
 public:
  // Refuses another layout hash, an encoding other than f32, a total unlike the layout's size.
  static absl::StatusOr<AdapterDecoder> Create(const proto::TensorHeader& header, std::shared_ptr<const Layout> layout);
  // Refuses NaN and Inf, naming the tensor.
  absl::Status Add(const proto::Chunk& chunk);
  absl::StatusOr<Adapter> Finish() &&;

  uint64_t received_bytes() const { return reader_.received_bytes(); }
  uint64_t total_bytes() const { return reader_.total_bytes(); }

 private:
  AdapterDecoder(ChunkReader reader, std::shared_ptr<const Layout> layout);
  ChunkReader reader_;
  Adapter adapter_;
};

// The broadcast tensors of a job's state, or those of some roles for a receiver that holds the others.
class StateEncoder {
 public:
  struct Options {
    // All broadcast tensors (aggregators/core/state.h: IsBroadcast), in the state's order; of a base step, its tensors.
    // Every one must be one of the state's.
    std::shared_ptr<const Layout> layout;
    // The job's layout; the header carries `layout` unless it is this one.
    std::shared_ptr<const Layout> job_layout;
    // Roles whose tensors follow; empty: all.
    std::vector<std::string> roles;
    uint64_t chunk_bytes = 0;
  };
  StateEncoder(const Adapter& state, Options options);
  proto::TensorHeader Header() const;
  bool Next(proto::Chunk* chunk) { return writer_.Next(chunk); }
  uint64_t total_bytes() const { return writer_.total_bytes(); }

 private:
  Options options_;
  ChunkWriter writer_;
};

class StateDecoder {
 public:
  struct Options {
    std::shared_ptr<const Layout> job_layout;
    // The broadcast state that is held already; what does not follow is taken from it. Must outlive the decoder.
    const Adapter* held = nullptr;
    // A step of the base is expected (DownloadRequest.base_step), not a state.
    bool base_step = false;
  };
  // Refuses a layout that is neither the job's nor the job's followed by tensors of roles control.*, base_a and base_b
  // (of a base step: base_a and base_b alone); a hash that is not the layout's; a role without tensors; a tensor that
  // does not follow and is not held in that shape; an encoding other than f32; a total unlike the size of what follows.
  // The coordinator decides how large the rule's tensors are: memory is twice what the header announces.
  static absl::StatusOr<StateDecoder> Create(const proto::TensorHeader& header, const Options& options);
  // Refuses NaN and Inf, naming the tensor.
  absl::Status Add(const proto::Chunk& chunk) { return body_.Add(chunk); }
  // All broadcast tensors: those held and those received.
  absl::StatusOr<Adapter> Finish() &&;

  uint64_t received_bytes() const { return body_.received_bytes(); }
  uint64_t total_bytes() const { return body_.total_bytes(); }

 private:
  StateDecoder(AdapterDecoder body, std::shared_ptr<const Layout> layout, const Adapter* held)
      : body_(std::move(body)), layout_(std::move(layout)), held_(held) {}
  AdapterDecoder body_;
  std::shared_ptr<const Layout> layout_;
  const Adapter* held_;
};

// An update, as encoded.
class UpdateEncoder {
 public:
  // `components` as in TensorHeader: then `update` is of the packed layout (components.h).
  UpdateEncoder(const EncodedUpdate& update, std::string components, uint64_t chunk_bytes);
  proto::TensorHeader Header() const;
  bool Next(proto::Chunk* chunk) { return writer_.Next(chunk); }
  uint64_t total_bytes() const { return writer_.total_bytes(); }

 private:
  const EncodedUpdate& update_;
  std::string components_;
  ChunkWriter writer_;
};

// Memory is bounded by what the plan asked for, never by what a sender announces.
class UpdateDecoder {
 public:
  // What the plan asked for.
  struct Options {
    // Plan.roles_sent at the update's rank (factors.h: SentLayout).
    std::shared_ptr<const Layout> sent;
    proto::EncodingConfig encoding;
    // Plan.keep_components.
    int64_t keep_components = 0;
  };
  // Bytes that receiving such an update holds at most, what Finish gives included.
  static uint64_t MemoryBytes(const Options& options);
  // Refuses another encoding; components when none were asked for, too many of them or a malformed bitmap; another
  // layout hash (of what follows, so of the packed layout); a total unlike its size in this encoding.
  static absl::StatusOr<UpdateDecoder> Create(const proto::TensorHeader& header, const Options& options);
  // Refuses what UpdateChecker does, naming the tensor.
  absl::Status Add(const proto::Chunk& chunk);
  // An update of the sent layout: one that came packed is plain f32 then, with zeros in what did not travel.
  absl::StatusOr<EncodedUpdate> Finish() &&;

  uint64_t received_bytes() const { return reader_.received_bytes(); }
  uint64_t total_bytes() const { return reader_.total_bytes(); }

 private:
  UpdateDecoder(ChunkReader reader, UpdateChecker checker, std::shared_ptr<const Layout> sent, std::string components);
  ChunkReader reader_;
  UpdateChecker checker_;
  std::shared_ptr<const Layout> sent_;
  std::string components_;
  std::string bytes_;
};

}  // namespace weft

#endif  // WEFT_ADAPTERS_CODEC_H_
