#ifndef WEFT_CLIENT_TESTING_TEST_FOLDERS_H_
#define WEFT_CLIENT_TESTING_TEST_FOLDERS_H_

#include <cstdint>
#include <string>
#include <vector>

namespace weft {

// Folders of real format and tiny size, for tests. All abort when the disk refuses.

// A new empty folder under the test's temporary one.
std::string MakeTestFolder(const std::string& name);

// A BERT base of one layer: config.json and a model.safetensors with one tensor that holds `seed`, so that another seed
// is another base.
void WriteTestBase(const std::string& folder, int64_t hidden_size = 4, float seed = 1);

struct TestData {
  std::vector<std::string> labels = {"red", "green", "blue"};
  int64_t train_rows = 10;  // 0: no such split
  int64_t test_rows = 6;
  std::string task = "sequence_classification";
};
// A data folder as `weft prepare` writes it; row i has label i modulo the labels and three tokens.
void WriteTestData(const std::string& folder, const TestData& data = {});

}  // namespace weft

#endif  // WEFT_CLIENT_TESTING_TEST_FOLDERS_H_
