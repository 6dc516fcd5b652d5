"""Packs binaries of Bazel into one archive for machines without build tools.

    python3 tools/bundle/make_bundle.py --out FILE.tar.gz --bin BINARY... --torch BINARY... --python FILE...
        --requirements FILE --launcher FILE --readme FILE --license FILE --version-header FILE

    weft/bin        the binaries; of those that use LibTorch (--torch) a launcher each, which finds LibTorch
    weft/libexec    what these launchers start
    weft/lib        the shared libraries they load beside LibTorch, CUDA and the C and C++ run time
    weft/tools      the Python behind `weft prepare` and `weft generate`
    weft/share      requirements.txt of that Python, licenses
    weft/VERSION    what it was built from, and what it needs of a machine

Binaries look for weft/lib by a DT_RPATH of $ORIGIN/../lib, which holds for the libraries that libraries load, too, and precedes
LD_LIBRARY_PATH. The same files give the same bytes of archive.
"""

import argparse
import fnmatch
import gzip
import io
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile

# Of the machine it runs on. glibc belongs to the machine's loader. Debian 12's libstdc++ and libgcc_s would ask for glibc 2.36, where all else
# asks for 2.34, and what LibTorch and CUDA load may ask for newer ones than ours.
HOST = ["linux-vdso.so.*", "ld-linux-x86-64.so.*", "libc.so.*", "libm.so.*", "libdl.so.*", "libpthread.so.*", "librt.so.*", "libutil.so.*",
        "libresolv.so.*", "libstdc++.so.*", "libgcc_s.so.*"]
# Of the torch wheel and the wheels that it needs. libgomp is there too: one OpenMP run time in a process, the one LibTorch was built for.
TORCH = ["libtorch*.so*", "libc10*.so*", "libgomp.so.*", "libcu*.so.*", "libnv*.so.*", "libnccl.so.*"]


def fail(message):
    sys.exit(f"make_bundle: {message}")


def matches(name, patterns):
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def loaded(binaries):
    """{name: path} of all shared libraries that `binaries` load, those of libraries too."""
    libraries = {}
    for line in run("ldd", *binaries).splitlines():
        if match := re.match(r"\t(\S+) => (.+?)(?: \(0x[0-9a-f]+\))?$", line):
            if match[2] == "not found":
                fail(f"{match[1]} was not found; run deploy/setup.sh, then build again")
            libraries[match[1]] = pathlib.Path(match[2])
    return libraries


def torch_version(libraries):
    """The version of the LibTorch that was linked, without its build (+cpu, +cu130)."""
    folder = libraries["libtorch_cpu.so"].parent.parent
    wheel, archive = folder / "version.py", folder / "build-version"
    text = re.search(r"__version__ = '(.*)'", wheel.read_text())[1] if wheel.exists() else archive.read_text().strip()
    return text.split("+")[0]


def package_of(library):
    """The Debian package that brings a library of the system. Its database may say /usr/lib where the loader says /lib."""
    owners = {line.split(":")[0] for line in run("dpkg-query", "--search", f"*/{library.name}").splitlines()}
    if len(owners) != 1:
        fail(f"{library} belongs to {sorted(owners)}, expected one Debian package")
    return owners.pop()


def newest(prefix, files):
    """The newest version `prefix`_x.y.z of a symbol that `files` ask of the machine's libraries."""
    versions = set(re.findall(rf"Name: {prefix}_([\d.]+)", run("readelf", "--version-info", "--wide", *files)))
    return max(versions, key=lambda version: [int(part) for part in version.split(".")])


def commit():
    """HEAD, which git logs in a file that Bazel can depend on. A working tree that differs from it is said to."""
    log = pathlib.Path(".git/logs/HEAD")
    if not log.exists():
        return "unknown"
    head = log.read_text().splitlines()[-1].split()[1]
    root = log.resolve().parents[2]
    clean = subprocess.run(["git", "--no-optional-locks", "-C", root, "diff", "--quiet", "HEAD"], check=False).returncode == 0
    return head if clean else f"{head} with changes"


def place_binary(source, target):
    run("strip", "--strip-debug", "-o", target, source)
    target.chmod(0o755)
    run("patchelf", "--force-rpath", "--set-rpath", "$ORIGIN/../lib", target)


def place_libraries(libraries, root):
    """Copies what no other machine brings, with its license."""
    for name, path in libraries.items():
        if matches(name, HOST) or matches(name, TORCH):
            continue
        if not str(path).startswith(("/lib/", "/usr/lib/")):
            fail(f"{name} lies at {path}, expected a library of a Debian package or of the torch wheel")
        run("strip", "--strip-unneeded", "-o", root / "lib" / name, path)
        package = package_of(path)
        shutil.copyfile(f"/usr/share/doc/{package}/copyright", root / "share/licenses" / package)


def fill(root, arguments):
    for folder in ("bin", "libexec", "lib", "share/licenses"):
        (root / folder).mkdir(parents=True)
    for binary in arguments.bin:
        place_binary(binary, root / "bin" / binary.name)
    for binary in arguments.torch:
        place_binary(binary, root / "libexec" / binary.name)
        shutil.copyfile(arguments.launcher, root / "bin" / binary.name)
    libraries = loaded([*arguments.bin, *arguments.torch])
    place_libraries(libraries, root)
    for file in arguments.python:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, root / file)
    shutil.copyfile(arguments.requirements, root / "share/requirements.txt")
    shutil.copyfile(arguments.license, root / "LICENSE")
    shutil.copyfile(arguments.readme, root / "README.txt")
    own = [*(root / "lib").iterdir(), *(root / "libexec").iterdir(), *(root / "bin" / binary.name for binary in arguments.bin)]
    version = re.search(r'kVersion\[\] = "(.*)"', arguments.version_header.read_text())[1]
    (root / "VERSION").write_text(f"weft {version}\ncommit {commit()}\ntorch {torch_version(libraries)}\n"
                                  f"glibc {newest('GLIBC', own)}\nlibstdc++ {newest('GLIBCXX', own)}\n")


def pack(root, out):
    """Sorted, owned by root, without times: the same files, the same bytes."""
    with open(out, "wb") as file, gzip.GzipFile(fileobj=file, mode="wb", filename="", mtime=0, compresslevel=6) as zipped, \
            tarfile.open(fileobj=zipped, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for path in sorted(path for path in root.rglob("*") if path.is_file()):
            entry = tarfile.TarInfo(str(path.relative_to(root.parent)))
            data = path.read_bytes()
            entry.size, entry.mode = len(data), 0o755 if path.parent.name in ("bin", "libexec") else 0o644
            tar.addfile(entry, io.BytesIO(data))


def main():
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for option in ("bin", "torch", "python"):
        parser.add_argument(f"--{option}", nargs="+", type=pathlib.Path, required=True)
    for option in ("out", "requirements", "launcher", "readme", "license", "version-header"):
        parser.add_argument(f"--{option}", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    if shutil.which("patchelf") is None:
        fail("patchelf is not there; run deploy/setup.sh, which installs it")
    os.environ["LC_ALL"] = "C"
    with tempfile.TemporaryDirectory() as scratch:
        root = pathlib.Path(scratch) / "weft"
        root.mkdir()
        fill(root, arguments)
        pack(root, arguments.out)


if __name__ == "__main__":
    main()
