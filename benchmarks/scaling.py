"""Hours and memory of docs/scaling.md, computed from what benchmarks/gpu.sh measured on one GPU.

    python benchmarks/scaling.py [--student-tflops 41.6] [--teacher-tflops 72] [--link GB/s]

A step is the student's forward and backward pass and the teacher's forward pass at the measured TFLOP/s, then a ring
all-reduce of the student's float32 gradients, not overlapped. Nothing else is counted: neither loading nor evaluation.
"""

from dataclasses import dataclass

import click


@dataclass(frozen=True)
class Shape:
    layers: int
    width: int
    vocabulary: int = 30522

    @property
    def parameters(self) -> int:
        """Embeddings and encoder; biases and norms are left out."""
        return self.vocabulary * self.width + 12 * self.layers * self.width**2

    def forward_flops(self, length: int) -> int:
        """Per token, of the matrix products, in texts of `length` tokens."""
        return 2 * self.layers * (12 * self.width**2 + 2 * length * self.width)


@dataclass(frozen=True)
class Job:
    name: str
    texts: int
    length: int
    epochs: int
    batch: int
    """Of one GPU."""


STUDENT, TEACHER = Shape(4, 768), Shape(12, 768)
JOBS = (
    Job("Wikitext-103, 120 M tokens in pieces of 128, 3 epochs", 937_500, 128, 3, 128),
    Job("SST-2, 67 k texts padded to 24 tokens, 10 epochs", 67_349, 24, 10, 128),
)
GPUS = (1, 2, 4, 8, 16, 32, 64)


def step_seconds(job: Job, gpus: int, student_tflops: float, teacher_tflops: float, link: float) -> float:
    tokens = job.batch * job.length
    computing = (
        3 * STUDENT.forward_flops(job.length) / student_tflops + TEACHER.forward_flops(job.length) / teacher_tflops
    )
    return tokens * computing / 1e12 + 2 * (gpus - 1) / gpus * 4 * STUDENT.parameters / (link * 1e9)


@click.command()
@click.option("--student-tflops", default=41.6, show_default=True, help="Of a training step.")
@click.option("--teacher-tflops", default=72.0, show_default=True, help="Of a forward pass.")
@click.option("--link", default=25.0, show_default=True, help="GB/s between GPUs, the slowest link of the ring.")
def main(student_tflops: float, teacher_tflops: float, link: float) -> None:
    click.echo("| job | " + " | ".join(f"{gpus} GPU" for gpus in GPUS) + " |\n|---" + "|---" * len(GPUS) + "|")
    for job in JOBS:
        minutes = []
        for gpus in GPUS:
            steps = job.epochs * job.texts / (job.batch * gpus)
            minutes.append(steps * step_seconds(job, gpus, student_tflops, teacher_tflops, link) / 60)
        click.echo(f"| {job.name}, minutes | " + " | ".join(f"{value:.1f}" for value in minutes) + " |")
        click.echo("| global batch | " + " | ".join(str(job.batch * gpus) for gpus in GPUS) + " |")
    gigabytes = (16 * STUDENT.parameters + 4 * TEACHER.parameters) / 1e9
    click.echo(f"\nWeights, gradients and AdamW of the student, weights of the teacher: {gigabytes:.1f} GB")


if __name__ == "__main__":
    main()
