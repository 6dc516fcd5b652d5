#include "adapters/codec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <set>
#include <utility>
#include <vector>

#include "adapters/components.h"

namespace weft {
namespace {

using ::testing::HasSubstr;

std::shared_ptr<const Layout> SmallLayout() { return *Layout::Create({{"a", "lora_a", {2, 3}}, {"b", "lora_b", {4}}}); }

class CodecTest : public testing::Test {
 protected:
  CodecTest() : adapter_(SmallLayout()) {
    float next = 0;
    for (float& value : adapter_.values()) value = next += 0.25f;
  }

  std::vector<proto::Chunk> Chunks(uint64_t chunk_bytes) const {
    AdapterEncoder encoder(adapter_, chunk_bytes);
    std::vector<proto::Chunk> chunks;
    for (proto::Chunk chunk; encoder.Next(&chunk);) chunks.push_back(chunk);
    return chunks;
  }

  proto::TensorHeader Header() const { return AdapterEncoder(adapter_, 1).Header(); }

  absl::StatusOr<Adapter> Decode(const proto::TensorHeader& header, const std::vector<proto::Chunk>& chunks) const {
    auto decoder = AdapterDecoder::Create(header, adapter_.layout_ptr());
    if (!decoder.ok()) return decoder.status();
    for (const proto::Chunk& chunk : chunks) {
      if (absl::Status status = decoder->Add(chunk); !status.ok()) return status;
    }
    return std::move(*decoder).Finish();
  }

  void ExpectRefused(const proto::TensorHeader& header, const std::vector<proto::Chunk>& chunks,
                     const std::string& why) {
    const absl::Status status = Decode(header, chunks).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << why;
    EXPECT_THAT(std::string(status.message()), HasSubstr(why));
  }

