#include "adapters/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <numeric>

#include "absl/strings/str_cat.h"

namespace weft {
namespace {

using ::testing::HasSubstr;

std::string Path(const char* name = "file.safetensors") { return absl::StrCat(testing::TempDir(), "/", name); }

// A file of this header and that many bytes of data.
std::string File(const std::string& header, size_t data_bytes) {
  const uint64_t length = header.size();
  std::string file(reinterpret_cast<const char*>(&length), 8);
  return file + header + std::string(data_bytes, 'd');
}

absl::StatusOr<SafetensorsFile> OpenBytes(const std::string& bytes) {
  EXPECT_TRUE(WriteFileAtomically(Path("spoilt"), bytes).ok());
  return SafetensorsFile::Open(Path("spoilt"));
}

void ExpectDamaged(const std::string& bytes, const char* why) {
  const absl::Status status = OpenBytes(bytes).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << why;
  EXPECT_THAT(std::string(status.message()), HasSubstr(why));
  EXPECT_THAT(std::string(status.message()), HasSubstr("spoilt: "));
}

// A header of one tensor "t".
std::string One(const char* dtype, const char* shape, const char* offsets) {
  return absl::StrCat(R"({"t":{"dtype":")", dtype, R"(","shape":)", shape, R"(,"data_offsets":)", offsets, "}}");
}

TEST(SafetensorsTest, Write_ReadsBack) {
  std::vector<float> floats(6);
  std::iota(floats.begin(), floats.end(), 0.5f);
  const std::vector<int64_t> wide = {1, -2};
  const uint8_t byte = 7;
  ASSERT_TRUE(WriteSafetensors(Path(),
                               {{"byte", "U8", {}, std::as_bytes(std::span(&byte, 1))},
                                {"floats", "F32", {2, 3}, std::as_bytes(std::span(floats))},
                                {"none", "F32", {0, 4}, {}},
                                {"wide", "I64", {2}, std::as_bytes(std::span(wide))}},
                               {{"format", "pt"}, {"k", "v \"quoted\""}})
                  .ok());
  const auto file = SafetensorsFile::Open(Path());
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->metadata().at("k"), "v \"quoted\"");
  ASSERT_EQ(file->tensors().size(), 4u);
  const SafetensorView view = *file->Find("floats");
  EXPECT_EQ(view.dtype, "F32");
  EXPECT_EQ(view.shape, (std::vector<int64_t>{2, 3}));
  ASSERT_EQ(view.data.size(), 24u);
  EXPECT_EQ(std::memcmp(view.data.data(), floats.data(), 24), 0);
  EXPECT_EQ(std::memcmp(file->Find("wide")->data.data(), wide.data(), 16), 0);
  EXPECT_EQ(file->Find("byte")->data[0], std::byte{7});
  EXPECT_EQ(file->Find("none")->data.size(), 0u);
}

TEST(SafetensorsTest, Write_EveryTensorIsAligned) {
  const std::vector<uint8_t> data(8);
  // Names of every length modulo 8, and a narrow tensor given before a wide one.
  for (const char* name : {"a", "ab", "abc", "abcd", "abcde", "abcdef", "abcdefg", "abcdefgh"}) {
    ASSERT_TRUE(WriteSafetensors(Path(), {{name, "U8", {3}, std::as_bytes(std::span(data)).first(3)},
                                          {"w", "I64", {1}, std::as_bytes(std::span(data))}})
                    .ok());
    const auto file = SafetensorsFile::Open(Path());
    ASSERT_TRUE(file.ok()) << file.status();
    EXPECT_EQ(reinterpret_cast<uintptr_t>(file->Find("w")->data.data()) % 8, 0u) << name;
  }
}

TEST(SafetensorsTest, Write_DataAsItComes) {
  const std::vector<SafetensorToWrite> tensors = {{"small", "U8", {3}, {}}, {"wide", "F32", {2}, {}}};
  std::vector<float> buffer;  // each tensor's data in the place of the one before
  std::vector<size_t> asked;
  const auto data = [&](size_t i) -> absl::StatusOr<std::span<const std::byte>> {
    asked.push_back(i);
    buffer.assign(2, static_cast<float>(i));
    return std::as_bytes(std::span(buffer)).first(i == 0 ? 3 : 8);
  };
  ASSERT_TRUE(WriteSafetensors(Path(), tensors, {{"k", "v"}}, data).ok());
  EXPECT_EQ(asked, (std::vector<size_t>{1, 0})) << "wider dtypes first";
  const auto file = SafetensorsFile::Open(Path());
  ASSERT_TRUE(file.ok()) << file.status();
  float second = 0;
  std::memcpy(&second, file->Find("wide")->data.data() + 4, 4);
  EXPECT_EQ(second, 1);
  EXPECT_EQ(file->Find("small")->data.size(), 3u);
  EXPECT_EQ(file->metadata().at("k"), "v");
  const auto short_data = [&](size_t) -> absl::StatusOr<std::span<const std::byte>> {
    return std::span<const std::byte>();
  };
  EXPECT_THAT(std::string(WriteSafetensors(Path(), tensors, {}, short_data).message()),
              HasSubstr("tensor wide has 0 bytes of data"));
  const auto no_data = [&](size_t) -> absl::StatusOr<std::span<const std::byte>> {
    return absl::DataLossError("gone");
  };
  EXPECT_EQ(WriteSafetensors(Path(), tensors, {}, no_data).message(), "gone");
  EXPECT_TRUE(SafetensorsFile::Open(Path()).ok()) << "the old file stays";
}

TEST(SafetensorsTest, Write_Refuses) {
  const std::vector<float> data(2);
  const auto bytes = std::as_bytes(std::span(data));
  struct Case {
    std::vector<SafetensorToWrite> tensors;
    const char* why;
  };
  const Case cases[] = {{{{"a", "F32", {2}, bytes}, {"a", "F32", {2}, bytes}}, "name a is there twice"},
                        {{{"__metadata__", "F32", {2}, bytes}}, "reserved"},
                        {{{"a", "F31", {2}, bytes}}, "unknown dtype \"F31\""},
                        {{{"a", "F32", {3}, bytes}}, "has 8 bytes of data"},
                        {{{"a", "F32", {-2}, bytes}}, "has shape [-2], expected one that exists"}};
  for (const Case& c : cases) {
    const absl::Status status = WriteSafetensors(Path(), c.tensors);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.why));
  }
}

