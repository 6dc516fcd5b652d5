#include "adapters/codec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <utility>
#include <vector>

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

}  // namespace
}  // namespace weft