  Adapter adapter_;
};

TEST_F(CodecTest, Next_AnyChunkSizeGivesTheSameBits) {
  for (const uint64_t chunk_bytes : {1, 3, 4, 7, 39, 40, 41, 1 << 20}) {
    const std::vector<proto::Chunk> chunks = Chunks(chunk_bytes);
    EXPECT_EQ(chunks.size(), (40 + chunk_bytes - 1) / chunk_bytes);
    const auto back = Decode(Header(), chunks);
    ASSERT_TRUE(back.ok()) << chunk_bytes << ": " << back.status();
    EXPECT_EQ(back->ContentHash(), adapter_.ContentHash());
  }
}

TEST_F(CodecTest, Header_SaysWhatFollows) {
  const proto::TensorHeader header = Header();
  EXPECT_EQ(header.layout_hash(), adapter_.layout().hash());
  EXPECT_EQ(header.encoding(), "f32");
  EXPECT_EQ(header.total_bytes(), 40u);
  EXPECT_EQ(ToHex(header.sha256()), adapter_.ContentHash());
}

TEST_F(CodecTest, Next_ChunkCarriesOffsetAndCrc) {
  const std::vector<proto::Chunk> chunks = Chunks(16);
  ASSERT_EQ(chunks.size(), 3u);
  EXPECT_EQ(chunks[2].offset(), 32u);
  EXPECT_EQ(chunks[2].data().size(), 8u);
  EXPECT_EQ(chunks[2].crc32c(), Crc32c(chunks[2].data().data(), 8));
}

// Encoded messages over payload, without gRPC's and HTTP/2's framing.
TEST_F(CodecTest, Next_OverheadIsBelowOnePercent) {
  for (const int64_t elements : {int64_t{8} * 1024, int64_t{1} << 18, int64_t{3} << 20}) {
    const Adapter adapter(*Layout::Create({{"a", "lora_a", {elements}}}));
    AdapterEncoder encoder(adapter, 1 << 20);
    uint64_t bytes = encoder.Header().ByteSizeLong();
    for (proto::Chunk chunk; encoder.Next(&chunk);) bytes += chunk.ByteSizeLong();
    EXPECT_LT(static_cast<double>(bytes) / static_cast<double>(adapter.bytes().size()), 1.01) << elements;
  }
}

TEST_F(CodecTest, EncoderDeath_NoChunkSize) { EXPECT_DEATH(AdapterEncoder(adapter_, 0), ""); }

TEST_F(CodecTest, Create_RefusesAHeaderThatDoesNotFit) {
  struct Case {
    void (*spoil)(proto::TensorHeader*);
    const char* message;
  };
  using H = proto::TensorHeader;
  const Case cases[] = {
      {[](H* header) { header->set_layout_hash("beef"); }, "found layout beef, expected "},
      {[](H* header) { header->set_encoding("f16"); }, "found encoding \"f16\", expected \"f32\""},
      {[](H* header) { header->set_total_bytes(44); }, "found 44 bytes, expected the layout's 40"},
      {[](H* header) { header->set_total_bytes(36); }, "found 36 bytes, expected the layout's 40"},
      {[](H* header) { header->set_total_bytes(~0ull); }, "expected the layout's 40"},
      {[](H* header) { header->set_sha256("short"); }, "SHA-256 of 5 bytes, expected 32"},
  };
  for (const Case& c : cases) {
    proto::TensorHeader header = Header();
    c.spoil(&header);
    ExpectRefused(header, {}, c.message);
  }
}

TEST_F(CodecTest, Add_RefusesWhatDoesNotContinue) {
  std::vector<proto::Chunk> chunks = Chunks(16);
  std::swap(chunks[0], chunks[1]);
  ExpectRefused(Header(), chunks, "found a chunk at byte 16, expected byte 0");
  chunks = Chunks(16);
  chunks.insert(chunks.begin(), chunks[0]);
  ExpectRefused(Header(), chunks, "found a chunk at byte 0, expected byte 16");
  chunks = Chunks(16);
  chunks.erase(chunks.begin() + 1);
  ExpectRefused(Header(), chunks, "found a chunk at byte 32, expected byte 16");
}

TEST_F(CodecTest, Add_RefusesAnEmptyChunk) {
  std::vector<proto::Chunk> chunks = Chunks(16);
  chunks[1].clear_data();
  chunks[1].set_crc32c(Crc32c("", 0));
  ExpectRefused(Header(), chunks, "found an empty chunk at byte 16");
}

TEST_F(CodecTest, Add_RefusesDataBeyondTheTotal) {
  std::vector<proto::Chunk> chunks = Chunks(16);
  chunks[2].mutable_data()->append("more");
  chunks[2].set_crc32c(Crc32c(chunks[2].data().data(), chunks[2].data().size()));
  ExpectRefused(Header(), chunks, "found a chunk of 12 bytes at byte 32, expected at most the 8 left of 40");
  chunks = Chunks(40);
  chunks.push_back(chunks[0]);
  chunks[1].set_offset(40);
  ExpectRefused(Header(), chunks, "expected at most the 0 left of 40");
}

TEST_F(CodecTest, Add_RefusesADamagedChunk) {
  std::vector<proto::Chunk> chunks = Chunks(16);
  chunks[1].mutable_data()->at(3) ^= 1;
  ExpectRefused(Header(), chunks, "chunk at byte 16: wrong CRC32C");
}

TEST_F(CodecTest, Add_RefusesNanAndInfNamingTheTensor) {
  adapter_.values()[7] = std::numeric_limits<float>::infinity();
  ExpectRefused(Header(), Chunks(16), "tensor b holds Inf at index 1");
  adapter_.values()[7] = 0;
  adapter_.values()[3] = std::numeric_limits<float>::quiet_NaN();
  // A value that lies across two chunks is seen too.
  for (const uint64_t chunk_bytes : {1, 7, 14, 40}) {
    ExpectRefused(Header(), Chunks(chunk_bytes), "tensor a holds NaN at index 3");
  }
}

TEST_F(CodecTest, Finish_RefusesAMissingTail) {
  std::vector<proto::Chunk> chunks = Chunks(16);
  chunks.pop_back();
  ExpectRefused(Header(), chunks, "found 32 bytes, expected 40");
  ExpectRefused(Header(), {}, "found 0 bytes, expected 40");
}

TEST_F(CodecTest, Finish_RefusesAnotherSha256) {
  proto::TensorHeader header = Header();
  header.mutable_sha256()->at(0) ^= 1;
  ExpectRefused(header, Chunks(16), "found SHA-256 " + adapter_.ContentHash());
}

TEST_F(CodecTest, ReceivedBytes_CountsData) {
  auto decoder = AdapterDecoder::Create(Header(), adapter_.layout_ptr());
  ASSERT_TRUE(decoder.ok());
  EXPECT_EQ(decoder->total_bytes(), 40u);
  EXPECT_EQ(decoder->received_bytes(), 0u);
  EXPECT_TRUE(decoder->Add(Chunks(16)[0]).ok());
  EXPECT_EQ(decoder->received_bytes(), 16u);
}

// What a coordinator broadcasts: the job's adapter, SCAFFOLD's control and a step of the base.
class StateCodecTest : public testing::Test {
 protected:
  StateCodecTest()
      : job_(SmallLayout()),
        broadcast_(*Layout::Create({{"a", "lora_a", {2, 3}},
                                    {"b", "lora_b", {4}},
                                    {"control.a", "control.lora_a", {2, 3}},
                                    {"m.base_A.weight", "base_a", {1, 3}},
                                    {"m.base_B.weight", "base_b", {4, 1}}})),
        step_(*Layout::Create({{"m.base_A.weight", "base_a", {1, 3}}, {"m.base_B.weight", "base_b", {4, 1}}})),
        state_(*Layout::Create({{"a", "lora_a", {2, 3}},
                                {"b", "lora_b", {4}},
                                {"server.m", "server.m", {5}},
                                {"control.a", "control.lora_a", {2, 3}},
                                {"m.base_A.weight", "base_a", {1, 3}},
                                {"m.base_B.weight", "base_b", {4, 1}}})) {
    float next = 0;
    for (float& value : state_.values()) value = next += 0.25f;
  }