TEST(SafetensorsTest, Open_MissingFile) {
  EXPECT_EQ(SafetensorsFile::Open(Path("nosuch")).status().code(), absl::StatusCode::kNotFound);
}

TEST(SafetensorsTest, Open_FileOfAnotherWriter) {
  // No padding, so that data is unaligned; spaces after the header; an empty file of tensors.
  auto file =
      OpenBytes(File(R"({"__metadata__":{"format":"pt"},"t":{"dtype":"F16","shape":[1,2],"data_offsets":[0,4]}} )", 4));
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->Find("t")->data.size(), 4u);
  EXPECT_EQ(file->metadata().at("format"), "pt");
  EXPECT_TRUE(OpenBytes(File("{}", 0)).ok());
}

TEST(SafetensorsTest, Open_Truncated) {
  ExpectDamaged("", "truncated: found 0 bytes");
  ExpectDamaged("1234567", "truncated: found 7 bytes");
  const std::string good = File(One("F32", "[2]", "[0,8]"), 8);
  EXPECT_TRUE(OpenBytes(good).ok());
  for (size_t size = 0; size < good.size(); ++size) ExpectDamaged(good.substr(0, size), "");
  ExpectDamaged(good.substr(0, good.size() - 1), "truncated: tensor t ends at byte 8 of the data, found 7 bytes");
  ExpectDamaged(good.substr(0, 20), "truncated: the header has");
}

TEST(SafetensorsTest, Open_HeaderTooLong) {
  std::string file = File("{}", 0);
  const uint64_t lengths[] = {100'000'001, ~0ull, ~0ull - 7};
  for (const uint64_t length : lengths) {
    std::memcpy(file.data(), &length, 8);
    ExpectDamaged(file, "expected at most 100000000");
  }
}

