#include "simulation/states/state_log.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/hash.h"
#include "common/status_macros.h"
#include "proto/adapter.pb.h"

namespace weft::simulation {
namespace {

// A file smaller than this is left as it is, however old its states.
constexpr int64_t kSmallestCompacted = int64_t{1} << 20;

enum Kind : uint32_t { kLayout = 1, kState = 2, kMark = 3 };

// Little-endian, as everything that Weft writes.
struct Header {
  uint32_t magic = 0x54534657;  // "WFST"
  uint32_t checksum = 0;        // CRC32C of what follows it, payload included
  uint32_t kind = 0;
  uint32_t unused = 0;
  int64_t client = 0;
  int64_t round = 0;
  int64_t payload_bytes = 0;
};
static_assert(sizeof(Header) == 40);

constexpr auto kParts = std::array{&KeptState::error, &KeptState::control, &KeptState::local};

absl::Status Failed(const std::string& path, const char* what) {
  const std::string message = absl::StrCat(path, ": ", what, ": ", std::strerror(errno));
  if (errno == ENOSPC || errno == EFBIG || errno == EDQUOT) {
    return absl::ResourceExhaustedError(absl::StrCat(message, "; free some space and go on"));
  }
  return absl::InternalError(message);
}

uint32_t ChecksumOf(const Header& header, std::string_view payload) {
  std::string bytes(reinterpret_cast<const char*>(&header.kind), sizeof(Header) - offsetof(Header, kind));
  bytes.append(payload);
  return Crc32c(bytes.data(), bytes.size());
}

std::string RecordOf(Header header, std::string_view payload) {
  header.payload_bytes = static_cast<int64_t>(payload.size());
  header.checksum = ChecksumOf(header, payload);
  std::string record(reinterpret_cast<const char*>(&header), sizeof(header));
  record.append(payload);
  return record;
}

void AppendInteger(int64_t value, std::string* to) { to->append(reinterpret_cast<const char*>(&value), sizeof(value)); }

absl::Status WriteAll(const std::string& path, int descriptor, std::string_view bytes, int64_t offset) {
  while (!bytes.empty()) {
    const ssize_t written = pwrite(descriptor, bytes.data(), bytes.size(), offset);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return Failed(path, "can't write");
    bytes.remove_prefix(static_cast<size_t>(written));
    offset += written;
  }
  return absl::OkStatus();
}

}  // namespace

struct StateLog::Record {
  Header header;
  std::string payload;
  int64_t bytes() const { return static_cast<int64_t>(sizeof(Header) + payload.size()); }
};

absl::StatusOr<std::unique_ptr<StateLog>> StateLog::Open(const std::string& path, int64_t round) {
  std::error_code ignored;
  std::filesystem::remove(path + ".new", ignored);  // of a compaction that was killed
  const int descriptor = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (descriptor < 0) return Failed(path, "can't open");
  std::unique_ptr<StateLog> log(new StateLog(path, descriptor));
  WEFT_RETURN_IF_ERROR(log->Scan(round));
  return log;
}

StateLog::~StateLog() { close(descriptor_); }

absl::Status StateLog::Scan(int64_t round) {
  struct stat facts;
  if (fstat(descriptor_, &facts) != 0) return Failed(path_, "can't be read");
  absl::Status damage;
  std::vector<std::pair<int64_t, Place>> since_mark;
  size_t layouts = 0;  // up to the last mark
  for (int64_t offset = 0; offset < facts.st_size;) {
    absl::StatusOr<Record> record = ReadRecord(offset);
    if (!record.ok()) {
      damage = record.status();
      break;
    }
    if (record->header.round > round) break;
    if (record->header.kind == kState) since_mark.push_back({record->header.client, {offset, record->bytes()}});
    if (record->header.kind == kLayout) {
      proto::Layout layout;
      if (!layout.ParseFromString(record->payload))
        return absl::DataLossError(absl::StrCat(path_, ": a damaged layout"));
      WEFT_ASSIGN_OR_RETURN(std::shared_ptr<const Layout> parsed, Layout::FromProto(layout));
      layouts_.push_back(std::move(parsed));
    }
    offset += record->bytes();
    if (record->header.kind != kMark) continue;
    for (const auto& [client, place] : since_mark) {
      Place& last = places_[client];
      live_ += place.bytes - last.bytes;
      last = place;
    }
    since_mark.clear();
    round_ = record->header.round;
    end_ = offset;
    layouts = layouts_.size();
  }
  layouts_.resize(layouts);
  if (end_ > 0 && round_ != round) {
    return absl::DataLossError(absl::StrCat(path_, ": holds what clients kept up to round ", round_, ", round ", round,
                                            " is committed", damage.ok() ? "" : "; ", std::string(damage.message()),
                                            "; restore the folder from a copy, or begin the run again"));
  }
  if (end_ == 0 && round > 0 && facts.st_size > 0 && !damage.ok()) return damage;
  if (ftruncate(descriptor_, end_) != 0) return Failed(path_, "can't cut off what was not committed");
  return absl::OkStatus();
}

absl::StatusOr<StateLog::Record> StateLog::ReadRecord(int64_t offset) const {
  const auto read = [&](void* to, size_t bytes, int64_t from) {
    size_t done = 0;
    while (done < bytes) {
      const ssize_t got =
          pread(descriptor_, static_cast<char*>(to) + done, bytes - done, from + static_cast<int64_t>(done));
      if (got < 0 && errno == EINTR) continue;
      if (got <= 0) return false;
      done += static_cast<size_t>(got);
    }
    return true;
  };
  const auto damaged = [&] { return absl::DataLossError(absl::StrCat(path_, ": damaged at byte ", offset)); };
  Record record;
  if (!read(&record.header, sizeof(Header), offset)) return damaged();
  struct stat facts;
  if (fstat(descriptor_, &facts) != 0) return Failed(path_, "can't be read");
  const Header& header = record.header;
  if (header.magic != Header().magic || header.payload_bytes < 0 ||
      header.payload_bytes > facts.st_size - offset - static_cast<int64_t>(sizeof(Header))) {
    return damaged();
  }
  record.payload.resize(static_cast<size_t>(header.payload_bytes));
  if (!read(record.payload.data(), record.payload.size(), offset + static_cast<int64_t>(sizeof(Header))))
    return damaged();
  if (header.checksum != ChecksumOf(header, record.payload)) return damaged();
  return record;
}

// A state's payload: rank, round, and for each part the number of its layout, from 1 on, 0 for none; then the values.
std::string StateLog::Encode(int64_t client, const KeptState& state, int64_t round, int64_t offset, Place* place) {
  std::string records, head, values;
  AppendInteger(state.rank, &head);
  AppendInteger(state.round, &head);
  for (const auto part : kParts) {
    const std::shared_ptr<const Adapter>& tensors = state.*part;
    if (tensors == nullptr) {
      AppendInteger(0, &head);
      continue;
    }
    auto known = std::find_if(layouts_.begin(), layouts_.end(),
                              [&](const auto& layout) { return *layout == tensors->layout(); });
    if (known == layouts_.end()) {
      records += RecordOf({.kind = kLayout, .round = round}, tensors->layout().ToProto().SerializeAsString());
      known = layouts_.insert(layouts_.end(), tensors->layout_ptr());
    }
    AppendInteger(known - layouts_.begin() + 1, &head);
    const std::span<const std::byte> bytes = tensors->bytes();
    values.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }
  const std::string record = RecordOf({.kind = kState, .client = client, .round = round}, head + values);
  *place = {offset + static_cast<int64_t>(records.size()), static_cast<int64_t>(record.size())};
  return records + record;
}

absl::StatusOr<KeptState> StateLog::Decode(std::string_view payload) const {
  const auto damaged = [&] { return absl::DataLossError(absl::StrCat(path_, ": a state of another shape")); };
  std::array<int64_t, 2 + kParts.size()> head;
  if (payload.size() < sizeof(head)) return damaged();
  std::memcpy(head.data(), payload.data(), sizeof(head));
  payload.remove_prefix(sizeof(head));
  KeptState state;
  state.rank = head[0];
  state.round = head[1];
  for (size_t i = 0; i < kParts.size(); ++i) {
    const int64_t number = head[2 + i];
    if (number == 0) continue;
    if (number < 0 || number > static_cast<int64_t>(layouts_.size())) return damaged();
    auto tensors = std::make_shared<Adapter>(layouts_[static_cast<size_t>(number - 1)]);
    const auto bytes = static_cast<size_t>(tensors->layout().size_bytes());
    if (payload.size() < bytes) return damaged();
    std::memcpy(tensors->values().data(), payload.data(), bytes);
    payload.remove_prefix(bytes);
    state.*kParts[i] = std::move(tensors);
  }
  return payload.empty() ? absl::StatusOr<KeptState>(std::move(state)) : damaged();
}

absl::StatusOr<KeptState> StateLog::Read(int64_t client) const {
  WEFT_ASSIGN_OR_RETURN(const Record record, ReadRecord(places_.at(client).offset));
  return Decode(record.payload);
}

absl::Status StateLog::Append(const std::map<int64_t, std::shared_ptr<const KeptState>>& states, int64_t round) {
  if (states.empty() && end_ == 0) return absl::OkStatus();
  if (end_ >= kSmallestCompacted && 2 * live_ < end_) WEFT_RETURN_IF_ERROR(Compact(round_));
  const size_t layouts = layouts_.size();
  std::vector<std::pair<int64_t, Place>> places;
  const auto write = [&]() -> absl::StatusOr<int64_t> {
    int64_t end = end_;
    for (const auto& [client, state] : states) {
      Place place;
      const std::string records = Encode(client, *state, round, end, &place);
      WEFT_RETURN_IF_ERROR(WriteAll(path_, descriptor_, records, end));
      places.push_back({client, place});
      end += static_cast<int64_t>(records.size());
    }
    const std::string mark = RecordOf({.kind = kMark, .round = round}, "");
    WEFT_RETURN_IF_ERROR(WriteAll(path_, descriptor_, mark, end));
    if (fdatasync(descriptor_) != 0) return Failed(path_, "can't be made durable");
    return end + static_cast<int64_t>(mark.size());
  };
  const absl::StatusOr<int64_t> end = write();
  if (!end.ok()) {
    layouts_.resize(layouts);
    if (ftruncate(descriptor_, end_) != 0) return Failed(path_, "can't take back what was not committed");
    return end.status();
  }
  for (const auto& [client, place] : places) {
    Place& last = places_[client];
    live_ += place.bytes - last.bytes;
    last = place;
  }
  end_ = *end;
  round_ = round;
  return absl::OkStatus();
}

// All last states, under the round of the last mark, in a file that takes the place of this one at once.
absl::Status StateLog::Compact(int64_t round) {
  const std::string path = path_ + ".new";
  const int descriptor = open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (descriptor < 0) return Failed(path, "can't open");
  StateLog compact(path, descriptor);
  std::vector<int64_t> clients;
  for (const auto& [client, place] : places_) clients.push_back(client);
  std::sort(clients.begin(), clients.end());
  const auto write = [&]() -> absl::Status {
    for (const int64_t client : clients) {
      WEFT_ASSIGN_OR_RETURN(const KeptState state, Read(client));
      Place place;
      const std::string records = compact.Encode(client, state, round, compact.end_, &place);
      WEFT_RETURN_IF_ERROR(WriteAll(path, descriptor, records, compact.end_));
      compact.places_[client] = place;
      compact.live_ += place.bytes;
      compact.end_ += static_cast<int64_t>(records.size());
    }
    const std::string mark = RecordOf({.kind = kMark, .round = round}, "");
    WEFT_RETURN_IF_ERROR(WriteAll(path, descriptor, mark, compact.end_));
    compact.end_ += static_cast<int64_t>(mark.size());
    if (fdatasync(descriptor) != 0) return Failed(path, "can't be made durable");
    if (rename(path.c_str(), path_.c_str()) != 0) return Failed(path_, "can't be replaced");
    return absl::OkStatus();
  };
  if (const absl::Status status = write(); !status.ok()) {
    unlink(path.c_str());
    return status;
  }
  std::swap(descriptor_, compact.descriptor_);  // the old file goes with `compact`
  places_ = std::move(compact.places_);
  layouts_ = std::move(compact.layouts_);
  live_ = compact.live_;
  end_ = compact.end_;
  return absl::OkStatus();
}

}  // namespace weft::simulation