  StateEncoder Encoder(const std::shared_ptr<const Layout>& layout, std::vector<std::string> roles = {}) const {
    return StateEncoder(state_, {.layout = layout, .job_layout = job_, .roles = std::move(roles), .chunk_bytes = 7});
  }
  static absl::StatusOr<Adapter> Decode(const proto::TensorHeader& header, StateEncoder encoder,
                                        const StateDecoder::Options& options) {
    auto decoder = StateDecoder::Create(header, options);
    if (!decoder.ok()) return decoder.status();
    EXPECT_EQ(decoder->total_bytes(), encoder.total_bytes());
    for (proto::Chunk chunk; encoder.Next(&chunk);) {
      if (absl::Status status = decoder->Add(chunk); !status.ok()) return status;
    }
    return std::move(*decoder).Finish();
  }
  absl::StatusOr<Adapter> Receive(const std::shared_ptr<const Layout>& layout, const std::vector<std::string>& roles,
                                  const Adapter* held = nullptr, bool base_step = false) const {
    const StateEncoder encoder = Encoder(layout, roles);
    return Decode(encoder.Header(), encoder, {.job_layout = job_, .held = held, .base_step = base_step});
  }
  void ExpectRefused(const proto::TensorHeader& header, const StateDecoder::Options& options, const char* why) const {
    const absl::Status status = StateDecoder::Create(header, options).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << why;
    EXPECT_THAT(std::string(status.message()), HasSubstr(why));
  }
  // Every tensor has the values of the tensor of that name in the other.
  static void ExpectSameValues(const Adapter& found, const Adapter& expected) {
    for (const TensorSpec& tensor : found.layout().tensors()) {
      const std::span<const float> values = expected.tensor(*expected.layout().Find(tensor.name));
      EXPECT_TRUE(std::equal(values.begin(), values.end(), found.tensor(tensor).begin())) << tensor.name;
    }
  }

