#include "simulation/report/event_file.h"

#include "common/hash.h"
#include "simulation/report/event.pb.h"

namespace weft::simulation {
namespace {

double Seconds(absl::Time time) { return absl::ToDoubleSeconds(time - absl::UnixEpoch()); }

template <typename T>
std::string Bytes(T value) {
  return {reinterpret_cast<const char*>(&value), sizeof(value)};
}

uint32_t MaskedCrc(std::string_view bytes) {
  const uint32_t crc = Crc32c(bytes.data(), bytes.size());
  return ((crc >> 15) | (crc << 17)) + 0xa282ead8U;
}

}  // namespace

std::string FrameRecord(std::string_view bytes) {
  const std::string length = Bytes(static_cast<uint64_t>(bytes.size()));
  return length + Bytes(MaskedCrc(length)) + std::string(bytes) + Bytes(MaskedCrc(bytes));
}

std::string EventFileStart(absl::Time now) {
  proto::tensorboard::Event event;
  event.set_wall_time(Seconds(now));
  event.set_file_version("brain.Event:2");
  return FrameRecord(event.SerializeAsString());
}

std::string ScalarEvent(absl::Time now, int64_t step, const std::vector<std::pair<std::string, double>>& scalars) {
  proto::tensorboard::Event event;
  event.set_wall_time(Seconds(now));
  event.set_step(step);
  for (const auto& [tag, value] : scalars) {
    proto::tensorboard::Summary::Value& scalar = *event.mutable_summary()->add_value();
    scalar.set_tag(tag);
    scalar.set_simple_value(static_cast<float>(value));
  }
  return FrameRecord(event.SerializeAsString());
}

}  // namespace weft::simulation
