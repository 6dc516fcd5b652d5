"""The demo's data out of Debian's package index."""

import collections
import contextlib
import hashlib
import io
import os
import subprocess
import sys
import unittest
from unittest import mock

from support import ROOT, PrepareTestCase
import debian_sections

INDEX = """Package: alpha
Source: source-a (1.2-3)
Maintainer: Ann <Ann@Example.org>
Section: net
Description: a tool\tfor nets
 its long text
 .
 Section: of the long text

Package: alpha-dbg
Source: source-a
Maintainer: Ann <ann@example.org>
Section: debug
Description: symbols

Package: alpha-twin
Source: source-a
Maintainer: Bob
Section: utils
Description: a tool\tfor nets

Package: beta
Maintainer: Bob
Section: contrib/web
Description: path \\n of "beta"

Package: gamma
Maintainer: Bob
Description: a package without a section
"""


def digest(text):
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def split_of(source):
    return "test" if hashlib.sha256(source.encode()).digest()[0] < 26 else "train"


def packages_of_net(count):
    return [{"Package": f"p{i}", "Section": "net", "Maintainer": "x", "Description": f"d{i}"} for i in range(count)]


class DebianSectionsTest(PrepareTestCase):
    def call(self, *arguments):
        output, problems = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(problems):
            code = debian_sections.main([str(argument) for argument in arguments])
        return code, output.getvalue(), problems.getvalue()

    def assert_tool_refuses(self, exit_code, code_name, *words, arguments):
        code, _, problems = self.call(*arguments)
        self.assertEqual((code, problems.count("\n")), (exit_code, 1), problems)
        self.assertTrue(problems.startswith(f"debian_sections: {code_name}: "), problems)
        for word in words:
            self.assertIn(word, problems)

    def sections(self, maintainers=40):
        """A file of many maintainers, the i-th with i + 1 rows of each split."""
        lines = [f"{split}\tm{i:02}\t{'abc'[i % 3]}\ttext {i} {j}\n"
                 for split in ("test", "train") for i in range(maintainers) for j in range(i + 1)]
        return self.write("sections.tsv", "split\tclient\tlabel\ttext\n" + "".join(lines))

    def test_index_rows(self):
        index, out = self.write("index", INDEX), self.root / "sections.tsv"
        code, output, _ = self.call("index", out, "--from", index, "--min-packages", "5")
        self.assertEqual(code, 0)
        self.assertIn("2 rows, 2 labels, 2 maintainers", output)
        rows = sorted([(split_of("source-a"), digest("ann@example.org"), "net", "a tool for nets"),
                       (split_of("beta"), digest("bob"), "contrib/web", 'path \\n of "beta"')])
        lines = ["split\tclient\tlabel\ttext", *("\t".join(row) for row in rows)]
        self.assertEqual(out.read_text(), "".join(line + "\n" for line in lines))

    def test_index_draws_a_tenth_of_the_sources_for_test(self):
        packages = packages_of_net(5000)
        rows, count = debian_sections.make_rows(packages)
        self.assertEqual(count, 5000)
        tests = sum(row.split == "test" for row in rows)
        share = 26 / 256
        self.assertLess(abs(tests - 5000 * share), 6 * (5000 * share * (1 - share)) ** 0.5)

    def test_index_does_not_depend_on_the_order_of_other_sources(self):
        packages = packages_of_net(50)
        self.assertEqual(debian_sections.make_rows(packages), debian_sections.make_rows(packages[::-1]))

    def test_index_of_too_few_packages(self):
        index = self.write("index", INDEX)
        self.assert_tool_refuses(5, "FAILED_PRECONDITION", "found 5 packages", "10000", "apt-get update",
                                 arguments=("index", self.root / "out.tsv", "--from", index))
        self.assertFalse((self.root / "out.tsv").exists())

    def apt_cache(self, script):
        (self.root / "bin").mkdir()
        tool = self.root / "bin/apt-cache"
        tool.write_text("#!/bin/sh\n" + script)
        tool.chmod(0o755)
        return mock.patch.dict(os.environ, {"PATH": f"{self.root / 'bin'}:{os.environ['PATH']}"})

    def test_index_from_apt_cache(self):
        index = self.write("index", INDEX)
        with self.apt_cache(f'[ "$1" = dumpavail ] && cat {index}\n'):
            code, _, problems = self.call("index", self.root / "out.tsv", "--min-packages", "1")
        self.assertEqual((code, problems), (0, ""))
        self.call("index", self.root / "saved.tsv", "--from", index, "--min-packages", "1")
        self.assertEqual((self.root / "out.tsv").read_bytes(), (self.root / "saved.tsv").read_bytes())

    def test_index_when_apt_cache_fails(self):
        with self.apt_cache("exit 100\n"):
            self.assert_tool_refuses(5, "FAILED_PRECONDITION", "ended with 100", "apt-get update",
                                     arguments=("index", self.root / "out.tsv"))

    def test_index_without_apt_cache(self):
        with mock.patch.dict(os.environ, {"PATH": str(self.root)}):
            self.assert_tool_refuses(5, "FAILED_PRECONDITION", "not installed", "--from",
                                     arguments=("index", self.root / "out.tsv"))

    def test_index_file_missing_or_not_utf8(self):
        self.assert_tool_refuses(3, "NOT_FOUND", "nosuch",
                                 arguments=("index", self.root / "o", "--from", self.root / "nosuch"))
        latin = self.write("latin", b"Package: caf\xe9\n")
        self.assert_tool_refuses(2, "INVALID_ARGUMENT", "UTF-8", arguments=("index", self.root / "o", "--from", latin))

    def test_index_written_where_it_cannot_be(self):
        index = self.write("index", INDEX)
        self.assert_tool_refuses(5, "FAILED_PRECONDITION", "File exists",
                                 arguments=("index", self.data / "o.tsv", "--from", index, "--min-packages", "1"))

    def test_shares_are_disjoint_whole_and_unequal(self):
        sections = self.sections()
        code, output, _ = self.call("shares", sections, self.root / "shares")
        self.assertEqual(code, 0)
        self.assertEqual(output.count("client-"), 4)
        shares = [debian_sections.read_rows(self.root / f"shares/client-{i}.tsv") for i in range(1, 5)]
        dealt = [row for share in shares for row in share]
        self.assertEqual(sorted(dealt), sorted(debian_sections.read_rows(sections)))
        owners = collections.defaultdict(set)
        for number, share in enumerate(shares):
            self.assertEqual({row.split for row in share}, {"train", "test"})
            for row in share:
                owners[row.client].add(number)
        self.assertEqual({len(numbers) for numbers in owners.values()}, {1})
        for share, part in zip(shares, (0.4, 0.3, 0.2, 0.1)):
            self.assertAlmostEqual(len(share) / len(dealt), part, delta=0.01)
        self.assertEqual((self.root / "shares/labels.txt").read_text(), "a\nb\nc\n")

    def test_shares_have_the_same_bytes_again(self):
        sections = self.sections()
        for folder in ("first", "second", "second"):
            self.call("shares", sections, self.root / folder, "--clients", "3")
        for path in (self.root / "first").iterdir():
            self.assertEqual(path.read_bytes(), (self.root / "second" / path.name).read_bytes())
        self.assertEqual(len(list((self.root / "second").iterdir())), 4)

    def test_shares_with_a_client_that_gets_no_rows(self):
        self.assert_tool_refuses(2, "INVALID_ARGUMENT", "client 3 of 3", "fewer --clients",
                                 arguments=("shares", self.sections(2), self.root / "shares", "--clients", "3"))
        self.assertFalse((self.root / "shares").exists())

    def test_shares_of_a_file_with_other_columns(self):
        for content in ("", "a\tb\n", "split\tclient\tlabel\ttext\ntrain\tx\n"):
            other = self.write("other.tsv", content)
            self.assert_tool_refuses(2, "INVALID_ARGUMENT", "other.tsv", "debian_sections.py index",
                                     arguments=("shares", other, self.root / "shares"))

    def test_shares_of_a_missing_file(self):
        self.assert_tool_refuses(3, "NOT_FOUND", "nosuch",
                                 arguments=("shares", self.root / "nosuch", self.root / "shares"))

    def test_run_as_script_into_weft_prepare(self):
        """As the demo does: shares, then `weft prepare` on one with the common labels."""
        tool = ROOT / "tools/debian_sections/debian_sections.py"
        command = [sys.executable, tool, "shares", self.sections(), self.root / "shares"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        summary = self.prepare("--labels", self.root / "shares/labels.txt", data=self.root / "shares/client-4.tsv")
        self.assertEqual(set(summary["splits"]), {"train", "test"})
        self.assertEqual(self.manifest()["labels"], ["a", "b", "c"])


if __name__ == "__main__":
    unittest.main()