  const std::shared_ptr<const Layout> job_;
  const std::shared_ptr<const Layout> broadcast_;
  const std::shared_ptr<const Layout> step_;
  Adapter state_;
};

TEST_F(StateCodecTest, Finish_AllBroadcastTensorsAndNoneOfTheServers) {
  EXPECT_EQ(Encoder(broadcast_).Header().layout().tensors_size(), 5);
  const auto state = Receive(broadcast_, {});
  ASSERT_TRUE(state.ok()) << state.status();
  EXPECT_EQ(state->layout(), *broadcast_);
  ExpectSameValues(*state, state_);
}

TEST_F(StateCodecTest, Header_OfAPlainStateIsThatOfItsAdapter) {
  Adapter plain(job_);
  const StateEncoder encoder(plain, {.layout = job_, .job_layout = job_, .roles = {}, .chunk_bytes = 7});
  EXPECT_EQ(encoder.Header().SerializeAsString(), AdapterEncoder(plain, 7).Header().SerializeAsString());
}

TEST_F(StateCodecTest, Finish_RolesThatDoNotFollowAreTakenFromWhatIsHeld) {
  Adapter held = *Receive(broadcast_, {});
  for (float& value : held.values()) value = -value;
  const auto state = Receive(broadcast_, {"lora_b", "base_b"}, &held);
  ASSERT_TRUE(state.ok()) << state.status();
  EXPECT_EQ(Encoder(broadcast_, {"lora_b", "base_b"}).total_bytes(), 8 * 4u);
  for (const TensorSpec& tensor : state->layout().tensors()) {
    const bool sent = tensor.role == "lora_b" || tensor.role == "base_b";
    const float expected = state_.tensor(*state_.layout().Find(tensor.name))[0];
    EXPECT_EQ(state->tensor(tensor)[0], sent ? expected : -expected) << tensor.name;
  }
}

TEST_F(StateCodecTest, Finish_AStepOfTheBaseAlone) {
  const auto step = Receive(step_, {}, nullptr, /*base_step=*/true);
  ASSERT_TRUE(step.ok()) << step.status();
  EXPECT_EQ(step->layout(), *step_);
  ExpectSameValues(*step, state_);
}

TEST_F(StateCodecTest, Create_RefusesAHeaderThatDoesNotFit) {
  const StateDecoder::Options options{.job_layout = job_, .held = nullptr, .base_step = false};
  const StateDecoder::Options of_step{.job_layout = job_, .held = nullptr, .base_step = true};
  ExpectRefused(Encoder(step_).Header(), options, "without tensor \"a\" in its place");
  ExpectRefused(Encoder(state_.layout_ptr()).Header(), options,
                "tensor \"server.m\" of role server.m, expected control");
  ExpectRefused(Encoder(broadcast_).Header(), of_step, "tensor \"a\" of role lora_a, expected base_a");
  ExpectRefused(Encoder(job_).Header(), of_step, "expected a step of the base");
  proto::TensorHeader header = Encoder(broadcast_).Header();
  header.set_layout_hash(job_->hash());
  ExpectRefused(header, options, "found layout");
  header = Encoder(broadcast_).Header();
  header.mutable_layout()->mutable_tensors(0)->set_shape(0, 0);
  ExpectRefused(header, options, "tensor a has shape [0, 3]");
  header = Encoder(broadcast_).Header();
  header.add_roles("nosuch");
  ExpectRefused(header, options, "role \"nosuch\", which no tensor");
  header = Encoder(broadcast_).Header();
  header.set_encoding("int8");
  ExpectRefused(header, options, "encoding \"int8\"");
  header = Encoder(broadcast_).Header();
  header.set_total_bytes(4);
  ExpectRefused(header, options, "found 4 bytes");
}

TEST_F(StateCodecTest, Create_RefusesWhatIsNeitherSentNorHeld) {
  const proto::TensorHeader header = Encoder(broadcast_, {"lora_b"}).Header();
  ExpectRefused(header, {.job_layout = job_, .held = nullptr, .base_step = false}, "no values of tensor \"a\"");
  const Adapter other(job_);  // holds a and b, but no control
  ExpectRefused(header, {.job_layout = job_, .held = &other, .base_step = false}, "no values of tensor \"control.a\"");
}

TEST_F(StateCodecTest, Add_RefusesNan) {
  state_.values()[3] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_THAT(std::string(Receive(broadcast_, {}).status().message()), HasSubstr("tensor a holds NaN"));
}

TEST_F(StateCodecTest, EncoderDeath_ATensorThatTheStateHasNot) {
  const auto other = *Layout::Create({{"c", "lora_a", {2, 3}}});
  EXPECT_DEATH(Encoder(other), "");
}

class UpdateCodecTest : public testing::Test {
 protected:
  UpdateCodecTest()
      : sent_(*Layout::Create(
            {{"m.lora_A.weight", "lora_a", {3, 70}}, {"m.lora_B.weight", "lora_b", {50, 3}}, {"h", "head", {9}}})),
        delta_(sent_) {
    float next = -3;
    for (float& value : delta_.values()) value = next += 0.015625f;
    options_.sent = sent_;
  }

