"""How a bench is shown."""

from autocompress.cli.screen import open_console, print_pairs, print_table
from autocompress.store.bench import BatchBench, Bench, Line

_RUNTIMES = {"PyTorch": "", "onnxruntime": "onnx "}


def print_bench(found: Bench) -> None:
    """Print sizes, then one table of times for each batch size."""
    rows = []
    for name in ("params", "macs", "bytes"):
        dense, compact = getattr(found.dense, name), getattr(found.compact, name)
        title = {"macs": "MACs per sample", "bytes": "bytes of weights"}.get(name, name)
        rows.append((title, f"{dense:,}", f"{compact:,}", f"{dense / max(1, compact):.1f}x"))
    print_table("", ("", "dense", "compact", "fewer"), rows)
    for one in found.batches:
        print_table(f"\n{_name_batch(one, found.threads)}", _HEAD, [_show(x) for x in one.lines])
    fewer = found.dense.macs / max(1, found.compact.macs)
    open_console().print()
    print_pairs(
        {
            "speed-up": "over the dense model of that runtime, in its faster layout",
            "of MACs": f"share of the {fewer:.1f}x fewer MACs that became speed",
            **_list_ways(found),
        }
    )


_HEAD = ("", "layout", "ms", "quartiles", "speed-up", "of MACs")


def _show(line: Line) -> tuple[str, ...]:
    median_ms = 1000 * line.timing.median_s
    digits = max(0, 3 - len(f"{median_ms:.0f}") + (median_ms < 1))
    factor = line.speedup.factor
    low, high = (f"{1000 * one:,.{digits}f}" for one in line.timing.spread_s)
    return (
        f"{_RUNTIMES[line.runtime]}{line.model}",
        line.layout,
        f"{median_ms:,.{digits}f}",
        f"{low} to {high}",
        f"{factor:.2f}x",
        "" if line.model == "dense" else f"{line.share:.0%}",
    )


def _name_batch(one: BatchBench, threads: int) -> str:
    images = "1 image" if one.batch == 1 else f"{one.batch} images"
    return f"{images} at a time, {'1 thread' if threads == 1 else f'{threads} threads'}"


def _list_ways(found: Bench) -> dict[str, str]:
    """Return how the optimised model is executed, by batch size."""
    return {
        f"optimised, {one.batch}": line.way
        for one in found.batches
        for line in one.lines
        if line.way
    }
