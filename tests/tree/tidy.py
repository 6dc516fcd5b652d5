"""clang-tidy with the short list of .clang-tidy over own code; torch translation units are left out (minutes each).

A file that has passed is not looked at again until it changes, or a header of ours that it includes: so what was cut off or mended goes on.
"""

import concurrent.futures
import functools
import hashlib
import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
PASSED = ROOT / ".weft/tests/tidy"
TORCH = re.compile(r"training/((models|forms|ops|generate)/|[a-z_]*\.cc)|.*gloo_link\.cc$")
INCLUDES = re.compile(r'^(?:#include|import) "(.+?)"', re.MULTILINE)


def output(*command):
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


@functools.cache
def contents(name):
    return (ROOT / name).read_text(encoding="utf-8")


@functools.cache
def included(name):
    """Files of ours that it includes itself; of a generated header, what it is generated from."""
    names = [re.sub(r"(\.grpc)?\.pb\.h$", ".proto", each) for each in INCLUDES.findall(contents(name))]
    return [each for each in names if (ROOT / each).is_file()]


def key(name, common):
    seen, left = set(), [name]
    while left:
        each = left.pop()
        if each not in seen:
            seen.add(each)
            left += included(each)
    digest = hashlib.sha256(common.encode())
    for each in sorted(seen):
        digest.update(f"{each}\0{contents(each)}\0".encode())
    return digest.hexdigest()


def main():
    subprocess.run(["bazel", "build", "--noshow_progress", "//..."], cwd=ROOT, check=True)  # generated headers
    flags = ["-std=c++20", "-I.", f"-I{output('bazel', 'info', 'bazel-genfiles').strip()}", "-DCPPHTTPLIB_OPENSSL_SUPPORT", "-DSPDLOG_SHARED_LIB",
             "-DSPDLOG_COMPILED_LIB", "-DSPDLOG_FMT_EXTERNAL",
             "-D__builtin_shuffle(v,...)=(v)"]  # GCC's own name for a shuffle, which clang has under another: what it gives does not matter here
    names = [name for name in output("git", "ls-files", "*.cc").split() if not TORCH.match(name)]
    common = output("clang-tidy", "--version") + (ROOT / ".clang-tidy").read_text() + " ".join(flags)
    PASSED.mkdir(parents=True, exist_ok=True)
    keys = {name: key(name, common) for name in names}
    left = [name for name in names if not (PASSED / keys[name]).exists()]

    def check(name):
        done = subprocess.run(["clang-tidy", "--quiet", "--warnings-as-errors=*", name, "--", *flags], cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            (PASSED / keys[name]).touch()
        return name, done

    failed = 0
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for name, done in pool.map(check, left):
            if done.returncode != 0:
                failed += 1
                print(f"{name}:\n{done.stdout}{done.stderr}", flush=True)
    print(f"{len(names)} files, {len(left)} looked at, {failed} with findings")
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
