"""Compiles TensorFlow functions for TPUs, without one: libtpu compiles ahead of time on any x86.

Needs the extra `tpu`, which brings JAX and libtpu.
"""

import functools
import os
import re
from typing import NamedTuple

# No TPU is used: several processes may compile at a time, and none asks the network for one.
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")

TOPOLOGIES = {"v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2"}


class Figures(NamedTuple):
    """What the compiler says of a program."""

    traffic: float  # bytes read from and written to memory
    temporaries: float  # bytes
    cycles: float  # an estimate


@functools.cache
def _device(chip):
    from jax.experimental import topologies

    topology = topologies.get_topology_desc(platform="tpu", topology_name=TOPOLOGIES[chip])
    return topology.devices[0]


def _module(hlo):
    from jax._src.interpreters import mlir
    from jaxlib import xla_client
    from jaxlib.mlir import ir

    with mlir.make_ir_context():
        module = ir.Module.parse(xla_client._xla.mlir.hlo_to_stablehlo(hlo))
        # TensorFlow copies what a function returns of its variables by an op that libtpu lacks.
        text = re.sub(
            r'(?:"mhlo\.copy"\((%\S+?)\)|mhlo\.copy (%\S+?))(?: \{[^}]*\})? : '
            r"(?:\(.*?\) -> )?(tensor<[^>]*>)",
            lambda match: f"stablehlo.reshape {match[1] or match[2]} : "
            f"({match[3]}) -> {match[3]}",
            str(module),
        )
        return ir.Module.parse(text)


def compile_for(chip, function, *arguments):
    """The `Figures` of a `tf.function` with `jit_compile=True` on a `chip` of `TOPOLOGIES`."""
    from jaxlib import _jax, xla_client

    hlo = function.experimental_get_compiler_ir(*arguments)(stage="hlo_serialized")
    device = _device(chip)
    executable = device.client.compile(
        _module(hlo), _jax.DeviceList((device,)), xla_client.CompileOptions()
    )
    costs = executable.cost_analysis()
    costs = costs[0] if isinstance(costs, list) else costs
    text = executable.hlo_modules()[0].to_string()
    cycles = re.findall(r'"?estimated_cycles"?:"?(\d+)', text[text.index("ENTRY") :])
    return Figures(
        costs["bytes accessed"],
        executable.get_compiled_memory_stats().temp_size_in_bytes,
        sum(map(int, cycles)),
    )
