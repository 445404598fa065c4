"""The plugin's command-line options."""

from __future__ import annotations

import pytest

ACCEPT = ("new", "changed", "all")


def add_options(parser: pytest.Parser) -> None:
    """Adds all options in a group of their own."""
    group = parser.getgroup("circuitcheck", "circuit preservation (circuitcheck)")
    group.addoption(
        "--circuit-report",
        action="store_true",
        default=None,
        help="print the fragility tables, and fail the run unless everything that was compared passes "
        "(nothing compared: exit code 5)",
    )
    group.addoption(
        "--circuit-report-dir",
        metavar="DIR",
        help="also write report.json, report.md and report.html into DIR (implies --circuit-report)",
    )
    group.addoption(
        "--circuit-figures",
        metavar="DIR",
        help="draw the figures into DIR, as SVG and PNG (implies --circuit-report)",
    )
    group.addoption(
        "--circuit-compare",
        metavar="REPORT",
        help="say what changed since the release of that report.json, per criterion and head (implies "
        "--circuit-report)",
    )
    group.addoption(
        "--circuit-model",
        metavar="ID_OR_DIR",
        help="the reference: a Hugging Face directory, a hub id, or 'embedded' (default)",
    )
    group.addoption(
        "--circuit-candidate",
        metavar="SPEC",
        action="append",
        help="what to gate: a saved directory, a .gguf file, or a precision that is made from the reference: "
        "f32, f16, bf16, int8-sim (a simulation), int8-rtn, int4-rtn, int3-rtn, int2-rtn, with torchao int8, "
        "int8-weight, int4-weight, float8-weight, with bitsandbytes bnb-int8, bnb-nf4; repeatable (default: the first "
        "four precisions)",
    )
    group.addoption(
        "--circuit-task",
        metavar="NAME_OR_FILE",
        action="append",
        help="ioi, facts, induction, or a .jsonl file of prompt pairs; repeatable (default: those three)",
    )
    group.addoption("--circuit-baselines", metavar="DIR", help="where golden baselines lie (default: baselines)")
    group.addoption(
        "--circuit-accept",
        choices=ACCEPT,
        help="record golden baselines from the reference instead of comparing: those that are missing (new), "
        "those that exist and differ (changed), or both (all); needs --circuit-reason",
    )
    group.addoption(
        "--circuit-reason", metavar="TEXT", help="why the present reference is accepted; kept in the baseline"
    )
    group.addoption(
        "--circuit-accept-in-ci",
        action="store_true",
        help="allow --circuit-accept where the environment variable CI is set",
    )
    group.addoption(
        "--circuit-calibrate",
        action="store_true",
        help="measure the reference against its golden baselines under every source of noise (threads, batches, prompt "
        "order, attention kernels, loading) and store the noise floor in them, instead of comparing candidates",
    )
    group.addoption(
        "--circuit-against-base",
        action="store_true",
        default=None,
        help="measure the reference in this run and compare with that, instead of trusting the stored baselines; takes "
        "any number of prompts and any specification",
    )
    group.addoption(
        "--circuit-multiverse",
        action="store_true",
        default=None,
        help="repeat every verdict under each ablation, metric and choice of positions, and report how often it flips "
        "(loads the reference)",
    )
    group.addoption(
        "--circuit-keep",
        action="store_true",
        default=None,
        help="for every candidate that fails, search for the fewest projections that must stay in high precision for "
        "it to pass (loads the reference)",
    )
    group.addoption("--circuit-prompts", metavar="N", type=int, help="prompt pairs of each built-in task (default: 64)")
    group.addoption(
        "--circuit-part",
        metavar="N",
        type=int,
        help="solved prompts that drift, gradients and repair use; baselines grow with it (default: 32)",
    )
    group.addoption(
        "--circuit-ablation",
        choices=("resample", "mean", "zero"),
        help="ablation whose importances are compared (default: resample)",
    )
    group.addoption(
        "--circuit-metric",
        metavar="NAME",
        help="what is measured of a prompt: logit_difference, log_probability (of the answer), or "
        "package.module:function for a Python function of the model's output (default: logit_difference)",
    )
    group.addoption(
        "--circuit-ablate-at",
        choices=("all", "answer"),
        help="positions whose z an ablation replaces: all, or the answer position only (default: all)",
    )
    group.addoption(
        "--circuit-positions",
        choices=("all", "answer"),
        help="positions at which baselines keep z: all, or the answer position only, which makes the baselines of "
        "large models small and drift and repair blind to earlier positions (default: all)",
    )
    group.addoption(
        "--circuit-sweep",
        choices=("exact", "screened"),
        help="ablate every head (exact), or, for models with many heads, those that the reference's gradients point to "
        "and a random sample of the rest, from which the report says what may have been missed (default: exact)",
    )
    group.addoption(
        "--circuit-memory",
        metavar="SIZE",
        help="byte budget of the sweeps beside the model, such as 800M or 2GB (default: half of what is free)",
    )
    group.addoption(
        "--circuit-device", metavar="DEVICE", help="where models run: auto, cpu, cuda, cuda:1, ... (default: auto)"
    )
    group.addoption(
        "--circuit-dtype",
        choices=("auto", "f32", "f16", "bf16"),
        help="type that saved candidates are loaded in (default: auto, as they were saved)",
    )
    group.addoption(
        "--circuit-download",
        action="store_true",
        default=None,
        help="fetch candidates that are hub ids (owner/name); without it every candidate is local",
    )
    group.addoption(
        "--circuit-allow-inconclusive",
        action="store_true",
        default=None,
        help="skip, instead of fail, what cannot be decided; it is never shown as passed",
    )
