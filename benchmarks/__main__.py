"""What does tfreg cost?

    python -m benchmarks [--quick] [--out DIR]

Runs every benchmark, one at a time and each in a process of its own, writes their measurements and
draws them. Where one fails, the others still run, but no figure is drawn. That of TPUs needs the
extra `tpu`, and is left out without it.
"""

import argparse
import importlib.util
import pathlib
import subprocess
import sys

from benchmarks import figures

FOLDER = pathlib.Path(__file__).parent


def modules():
    names = [path.stem for path in sorted(FOLDER.glob("bench_*.py"))]
    if importlib.util.find_spec("libtpu") is None and "bench_tpu" in names:
        print("bench_tpu is left out: pip install -e '.[tpu]'")
        names.remove("bench_tpu")
    return [f"benchmarks.{name}" for name in names]


def succeeds(module, options):
    print(f"\n{module}\n", flush=True)
    command = [sys.executable, "-m", module, *options]
    return subprocess.run(command, cwd=FOLDER.parent).returncode == 0


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="less of everything")
    parser.add_argument("--out", type=pathlib.Path, default=figures.RESULTS, metavar="DIR")
    options = parser.parse_args(arguments)
    # The benchmarks run in another folder.
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    failed = []
    for module in modules():
        measured = out / f"{module.partition('bench_')[2]}.json"
        quick = ["--quick"] if options.quick else []
        if not succeeds(module, [*quick, "--out", str(measured)]):
            failed.append(module)
    if failed:
        raise SystemExit(f"Failed: {', '.join(failed)}")
    figures.main([str(out)])


if __name__ == "__main__":
    main()
