"""The tests that documents name exist: `CohortTest`, `TorchTrainerTest.Train_SameSeedSameBits`, and the beginnings `Describe_` of such names."""

import pathlib
import re
import subprocess
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
NAME = re.compile(r"`(\w+Test)(?:\.(\w+))?`")
TEST = re.compile(r"^(?:TYPED_)?TEST(?:_[FP])?\((\w+), (\w+)\)", re.M)


def tests_of(text):
    return set(TEST.findall(text))


def faults_of(text, tests):
    """Names in a document that no test has."""
    suites = {suite for suite, _ in tests}
    return sorted({f"{suite}.{case}" if case else suite for suite, case in NAME.findall(text)
                   if (suite, case) not in tests and (case or suite not in suites)})


class TestNamesTest(unittest.TestCase):
    def test_tests_that_documents_name_exist(self):
        listed = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard", "*_test.cc"], cwd=ROOT, check=True,
                                capture_output=True, text=True).stdout.split()
        tests = set().union(*(tests_of((ROOT / file).read_text()) for file in listed if (ROOT / file).exists()))
        seen = 0
        for document in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
            text = document.read_text()
            seen += len(NAME.findall(text))
            with self.subTest(document.name):
                self.assertEqual(faults_of(text, tests), [])
        self.assertGreater(seen, 20)

    def test_a_name_that_is_no_test_is_found(self):
        tests = tests_of("TEST_F(AThingTest, Does_It) {\nTYPED_TEST(OtherTest, Works) {")
        self.assertEqual(faults_of("`AThingTest`, `AThingTest.Does_It`, `OtherTest.Works`", tests), [])
        self.assertEqual(faults_of("`NoTest`, `AThingTest.Does_Not`, `OtherTest.Does_It`", tests),
                         ["AThingTest.Does_Not", "NoTest", "OtherTest.Does_It"])


if __name__ == "__main__":
    unittest.main()
