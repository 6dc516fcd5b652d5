#include "common/file.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <csignal>
#include <filesystem>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace weft {
namespace {

// No file of this process can grow beyond `bytes` while it lives: what a full disk looks like.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) : handler_(std::signal(SIGXFSZ, SIG_IGN)) {
    getrlimit(RLIMIT_FSIZE, &before_);
    rlimit limit = before_;
    limit.rlim_cur = bytes;
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() {
    setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, handler_);
  }

 private:
  void (*handler_)(int);
  rlimit before_{};
};

class FileTest : public testing::Test {
 protected:
  FileTest()
      : folder_(absl::StrCat(testing::TempDir(), "/file_test_",
                             testing::UnitTest::GetInstance()->current_test_info()->name())) {
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
  }
  std::string Path(const std::string& name) const { return absl::StrCat(folder_, "/", name); }
  std::vector<std::string> Names() const {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(folder_)) names.push_back(entry.path().filename());
    return names;
  }

  const std::string folder_;
};

void ExpectError(const absl::Status& status, absl::StatusCode code, const std::string& text) {
  EXPECT_EQ(status.code(), code) << status;
  EXPECT_TRUE(absl::StrContains(status.message(), text)) << status;
}

TEST_F(FileTest, ReadFile_GivesBackWhatWasWritten) {
  for (const std::string& content : {std::string(), std::string("a\0b\n", 4), std::string(300'000, 'x')}) {
    ASSERT_TRUE(WriteFileAtomically(Path("f"), content).ok());
    const auto read = ReadFile(Path("f"));
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_EQ(*read, content);
  }
}

TEST_F(FileTest, ReadFile_OfUnknownSize) {
  const auto read = ReadFile("/proc/self/status");
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_TRUE(absl::StrContains(*read, "VmPeak")) << *read;
}

TEST_F(FileTest, ReadFile_Missing) {
  ExpectError(ReadFile(Path("no")).status(), absl::StatusCode::kNotFound, Path("no"));
}

TEST_F(FileTest, ReadFile_FolderIsRefusedWithTheReason) {
  const auto read = ReadFile(folder_);
  EXPECT_FALSE(read.ok());
  EXPECT_TRUE(absl::StrContains(read.status().message(), folder_)) << read.status();
  EXPECT_TRUE(absl::StrContains(read.status().message(), "directory")) << read.status();
}

TEST_F(FileTest, WriteFileAtomically_JoinsPieces) {
  const std::vector<std::string_view> pieces = {"one ", "", "two"};
  ASSERT_TRUE(WriteFileAtomically(Path("f"), pieces).ok());
  EXPECT_EQ(*ReadFile(Path("f")), "one two");
}

TEST_F(FileTest, WriteFileAtomically_PiecesAsTheyCome) {
  int calls = 0;
  std::string piece;  // each one in the place of the one before
  const auto next = [&](bool fails) {
    return [&calls, &piece, fails]() -> absl::StatusOr<std::optional<std::string_view>> {
      if (++calls == 3 && fails) return absl::DataLossError("the third is damaged");
      if (calls > 3) return std::optional<std::string_view>();
      piece = std::string(calls, static_cast<char>('0' + calls));
      return std::optional<std::string_view>(piece);
    };
  };
  ASSERT_TRUE(WriteFileAtomically(Path("f"), next(false)).ok());
  EXPECT_EQ(*ReadFile(Path("f")), "122333");
  calls = 0;
  EXPECT_EQ(WriteFileAtomically(Path("f"), next(true)).message(), "the third is damaged");
  EXPECT_EQ(*ReadFile(Path("f")), "122333") << "the old file stays";
}

TEST_F(FileTest, WriteFileAtomically_ReplacesTheFileAndLeavesNothingElse) {
  ASSERT_TRUE(WriteFileAtomically(Path("f"), "old").ok());
  ASSERT_TRUE(WriteFileAtomically(Path("f"), "new").ok());
  EXPECT_EQ(*ReadFile(Path("f")), "new");
  EXPECT_EQ(Names(), std::vector<std::string>{"f"});
}

TEST_F(FileTest, WriteFileAtomically_FollowsTheUmask) {
  const mode_t before = umask(077);
  const absl::Status status = WriteFileAtomically(Path("f"), "x");
  umask(before);
  ASSERT_TRUE(status.ok()) << status;
  struct stat info {};
  ASSERT_EQ(stat(Path("f").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
}

TEST_F(FileTest, WriteFileAtomically_FullDiskKeepsTheOldFileAndNothingElse) {
  ASSERT_TRUE(WriteFileAtomically(Path("f"), "old").ok());
  for (const rlim_t room : {0, 100}) {  // full at once, and full half-way
    const FileSizeLimit full(room);
    const absl::Status status = WriteFileAtomically(Path("f"), std::string(1000, 'x'));
    ExpectError(status, absl::StatusCode::kResourceExhausted, Path("f"));
  }
  EXPECT_EQ(*ReadFile(Path("f")), "old");
  EXPECT_EQ(Names(), std::vector<std::string>{"f"});
}

TEST_F(FileTest, WriteFileAtomically_OverAFolderLeavesNothingBehind) {
  std::filesystem::create_directories(Path("f/sub"));
  EXPECT_FALSE(WriteFileAtomically(Path("f"), "x").ok());
  EXPECT_EQ(Names(), std::vector<std::string>{"f"});
}

TEST_F(FileTest, WriteFileAtomically_MissingFolder) {
  ExpectError(WriteFileAtomically(Path("no/f"), "x"), absl::StatusCode::kNotFound, Path("no/f"));
}

TEST_F(FileTest, WriteFileAtomically_ReadersSeeOldOrNew) {
  const std::string contents[] = {std::string(50'000, 'a'), std::string(70'000, 'b')};
  ASSERT_TRUE(WriteFileAtomically(Path("f"), contents[0]).ok());
  std::thread writer([&] {
    for (int i = 0; i < 30; ++i) EXPECT_TRUE(WriteFileAtomically(Path("f"), contents[i % 2]).ok());
  });
  for (int i = 0; i < 100; ++i) {
    const auto read = ReadFile(Path("f"));
    EXPECT_TRUE(read.ok() && (*read == contents[0] || *read == contents[1]));
  }
  writer.join();
}

TEST_F(FileTest, MakeDirectories_MakesParentsAndTakesWhatIsThere) {
  ASSERT_TRUE(MakeDirectories(Path("a/b/c")).ok());
  ASSERT_TRUE(MakeDirectories(Path("a/b/c")).ok());
  EXPECT_TRUE(std::filesystem::is_directory(Path("a/b/c")));
}

TEST_F(FileTest, MakeDirectories_UnderAFile) {
  ASSERT_TRUE(WriteFileAtomically(Path("f"), "x").ok());
  const absl::Status status = MakeDirectories(Path("f/sub"));
  EXPECT_FALSE(status.ok());
  EXPECT_TRUE(absl::StrContains(status.message(), Path("f/sub"))) << status;
}

TEST_F(FileTest, MappedFile_MapsTheWholeFile) {
  ASSERT_TRUE(WriteFileAtomically(Path("f"), "hello").ok());
  auto file = MappedFile::Open(Path("f"));
  ASSERT_TRUE(file.ok()) << file.status();
  const auto text = [](const MappedFile& mapped) {
    return std::string(reinterpret_cast<const char*>(mapped.bytes().data()), mapped.bytes().size());
  };
  EXPECT_EQ(text(*file), "hello");
  MappedFile moved = *std::move(file);
  EXPECT_EQ(text(moved), "hello");
  MappedFile assigned;
  assigned = std::move(moved);
  EXPECT_EQ(text(assigned), "hello");
}

TEST_F(FileTest, MappedFile_EmptyFile) {
  ASSERT_TRUE(WriteFileAtomically(Path("f"), "").ok());
  const auto file = MappedFile::Open(Path("f"));
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_TRUE(file->bytes().empty());
}

TEST_F(FileTest, MappedFile_MissingOrFolder) {
  ExpectError(MappedFile::Open(Path("no")).status(), absl::StatusCode::kNotFound, Path("no"));
  EXPECT_FALSE(MappedFile::Open(folder_).ok());
}

}  // namespace
}  // namespace weft
