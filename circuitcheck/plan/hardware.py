"""How fast a machine is, as far as a cost needs to know."""

from __future__ import annotations

from dataclasses import dataclass

SHARE = 0.8
"""Share of a machine's peak in large products that a layer's products reach: measured on CPUs, and a guess for GPUs."""


@dataclass(frozen=True)
class Hardware:
    """A machine.

    Attributes:
        name: what it is called.
        flops: peak of large float32 matrix products, operations a second.
        bandwidth: of its memory, bytes a second.
        overhead: seconds that calling one layer takes, however little it computes.
        element: seconds that an operation on one number takes, such as an activation.
        tokens: of one batch beyond which nothing gets faster, as the engine packs them.
        answers: rows of one batch that are one token each.
        memory: bytes; weights that need more stay on disk; None where all fit.
        disk: bytes read from it a second.
    """

    name: str
    flops: float
    bandwidth: float
    overhead: float
    element: float
    tokens: int
    answers: int
    memory: float | None = None
    disk: float = 3e9

    def seconds(self, flops: float, read: float, elements: float) -> float:
        """One call of a layer: its products, or reading its weights, whichever takes longer, and everything else."""
        products = max(flops / (SHARE * self.flops), read / self.bandwidth)
        return self.overhead + products + elements * self.element


GPUS = {
    "a100": Hardware("NVIDIA A100 80 GB", 19.5e12, 2.0e12, 1e-4, 4e-12, 65536, 8192, 80e9),
    "h100": Hardware("NVIDIA H100 80 GB", 67e12, 3.35e12, 1e-4, 2.4e-12, 65536, 8192, 80e9),
    "h200": Hardware("NVIDIA H200 141 GB", 67e12, 4.8e12, 1e-4, 1.7e-12, 65536, 8192, 141e9),
}
"""From NVIDIA's data sheets: float32 without tensor cores, since TF32 stays off; the overhead is a guess, and an
operation on a number reads and writes it once. The disk is a usual NVMe's."""