  static absl::StatusOr<EncodedUpdate> Decode(const proto::TensorHeader& header, UpdateEncoder encoder,
                                              const UpdateDecoder::Options& options) {
    auto decoder = UpdateDecoder::Create(header, options);
    if (!decoder.ok()) return decoder.status();
    for (proto::Chunk chunk; encoder.Next(&chunk);) {
      if (absl::Status status = decoder->Add(chunk); !status.ok()) return status;
    }
    return std::move(*decoder).Finish();
  }
  EncodedUpdate Encode(const std::string& values) {
    options_.encoding.set_values(values);
    options_.encoding.set_density(0.1);
    return *EncodedUpdate::Encode(delta_, options_.encoding);
  }
  // What of delta_ is left when the second component of A and the first of B alone travel.
  EncodedUpdate Packed() {
    options_.keep_components = 2;
    packed_ = *PackedLayout(*sent_, components_);
    return *EncodedUpdate::Encode(Pack(delta_, components_, packed_), options_.encoding);
  }
  void ExpectRefused(const proto::TensorHeader& header, const char* why) const {
    const absl::Status status = UpdateDecoder::Create(header, options_).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << why;
    EXPECT_THAT(std::string(status.message()), HasSubstr(why));
  }

  const std::shared_ptr<const Layout> sent_;
  Adapter delta_;
  UpdateDecoder::Options options_;
  const std::string components_ = ComponentBits({false, true, false, true, false, false});
  std::shared_ptr<const Layout> packed_;
};

TEST_F(UpdateCodecTest, Finish_EveryEncodingArrivesAsItIs) {
  for (const char* values : {"f32", "bf16", "f16", "int8", "int4", "topk"}) {
    const EncodedUpdate update = Encode(values);
    for (const uint64_t chunk_bytes : {1, 100, 1 << 20}) {
      const UpdateEncoder encoder(update, "", chunk_bytes);
      EXPECT_EQ(encoder.Header().encoding(), values);
      EXPECT_LE(encoder.total_bytes(), UpdateDecoder::MemoryBytes(options_));
      const auto back = Decode(encoder.Header(), encoder, options_);
      ASSERT_TRUE(back.ok()) << values << ": " << back.status();
      EXPECT_TRUE(std::equal(back->bytes().begin(), back->bytes().end(), update.bytes().begin(), update.bytes().end()));
      EXPECT_EQ(back->encoding(), update.encoding());
      EXPECT_EQ(back->norm(), update.norm());
    }
  }
}

TEST_F(UpdateCodecTest, Finish_APackedUpdateIsDenseAgain) {
  const EncodedUpdate packed = Packed();
  const UpdateEncoder encoder(packed, components_, 100);
  EXPECT_EQ(encoder.total_bytes(), (70 + 50 + 9) * 4u);
  const auto back = Decode(encoder.Header(), encoder, options_);
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(back->layout(), *sent_);
  Adapter expected = delta_.Clone();
  for (int j = 0; j < 3 * 70; ++j) expected.values()[j] *= j / 70 == 1 ? 1 : 0;
  for (int j = 0; j < 50 * 3; ++j) expected.values()[210 + j] *= j % 3 == 0 ? 1 : 0;
  const Adapter found = back->Decode();
  for (int64_t i = 0; i < sent_->num_elements(); ++i) EXPECT_EQ(found.values()[i], expected.values()[i]) << i;
}

TEST_F(UpdateCodecTest, Create_RefusesAHeaderThatDoesNotFit) {
  const EncodedUpdate update = Encode("int8");
  const proto::TensorHeader good = UpdateEncoder(update, "", 100).Header();
  ASSERT_TRUE(UpdateDecoder::Create(good, options_).ok());
  proto::TensorHeader header = good;
  header.set_encoding("f32");
  ExpectRefused(header, "found encoding \"f32\", expected \"int8\"");
  header = good;
  header.set_layout_hash("beef");
  ExpectRefused(header, "found layout beef");
  header = good;
  header.set_total_bytes(good.total_bytes() + 1);
  ExpectRefused(header, "expected the layout's");
  header = good;
  header.set_sha256("short");
  ExpectRefused(header, "SHA-256 of 5 bytes");
  header = good;
  header.set_components(components_);
  ExpectRefused(header, "components: found some of them, expected all");
}

TEST_F(UpdateCodecTest, Create_RefusesComponentsThatDoNotFit) {
  const EncodedUpdate packed = Packed();
  const proto::TensorHeader good = UpdateEncoder(packed, components_, 100).Header();
  ASSERT_TRUE(UpdateDecoder::Create(good, options_).ok());
  proto::TensorHeader header = good;
  header.set_components(ComponentBits({true, true, true, false, false, false}));
  ExpectRefused(header, "components: found 3, expected at most 2");
  header.set_components("");
  ExpectRefused(header, "components: found all 6, expected at most 2");
  header.set_components(std::string(2, '\0'));
  ExpectRefused(header, "components: found 2 bytes, expected 1");
  header.set_components(ComponentBits({true, true, false, false, false, false}));
  ExpectRefused(header, "found layout");
}

TEST_F(UpdateCodecTest, Create_AllComponentsMayTravelWhenNoMoreAreThere) {
  const EncodedUpdate update = Encode("f32");
  options_.keep_components = 6;
  const UpdateEncoder encoder(update, "", 100);
  const auto back = Decode(encoder.Header(), encoder, options_);
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(back->norm(), update.norm());
}

TEST_F(UpdateCodecTest, Add_RefusesBadValuesNamingTheTensor) {
  delta_.values()[215] = std::numeric_limits<float>::quiet_NaN();
  const EncodedUpdate update = EncodedUpdate::View(delta_);
  const UpdateEncoder encoder(update, "", 100);
  const absl::Status status = Decode(encoder.Header(), encoder, options_).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("tensor m.lora_B.weight holds NaN at element 5"));
}

TEST_F(UpdateCodecTest, Finish_RefusesAMissingTailAndAnotherSha256) {
  const EncodedUpdate update = Encode("topk");
  UpdateEncoder encoder(update, "", 1 << 20);
  proto::TensorHeader header = encoder.Header();
  EXPECT_THAT(std::string(std::move(*UpdateDecoder::Create(header, options_)).Finish().status().message()),
              HasSubstr("the tail is missing"));
  header.mutable_sha256()->at(0) ^= 1;
  EXPECT_THAT(std::string(Decode(header, encoder, options_).status().message()), HasSubstr("found SHA-256"));
}

}  // namespace
}  // namespace weft
