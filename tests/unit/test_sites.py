"""Sites: their names, and which are refused."""

import subprocess
import sys

import pytest

import layerroles as lr
from layerroles.sites import Size, parse_sites

SIZE = Size(n_layers=30, n_heads=9, n_kv_heads=3)


def test_ranges_are_half_open_and_order_is_kept() -> None:
    found = parse_sites("L3,L5:7,L2.attn,L1.H0,L1:3.KV2,L4.stream", SIZE)
    expected = ["L3", "L5", "L6", "L2.attn", "L1.H0", "L1.KV2", "L2.KV2", "L4.stream"]
    assert [str(site) for site in found] == expected


def test_all_names_every_layer_or_part() -> None:
    assert len(parse_sites("all", SIZE)) == 30
    assert parse_sites("all.mlp", Size(2, 9, 3)) == [lr.Site(0, "mlp"), lr.Site(1, "mlp")]
    assert len(parse_sites("all.head", SIZE)) == 270
    assert len(parse_sites("all.kv_group", SIZE)) == 90
    assert parse_sites("all.stream", SIZE)[29] == lr.Site(29, "stream")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("L30", "layer 30 is out of range, the model has layers 0 to 29"),
        ("L3.H9", "head 9 is out of range, the model has heads 0 to 8"),
        ("L3.KV3", "key/value head 3 is out of range, the model has key/value heads 0 to 2"),
        ("L3.ffn", "unknown part 'ffn'"),
        ("L3.head", "unknown part 'head'"),
        ("all.ffn", "unknown part 'ffn'"),
        ("L9:5", "range 'L9:5' is empty"),
        ("3", "'3' in '3' is not a site"),
        ("", "is not a site"),
        ("L3,L2:5", "name L3 more than once"),
    ],
)
def test_invalid_site_strings_raise(text: str, line: str) -> None:
    with pytest.raises(lr.InputError) as caught:
        parse_sites(text, SIZE)
    assert line in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ((-1,), "layer -1"),
        ((3, "head"), "needs head="),
        ((3, "kv_group"), "needs head="),
        ((3, "attn", 1), "head=1 goes with part='head'"),
        ((3, "stream", 1), "head=1 goes with part='head'"),
    ],
)
def test_invalid_sites_raise(arguments: tuple[object, ...], line: str) -> None:
    with pytest.raises(lr.InputError) as caught:
        lr.Site(*arguments)  # type: ignore[arg-type]  # wrong on purpose
    assert line in str(caught.value)


@pytest.mark.package
def test_invalid_arguments_raise_without_runtime_type_checks() -> None:
    """In a subprocess without runtime type checks, as in a user's script."""
    script = """
import numpy as np
import layerroles as lr
from layerroles.engine import encode_written
from tests.support.random_models import random_model
for make in (
    lambda: lr.Site(3, "ffn"),
    lambda: print(lr.Site(np.int64(1), "head", np.int32(2)), type(lr.Site(np.int64(1)).layer)),
    lambda: lr.Noise(lr.Reference()),
    lambda: lr.Condition({lr.Site(0): lr.Skip()}, name=3),
    lambda: lr.Condition({lr.Site(0): lr.Skip()}, at="start"),
    lambda: lr.Condition({0: lr.Skip()}),
    lambda: lr.Resample(["a", "b"]),
    lambda: encode_written(None, [("a", {})], [(0, 1)]),
    lambda: lr.Prompt((1, 2), evidence=((0, 1),)),
    lambda: lr.Prompt("ab"),
    lambda: lr.ablated(random_model("llama"), lr.Condition({}), prompts=["ab"]).__enter__(),
    lambda: print(lr.Prompt([1, 2], evidence=[1]) == lr.Prompt((1, 2), evidence=(1,))),
):
    try:
        make()
    except lr.InputError as error:
        print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "unknown part 'ffn'",
        "L1.H2 <class 'int'>",
        "noise",
        "a condition's name is a text, not 3",
        "unknown at='start'",
        "a condition maps sites to ablations, not 0",
        "resample",
        "request 0",
        "a prompt's evidence are whole numbers, such as (5, 9), not ((0, 1),)",
        "a prompt's ids are whole numbers, such as (5, 9), not 'ab'",
        "prompts= takes a Prompt for each row, not str",
        "True",
    ]
