"""Choosing serving rows: by rules that see the runs alone, and the same rows each time."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from attncast.validation import curate
from attncast.validation.calibrate import MIN_ROWS
from attncast.validation.curate import MORE, main, phase, select, shape, windowed
from attncast.validation.measured import load_runs

HEADER = (
    "framework,version,device,op_name,kernel_source,batch_size,isl,num_heads,num_key_value_heads,head_dim,attn_dtype,"
    "kv_cache_dtype,step,latency,window_size"
)
BATCHES, LENGTHS, DIMS = (1, 2, 4, 8), (64, 1024, 4096, 16384), (64, 128)
H100, A100 = ("SGLang,0.5.14", "H100-SXM-80GB", "fa3"), ("TRTLLM,1.0.0", "A100-SXM-80GB", "torch_flow")


def line(engine, kind, batch, new, cached, dim, latency_ms, window):
    framework, device, kernel = engine
    return (
        f"{framework},{device},{kind}_attention,{kernel},{batch},{new},32,8,{dim},bfloat16,bfloat16,{cached},"
        f"{latency_ms:.6f},{window}"
    )


def table(engine=H100):
    lines = []
    for batch in BATCHES:
        for keys in LENGTHS:
            for dim in DIMS:
                for window in (0, 128):
                    seen = min(window or keys, keys)
                    prefill_ms = 0.012 + batch * keys * seen * dim * 32 * 4 / 2e14 * 1e3
                    decode_ms = 0.012 + batch * seen * dim * 8 * 4 / 1e12 * 1e3
                    lines.append(line(engine, "context", batch, keys, 0, dim, prefill_ms, window))
                    lines.append(line(engine, "generation", batch, 1, keys, dim, decode_ms, window))
    return lines


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    path = tmp_path_factory.mktemp("curate") / "table.csv"
    path.write_text("\n".join([HEADER, *table(), *table(A100)]))
    return curate.import_runs("aiconfigurator", path).runs


def test_the_same_runs_give_the_same_rows_in_any_order(runs):
    chosen, _ = select(runs)
    mixed = list(runs)
    random.Random(1).shuffle(mixed)
    assert select(mixed)[0] == chosen
    assert len({run.id for run in chosen}) == len(chosen)
    assert {run.id for run in select(runs, seed=1)[0]} != {run.id for run in chosen}


def test_every_stratum_decade_and_head_dim_has_its_turn(runs):
    chosen, left_out = select(runs)
    drawn = Counter((run.gpu, phase(run)) for run in chosen)
    assert min(drawn.values()) == 20  # few rows: the smallest quota
    assert all(count > 20 for key, count in drawn.items() if key[0] in MORE)  # as many as there are
    eligible = [
        run for run in runs if run.time_s >= curate.LEAST_TIME_S and (run.gpu, phase(run)) != ("a100", "decode")
    ]
    assert sum(left_out.values()) == len(runs) - len(eligible)
    for group in {(run.gpu, phase(run)) for run in eligible}:
        there, cut = (
            Counter(windowed(run) for run in members if (run.gpu, phase(run)) == group)
            for members in (eligible, chosen)
        )
        # Of enough to be fitted, as many as a fit by folds wants.
        enough = curate.OF_A_USE if sum(there.values()) >= MIN_ROWS else MORE.get(group[0], 20)
        drawn_here = min(enough, sum(there.values()))
        assert cut[True] == min(drawn_here // 2, there[True]) or drawn_here == sum(there.values())
        assert cut[True] + cut[False] == drawn_here
    assert {run.head_dim for run in chosen} == set(DIMS)
    assert all(run.time_s >= curate.LEAST_TIME_S for run in chosen)


def test_windows_bring_their_partners(runs):
    chosen, _ = select(runs)
    causal = {shape(run) for run in chosen if run.pattern == "causal"}
    cut = [run for run in chosen if windowed(run)]
    assert sum(shape(run) in causal for run in cut) >= len(cut) / curate.PARTNER_EVERY


def test_a_window_that_holds_every_key_is_none(runs):
    short = [run for run in runs if run.grid == "64" and run.pattern != "causal"]
    assert short
    assert not any(windowed(run) for run in short)


def test_what_is_left_out_is_counted(runs):
    chosen, left_out = select(runs)
    assert not [run for run in chosen if (run.gpu, phase(run)) == ("a100", "decode")]
    decode = sum((run.gpu, phase(run)) == ("a100", "decode") for run in runs)
    assert [count for reason, count in left_out.items() if "DRAM" in reason] == [decode]


def test_quotas_are_shared_and_a_small_stratum_leaves_its_rest():
    assert curate._shares({("a",): 3, ("b",): 100, ("c",): 100}, 20) == {("a",): 3, ("b",): 8, ("c",): 9}
    assert curate._quota("h100", 1500) == 200
    assert curate._quota("rtx-pro-6000", 1500) == 20
    assert curate._quota("b200", 7) == 7


def test_the_command_writes_the_rows_or_one_sentence(tmp_path, runs, capsys):
    source, out = tmp_path / "table.csv", tmp_path / "rows.csv"
    source.write_text("\n".join([HEADER, *table()]))
    main([str(source), "-o", str(out)])
    assert {run.id for run in load_runs(out)} <= {run.id for run in runs}
    printed = capsys.readouterr().out
    assert f"{len(select([run for run in runs if run.gpu == 'h100'])[0])} of 128 rows written to {out}" in printed
    assert "below 15 us" in printed
    for wrong in (tmp_path / "none.csv", out):
        with pytest.raises(SystemExit) as ended:
            main([str(wrong), "-o", str(tmp_path / "other.csv")])
        assert ended.value.code == 2
        assert str(wrong) in capsys.readouterr().err
    source.write_text("\n".join([HEADER, line(H100, "context", 1, 64, 0, 64, 0.010, 0)]))
    with pytest.raises(SystemExit):
        main([str(source), "-o", str(tmp_path / "other.csv")])
    assert "none of the 1 runs" in capsys.readouterr().err
    assert not (tmp_path / "other.csv").exists()
