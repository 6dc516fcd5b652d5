"""The demo's federated part: how long it takes, what it reaches, and how much memory the coordinator needs.

    tests/bench/run.sh demo [--repeats 1]
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]


def peak_rss_mb(process_id):
    """High-water mark of a process's resident set in MB; 0 when it is gone."""
    try:
        for line in pathlib.Path(f"/proc/{process_id}/status").read_text().split("\n"):
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return 0


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=1)
    args = parser.parse_args()
    work = ROOT / ".weft/bench"
    results, peaks, totals = [], [], []
    for _ in range(args.repeats):
        pid_file = work / "coordinator.pid"
        pid_file.unlink(missing_ok=True)
        started, peak = time.monotonic(), 0
        with subprocess.Popen(["deploy/demo.sh", "--work", str(work.relative_to(ROOT))], cwd=ROOT, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as demo:
            while demo.poll() is None:
                time.sleep(0.2)
                if pid_file.exists():
                    peak = max(peak, peak_rss_mb(pid_file.read_text().strip()))
            results.append(json.loads(demo.stdout.read().strip().split("\n")[-1]))
        peaks.append(peak)
        totals.append(time.monotonic() - started)
    print(f"demo_seconds={statistics.median(r['seconds'] for r in results):.1f}")
    print(f"demo_total_seconds={statistics.median(totals):.1f}")
    print(f"demo_accuracy={statistics.median(r['accuracy'] for r in results):.4f}")
    print(f"demo_bytes_up={statistics.median(r['bytes_up'] for r in results):.0f}")
    print(f"demo_bytes_down={statistics.median(r['bytes_down'] for r in results):.0f}")
    print(f"coordinator_peak_rss_mb={statistics.median(peaks):.1f}")


if __name__ == "__main__":
    main()
