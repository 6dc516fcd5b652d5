"""Follows docs/adding_an_aggregator.md to the letter: in a copy of the tree, writes the files its code blocks hold to the places the page
names, adds the one line to aggregators/BUILD, and runs the page's command for the new rule and the laws over all rules.

    adding_an_aggregator_test.py --scratch DIR
"""

import argparse
import pathlib
import re
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/adding_an_aggregator.md"
# Section of the page -> file in aggregators/damped, as the page's text names it at the section's beginning.
NAMED = re.compile(r"^`(damped[\w.]*|BUILD)`\.", re.M)


def blocks(section):
    return re.findall(r"^```\w+\n(.*?)^```$", section, re.M | re.S)


def files_of(page):
    """{file name: content} from every section that names a file, and the line for aggregators/BUILD."""
    files, line = {}, None
    for section in re.split(r"^## ", page, flags=re.M)[1:]:
        named = NAMED.search(section)
        if not named:
            continue
        found = blocks(section)
        files[named.group(1)] = found[0]
        if "aggregators/BUILD" in section[section.index(found[0]) + len(found[0]):]:
            line = found[1]
    return files, line


def copy_tree(scratch):
    """The tracked and new files of this tree, so that what is tested is what is there."""
    scratch.mkdir(parents=True, exist_ok=True)
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, check=True,
                            capture_output=True).stdout
    paths = {path.decode() for path in listed.split(b"\0") if path and (ROOT / path.decode()).is_file()}
    for old in scratch.rglob("*"):
        if old.is_file() and not old.is_symlink() and str(old.relative_to(scratch)) not in paths and "bazel-" not in str(old):
            old.unlink()
    for path in paths:
        source, target = ROOT / path, scratch / path
        if target.exists() and target.read_bytes() == source.read_bytes():
            continue  # untouched, so that a second run builds nothing anew
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
    system = ROOT / ".bazelrc.system"
    if system.exists():
        (scratch / system.name).write_bytes(system.read_bytes())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scratch", type=pathlib.Path, required=True, help="folder for the copy; may stay for the next run")
    scratch = parser.parse_args().scratch.resolve()
    files, line = files_of(PAGE.read_text())
    if sorted(files) != ["BUILD", "damped.cc", "damped.proto", "damped_test.cc"] or not line:
        sys.exit(f"{PAGE}: found the files {sorted(files)} and the line {line!r}, expected four files and the line of aggregators/BUILD")
    copy_tree(scratch)
    folder = scratch / "aggregators/damped"
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(content)
    build = scratch / "aggregators/BUILD"
    text = build.read_text()
    # The line goes into the list of `all`, the first list of rules in the file.
    build.write_text(re.sub(r"(name = \"all\".*?deps = \[\n)", lambda match: match.group(1) + line, text, count=1, flags=re.S))
    command = ["bazel", "test", "//aggregators/damped/...", "//aggregators:conformance_test", "--test_output=errors"]
    done = subprocess.run(command, cwd=scratch, check=False)
    subprocess.run(["bazel", "shutdown"], cwd=scratch, check=False, capture_output=True)
    if done.returncode != 0:
        sys.exit("the rule of docs/adding_an_aggregator.md does not build or keep the laws")
    print("adding_an_aggregator: the page's rule builds and keeps the laws")


if __name__ == "__main__":
    main()