TEST(SafetensorsTest, Open_HeaderIsNoObject) {
  ExpectDamaged(File("", 0), "does not start with '{'");
  ExpectDamaged(File(" {}", 0), "does not start with '{'");
  ExpectDamaged(File("[]", 0), "does not start with '{'");
  ExpectDamaged(File("{\"a\":", 0), "not a JSON object");
  ExpectDamaged(File("{} x", 0), "not a JSON object");
  ExpectDamaged(File("{\"\xff\":1}", 0), "not a JSON object");
  ExpectDamaged(File(absl::StrCat("{\"a\":", std::string(100'000, '[')), 0), "not a JSON object");
}

TEST(SafetensorsTest, Open_RepeatedName) {
  const std::string entry = R"({"dtype":"F32","shape":[1],"data_offsets":[0,4]})";
  ExpectDamaged(File(absl::StrCat("{\"t\":", entry, ",\"t\":", entry, "}"), 4), "\"t\" twice");
  ExpectDamaged(File(R"({"t":{"dtype":"F32","dtype":"I32","shape":[1],"data_offsets":[0,4]}})", 4), "\"dtype\" twice");
}

TEST(SafetensorsTest, Open_BadEntry) {
  ExpectDamaged(File(R"({"t":1})", 0), "tensor t is not described by an object");
  ExpectDamaged(File(R"({"t":{"shape":[1],"data_offsets":[0,4]}})", 4), "tensor t has no dtype");
  ExpectDamaged(File(One("F33", "[1]", "[0,4]"), 4), "unknown dtype \"F33\"");
  ExpectDamaged(File(R"({"__metadata__":1})", 0), "__metadata__ is not an object");
  ExpectDamaged(File(R"({"__metadata__":{"a":1}})", 0), "\"a\" is not a string");
}

TEST(SafetensorsTest, Open_BadShape) {
  for (const char* shape : {"[-1]", "[1.5]", "1", "[\"1\"]", "[18446744073709551615]", "[4294967296,4294967296,4]",
                            "[9223372036854775807,3]", "null"}) {
    ExpectDamaged(File(One("F32", shape, "[0,4]"), 4), "tensor t: shape is not a list of sizes");
  }
  // A product that is zero is no overflow.
  EXPECT_TRUE(OpenBytes(File(One("F32", "[9223372036854775807,9223372036854775807,0]", "[0,0]"), 0)).ok());
}

TEST(SafetensorsTest, Open_BadOffsets) {
  for (const char* offsets : {"[4,0]", "[-4,0]", "[0]", "[0,4,8]", "[0.0,4.0]", "[0,18446744073709551615]", "4"}) {
    ExpectDamaged(File(One("F32", "[1]", offsets), 4), "data_offsets is not a begin and an end");
  }
  ExpectDamaged(File(One("F32", "[1]", "[0,9223372036854775807]"), 4), "truncated: tensor t ends at byte");
  ExpectDamaged(File(One("F32", "[2]", "[0,4]"), 4), "tensor t has 4 bytes, expected 8 of dtype F32 and shape [2]");
}

TEST(SafetensorsTest, Open_TensorsCoverTheData) {
  const auto two = [](const char* first, const char* second) {
    return absl::StrCat(R"({"a":{"dtype":"U8","shape":[2],"data_offsets":)", first,
                        R"(},"b":{"dtype":"U8","shape":[2],"data_offsets":)", second, "}}");
  };
  EXPECT_TRUE(OpenBytes(File(two("[2,4]", "[0,2]"), 4)).ok());
  ExpectDamaged(File(two("[0,2]", "[1,3]"), 3), "tensor b overlaps");
  ExpectDamaged(File(two("[0,2]", "[0,2]"), 2), "overlaps");
  ExpectDamaged(File(two("[0,2]", "[3,5]"), 5), "bytes 2 to 3 before tensor b belong to no tensor");
  ExpectDamaged(File(two("[1,3]", "[3,5]"), 5), "bytes 0 to 1 before tensor a");
  ExpectDamaged(File(two("[0,2]", "[2,4]"), 6), "bytes 4 to 6 at the end");
}

TEST(SafetensorsTest, Find_NamesFileAndTensor) {
  const auto file = OpenBytes(File("{}", 0));
  const absl::Status status = file->Find("absent").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), HasSubstr("spoilt: no tensor absent"));
}

TEST(SafetensorsTest, DtypeSize_Table) {
  EXPECT_EQ(SafetensorsDtypeSize("BF16"), 2u);
  EXPECT_EQ(SafetensorsDtypeSize("I64"), 8u);
  EXPECT_EQ(SafetensorsDtypeSize("BOOL"), 1u);
  EXPECT_EQ(SafetensorsDtypeSize("f32"), 0u);
}

}  // namespace
}  // namespace weft
