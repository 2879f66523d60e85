"""What the scripts set before jax starts."""

import os

import pytest

from launch import cli


@pytest.mark.parametrize(
    ("size", "jaxlib", "before", "after"),
    [
        (32, "0.10.2", None, None),
        (128, "0.10.2", None, f"{cli.YNNPACK}="),
        (128, "0.10.2", "--xla_dump_to=x", f"--xla_dump_to=x {cli.YNNPACK}="),
        (128, "0.10.2", f"{cli.YNNPACK}=y", f"{cli.YNNPACK}=y"),
        (128, "0.11.0", None, None),
    ],
)
def test_convolutions_of_full_size_nets(monkeypatch, size, jaxlib, before, after):
    # set first, so that what set_up_jax writes is taken back with it
    monkeypatch.setenv("XLA_FLAGS", before or "")
    if before is None:
        monkeypatch.delenv("XLA_FLAGS")
    monkeypatch.setattr(cli, "version", {"jaxlib": jaxlib}.__getitem__)
    cli.set_up_jax(size)
    assert os.environ.get("XLA_FLAGS") == after
